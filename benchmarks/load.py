"""Loading a checkpoint: ours beside transformers' from_pretrained, the same random sharded llama of 1.7 GB in bfloat16.

    python benchmarks/load.py                                    # 3 rounds x warm and cold x bfloat16 and float32
    python benchmarks/load.py --layers 2 --rounds 1              # does it work?

Every measurement is a process of its own that first loads a tiny model, so that imports are not counted; the order of
the systems turns round after each round. "Cold" means that the files were dropped from the page cache before
(posix_fadvise), so the disk is read; "warm" that they were read just before. A mapped model has only begun to exist
when it is loaded, so the time to the first token (load and one forward of 8 tokens) stands beside the time to load.
Memory is the peak above the state before loading: resident, and the private part of it, which the system cannot take
back as it can pages of a mapped file. All systems' logits are compared.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SYSTEMS = {
    "inkstone": "inkstone, as it comes (mapped, checked for NaN)",
    "inkstone-unchecked": "inkstone, check=False",
    "inkstone-copied": "inkstone, mapped=False",
    "transformers": "transformers from_pretrained",
}
TOKENS = [[1, 17, 300, 4, 2900, 31, 7, 8]]


@dataclass(frozen=True)
class Measured:
    """One process."""

    load_seconds: float
    first_token_seconds: float
    cpu_seconds: float
    peak_mib: float
    peak_private_mib: float
    logits: list[float]


# ---- one measurement, in its own process


def work(options: argparse.Namespace) -> Measured:
    import torch

    dtype = getattr(torch, options.dtype[0])
    load = loader(options.worker, dtype)
    load(options.folder / "tiny")(torch.tensor(TOKENS))
    drop_or_read(options.folder, options.cache[0])
    watch = Memory()
    started, cpu = time.perf_counter(), cpu_seconds()
    forward = load(options.folder)
    loaded = time.perf_counter()
    with torch.inference_mode():
        logits = forward(torch.tensor(TOKENS))[0, -1].float()
    ended, cpu = time.perf_counter(), cpu_seconds() - cpu
    peak, private = watch.stop()
    return Measured(loaded - started, ended - started, cpu, peak, private, logits[:64].tolist())


def loader(system: str, dtype: Any) -> Callable[[Path], Callable[[Any], Any]]:
    """A function that loads a directory and returns tokens -> logits."""
    if system.startswith("inkstone"):
        from inkstone.model import load_model

        mapped, check = system != "inkstone-copied", system != "inkstone-unchecked"
        return lambda directory: load_model(directory, dtype, mapped=mapped, check=check)
    import transformers

    transformers.utils.logging.disable_progress_bar()

    def load(directory: Path) -> Callable[[Any], Any]:
        model = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        return lambda tokens: model(tokens).logits

    return load


def drop_or_read(directory: Path, cache: str) -> None:
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as stream:
            if cache == "cold":
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while stream.read(1 << 24):
                    pass


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Memory:
    """Peaks above the start, in MiB: resident by the kernel's own mark, private by looking every few milliseconds."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.start, self.start_private = self.read("VmRSS"), self.read("RssAnon")
        self.private, self.running = self.start_private, True
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self) -> None:
        while self.running:
            self.private = max(self.private, self.read("RssAnon"))
            time.sleep(0.005)

    def stop(self) -> tuple[float, float]:
        self.running = False
        self.thread.join()
        self.private = max(self.private, self.read("RssAnon"))
        return self.read("VmHWM") - self.start, self.private - self.start_private

    def read(self, key: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) / 1024


# ---- the comparison


def write_checkpoint(directory: Path, layers: int, hidden: int = 2048) -> float:
    """A random llama in shards of 500 MB; GB written."""
    import torch

    from inkstone.model import DecoderConfig
    from inkstone.model.families import writing_family
    from inkstone.model.files.directory import config_values
    from inkstone.model.files.safetensors_file import Entry
    from inkstone.model.files.weight_shards import write_json, write_weights
    from inkstone.model.files.weights import decoder_shapes

    config = DecoderConfig(
        vocab_size=32000, hidden_size=hidden, intermediate_size=11 * hidden // 4, num_layers=layers, num_heads=32,
        num_kv_heads=4, head_dim=hidden // 32, max_positions=2048,
    )  # fmt: skip
    entries = {name: Entry(shape, torch.bfloat16) for name, shape in decoder_shapes(config).items()}
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)

    def draw(name: str) -> torch.Tensor:
        noise = torch.randn(entries[name].shape, generator=generator) * 0.02
        return (noise + 1 if noise.dim() == 1 else noise).to(torch.bfloat16)

    write_weights(directory, entries, draw, 500_000_000)
    ids: dict[str, object] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    write_json(directory / "config.json", config_values(writing_family(config), config, torch.bfloat16, ids))
    os.sync()
    return sum(entry.num_bytes for entry in entries.values()) / 1e9


def measure(system: str, dtype: str, cache: str, directory: Path) -> Measured:
    """Run one system in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--worker", system, "--dtype", dtype, "--cache", cache]
        command += ["--folder", str(directory), "--json", str(result)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{system} failed: {done.stderr}")
        return Measured(**json.loads(result.read_text(encoding="utf-8")))


def compare(dtype: str, cache: str, options: argparse.Namespace) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {name: [] for name in options.systems}
    for number in range(options.rounds):
        for name in options.systems if number % 2 == 0 else reversed(options.systems):
            found[name].append(measure(name, dtype, cache, options.folder))
    return found


def print_table(found: dict[str, list[Measured]]) -> None:
    """Medians, and how many times as long (or as much) each system takes as ours."""

    def median(name: str, figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in found[name])

    print(f"  {'system':50}{'load':>9}{'first token':>13}{'CPU':>9}{'resident':>12}{'private':>12}{'ours is':>10}")
    for name in found:
        ratio = median(name, "first_token_seconds") / median("inkstone", "first_token_seconds")
        print(
            f"  {SYSTEMS[name]:50}{median(name, 'load_seconds'):8.2f}s{median(name, 'first_token_seconds'):12.2f}s"
            f"{median(name, 'cpu_seconds'):8.2f}s{median(name, 'peak_mib'):8,.0f} MiB"
            f"{median(name, 'peak_private_mib'):8,.0f} MiB{ratio:9.2f}x"
        )
    logits = [run.logits for runs in found.values() for run in runs]
    apart = max(abs(one - other) for row in logits for one, other in zip(row, logits[0], strict=True))
    largest = max(abs(value) for value in logits[0])
    print(f"  logits differ by at most {apart:.2g} (the largest is {largest:.2g})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16, help="of the random llama; 16 are 1.7 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], help="that the weights are loaded in")
    parser.add_argument("--cache", nargs="+", default=["warm", "cold"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--folder", type=Path, help="where to write the checkpoint; default: a temporary directory")
    parser.add_argument("--worker", choices=SYSTEMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.worker:
        options.json.write_text(json.dumps(asdict(work(options))), encoding="utf-8")
        return
    import torch
    import transformers

    versions = f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{len(os.sched_getaffinity(0))} cores, load average {load}, {versions}")
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        size = write_checkpoint(options.folder, options.layers)
        write_checkpoint(options.folder / "tiny", 1, 64)
        for dtype in options.dtype:
            for cache in options.cache:
                print(f"\n{size:.2f} GB of bfloat16 into {dtype}, {cache} page cache", flush=True)
                found = compare(dtype, cache, options)
                print_table(found)
                figures[f"{dtype} {cache}"] = {name: [asdict(run) for run in runs] for name, runs in found.items()}
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
