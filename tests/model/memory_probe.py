"""Run by test_model_memory.py in a process of its own: what each job on a checkpoint takes in memory.

    python memory_probe.py DIRECTORY TARGET

Converts the checkpoint to bfloat16, extends its vocabulary, loads a quarter of it, loads all of it and runs it from its
file; prints as JSON, for each job, the peak of resident MiB above its start and, at its end, the MiB of private memory
(not mapped file pages).
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from inkstone.model import load_model
from inkstone.model.files.convert import convert_model
from inkstone.model.files.offload import Offload
from inkstone.model.files.slices import load_slices
from inkstone.model.files.vocabulary import extend_model
from inkstone.tokenizer import Extension, Tokenizer
from inkstone.tokenizer.bpe.train import assemble
from inkstone.tokenizer.extend import append


def status(key: str) -> float:
    """MiB of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024


def measure(job: Callable[[], object]) -> tuple[int, int]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, private = status("VmRSS"), status("RssAnon")
    kept = job()
    result = round(status("VmHWM") - before), round(status("RssAnon") - private)
    del kept
    return result


def extend_vocabulary(source: Path, target: Path) -> object:
    """Give the model 100 tokens more, each made of two old ones."""
    characters = [chr(point) for point in range(0x4E00, 0x4E00 + 200)]
    base = Tokenizer(assemble(characters, []))
    pieces = [first + second for first, second in zip(characters[::2], characters[1::2], strict=True)]
    tokenizer, added = append(base, pieces, 100)
    target.mkdir()
    return extend_model(source, base, Extension(tokenizer, added, {}), target, max_shard_bytes=30_000_000)


def main() -> None:
    torch.set_num_threads(1)
    source, target = map(Path, sys.argv[1:])
    jobs: dict[str, Callable[[], object]] = {
        "convert": lambda: convert_model(source, target, dtype=torch.bfloat16, max_shard_bytes=30_000_000),
        "extend": lambda: extend_vocabulary(source, target.with_name("extended")),
        "slice": lambda: load_slices(source, 1, 4, torch.bfloat16),
        "load": lambda: load_model(source, torch.bfloat16),
        "offload": lambda: (lambda model: (model, model(torch.tensor([[1, 2, 3]]))))(
            load_model(source, torch.bfloat16, offload=Offload(mapped=True))
        ),
    }
    print(json.dumps({name: measure(job) for name, job in jobs.items()}))


if __name__ == "__main__":
    main()
