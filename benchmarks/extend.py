"""Extend random models that have LLaMA's real vocabulary, by 25,000 Chinese tokens with 6,414 characters tried.

    python benchmarks/extend.py ../shared/data --work /some/directory
    python benchmarks/extend.py ../shared/data --work /some/directory --growth 0.25,1,4     # memory only, GB

For llama and mixtral, each a small model in several shards: what `inkstone tokenizer extend` saves on the shared
Chinese text, its time and memory; whether transformers gives the old logits for old tokens; and the loss of continued
training on Chinese by our own trainer. `--growth`: peak memory of writing the extended weights of models of several
sizes, one process each. Needs transformers. Two cores: about six minutes, growth about two more.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from inkstone.model import load_model
from inkstone.model.files.vocabulary import extend_model
from inkstone.progress import Silent
from inkstone.tokenizer import Extension, Tokenizer
from inkstone.tokenizer.extend import append
from inkstone.tokenizer.study.compare import read_text
from inkstone.train import InOrder, Row, TrainSettings, train

SMALL = {"vocab_size": 32000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
LEFT_OUT = "classical_modern_bitext"
ENGLISH = ("wiki_demo", "books_public_domain", "python_docs_en")  # its ids must not change
LENGTH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory with pretrain/ and tokenizers/")
    parser.add_argument("--work", type=Path, required=True, help="where models are written and removed again")
    parser.add_argument("--add", default="25000")
    parser.add_argument("--characters", default="6414")
    parser.add_argument("--steps", type=int, default=50, help="of continued training")
    parser.add_argument("--growth", default="", help="sizes in GB: measure the memory of rewriting weights instead")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.probe:
        probe(options.data, options.probe)
    elif options.growth:
        growth(options)
    else:
        for kind in ("llama", "mixtral"):
            extend(kind, options)


def extend(kind: str, options: argparse.Namespace) -> None:
    base, output = options.work / f"{kind}-base", options.work / f"{kind}-extended"
    for folder in (base, output):
        shutil.rmtree(folder, ignore_errors=True)
    random_model(kind, base, options.data)
    files = sorted(path for path in (options.data / "pretrain/zh").glob("*.zst") if LEFT_OUT not in path.name)
    files += [options.data / f"pretrain/en/{name}.jsonl.zst" for name in ENGLISH]
    command = [
        sys.executable,
        "-c",
        "from inkstone.cli import main; main()",
        "tokenizer",
        "extend",
        str(base),
        *map(str, files),
    ]
    command += ["-o", str(output), "--add", options.add, "--characters", options.characters]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads((output / "extension.json").read_text(encoding="utf-8"))
    tokens = report["tokens"]
    print(
        f"{kind}: {report['base_vocab_size']} -> {report['vocab_size']} tokens, {report['added_characters']} of them "
        f"characters; {tokens['chinese_characters']:,} Chinese characters: {tokens['before']:,} -> {tokens['after']:,} "
        f"tokens, {tokens['saved']:.1%} saved; {report['text_without_chinese']['characters']:,} characters without "
        f"Chinese: {report['text_without_chinese']['ids_changed']} ids changed\n"
        f"  {time.perf_counter() - started:.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU-seconds so far, peak "
        f"{used.ru_maxrss / 1e6:.2f} GB; files {sorted(path.name for path in output.iterdir())}",
        flush=True,
    )
    print(f"  old tokens, largest difference of logits in transformers: {same_logits(base, output)}", flush=True)
    print(f"  loss per step on Chinese: {losses(output, options)}", flush=True)


def random_model(kind: str, folder: Path, data: Path) -> None:
    """A directory as published: sharded weights and LLaMA's vocabulary."""
    import transformers

    torch.manual_seed(0)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    else:
        model = transformers.MixtralForCausalLM(
            transformers.MixtralConfig(**SMALL, num_local_experts=4, sliding_window=None)
        )
    model.save_pretrained(folder, max_shard_size="5MB")
    Tokenizer.load(data / "tokenizers/llama-spm.gguf").save(folder)


def same_logits(base: Path, output: Path) -> float:
    """Largest difference between the logits of old tokens, for a text of old tokens."""
    import transformers

    ids = torch.tensor([Tokenizer.load(base).encode("The river runs to the sea; 明月 is the moon, 2024.")])
    with torch.no_grad():
        old, new = (transformers.AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (base, output))
    return float((new[..., : old.shape[-1]] - old).abs().max())


@dataclass
class Rows:
    """Chinese text as rows of LENGTH tokens."""

    tokens: np.ndarray

    @property
    def rows_per_epoch(self) -> int:
        return len(self.tokens) // LENGTH

    def row(self, epoch: int, index: int) -> Row:
        del epoch
        tokens = self.tokens[index * LENGTH : (index + 1) * LENGTH].astype(np.int64)
        zeros, ones = np.zeros(LENGTH, np.int64), np.ones(LENGTH, np.float32)
        return Row(tokens, np.arange(LENGTH), zeros, ones)


def losses(directory: Path, options: argparse.Namespace) -> str:
    """First and last loss of continued training by our own trainer, from the extended directory."""
    text = next(iter(read_text(options.data / "pretrain/zh/novels_public_domain.jsonl.zst", 300_000)))
    tokens, _ = Tokenizer.load(directory).encode_flat(text.documents)
    settings = TrainSettings(
        sequence_length=LENGTH, batch_tokens=4 * LENGTH, max_steps=options.steps, log_steps=1, warmup_steps=10,
        learning_rate=2e-3, device="cpu", dtype="float32", compile="off",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        train(load_model(directory, torch.float32), InOrder(Rows(tokens)), settings, Path(scratch), Silent())
        lines = (Path(scratch) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    return f"{found[0]:.3f} -> {found[-1]:.3f} in {options.steps} steps"


def growth(options: argparse.Namespace) -> None:
    """Peak memory of rewriting random Mixtral weights of several sizes, one process each."""
    for size in map(float, options.growth.split(",")):
        folder = options.work / "growing"
        shutil.rmtree(folder, ignore_errors=True)
        written = random_mixtral(folder, int(size * 1e9))
        command = [sys.executable, __file__, str(options.data), "--work", str(options.work), "--probe", str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{written / 1e9:.2f} GB of weights: {done.stdout.strip()}", flush=True)
        shutil.rmtree(folder)


def random_mixtral(folder: Path, size: int) -> int:
    """Shards of about 250 MB in bfloat16, as many layers as it takes; returns the bytes written."""
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 32000, "rope_theta": 1e6,
              "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 4,
              "num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
              "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16"}  # fmt: skip
    folder.mkdir()
    wide, inner, weight_map, total, layer = 1024, 2048, {}, 0, 0
    random = torch.Generator().manual_seed(0)

    def shard(shapes: dict[str, tuple[int, ...]], name: str) -> None:
        nonlocal total
        tensors = {key: torch.randn(*shape, generator=random).mul_(0.02).bfloat16() for key, shape in shapes.items()}
        save_file(tensors, folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
        total += sum(tensor.nbytes for tensor in tensors.values())

    ends = {"model.embed_tokens.weight": (32000, wide), "lm_head.weight": (32000, wide), "model.norm.weight": (wide,)}
    shard(ends, "model-ends.safetensors")
    while total < size:
        prefix = f"model.layers.{layer}."
        attention = {
            "q_proj": (wide, wide),
            "k_proj": (wide // 2, wide),
            "v_proj": (wide // 2, wide),
            "o_proj": (wide, wide),
        }
        shapes: dict[str, tuple[int, ...]] = {
            f"{prefix}self_attn.{key}.weight": shape for key, shape in attention.items()
        }
        shapes |= {f"{prefix}{key}.weight": (wide,) for key in ("input_layernorm", "post_attention_layernorm")}
        shapes[f"{prefix}block_sparse_moe.gate.weight"] = (8, wide)
        for expert in range(8):
            for key, shape in (("w1", (inner, wide)), ("w2", (wide, inner)), ("w3", (inner, wide))):
                shapes[f"{prefix}block_sparse_moe.experts.{expert}.{key}.weight"] = shape
        shard(shapes, f"model-{layer:05d}.safetensors")
        layer += 1
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layer}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return total


def probe(data: Path, source: Path) -> None:
    """Extend the weights of `source` by 25,000 rows and say what memory that took above the start."""
    base = Tokenizer.load(data / "tokenizers/llama-spm.gguf")
    characters = [chr(point) for point in range(0x4E00, 0x4E00 + 20000)]
    tokenizer, added = append(base, [one for one in characters if not base.has_token(one)], 15000)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS"), memory("RssAnon")
    target = source / "extended"
    target.mkdir()
    started = time.perf_counter()
    extend_model(source, base, Extension(tokenizer, added, {}), target)
    print(
        f"peak {memory('VmHWM') - before[0]:.0f} MiB above the start (mapped pages included), "
        f"{time.perf_counter() - started:.0f} s"
    )


def memory(key: str) -> float:
    """MiB of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
