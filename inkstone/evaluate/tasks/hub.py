"""Benchmarks by name from the hub (`--data hub`): which files of which data set, at which commit.

Files are as their authors publish them, Parquet or CSV in a zip; what a repository holds of code is neither fetched nor
run. They are downloaded once, into the hub's own cache.
"""

from pathlib import Path

from inkstone.errors import InputError
from inkstone.model.files.hub import hub_file

HUB = Path("hub")
"""What --data says."""
ONE = "00000-of-00001.parquet"
_ARC = ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453")
DATA_SETS = {
    "ceval": ("ceval/ceval-exam", "3923b519fd180e689d0961bf3a032ece929742f3", "ceval-exam.zip"),
    "cmmlu": ("lmlmcat/cmmlu", "efcc940752ea4a1ea94d2727f11f83858d64fc8e", "cmmlu_v1_0_1.zip"),
    "mmlu": ("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", f"all/dev-{ONE}", f"all/test-{ONE}"),
    "hellaswag": ("Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", f"data/validation-{ONE}"),
    "arc_easy": (*_ARC, f"ARC-Easy/test-{ONE}"),
    "arc_challenge": (*_ARC, f"ARC-Challenge/test-{ONE}"),
    "piqa": ("lighteval/piqa", "41782e6bf0ef7de82a2ca8a9feb1dca042837fae", f"plain_text/validation-{ONE}"),
    "openbookqa": ("allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454", f"main/test-{ONE}"),
    "boolq": ("google/boolq", "35b264d03638db9f4ce671b711558bf7ff0f80d5", f"data/validation-{ONE}"),
    "winogrande": (
        "allenai/winogrande", "01e74176c63542e6b0bcb004dcdea22d94fb67b5", f"winogrande_xl/validation-{ONE}"
    ),
    "lambada": ("EleutherAI/lambada_openai", "900124bf3b8235c6daf21033af9948b3f07346c4", "data/lambada_test.jsonl"),
    "gsm8k": ("openai/gsm8k", "e53f048856ff4f594e959d75785d2c2d37b678ee", f"main/train-{ONE}", f"main/test-{ONE}"),
    "humaneval": (
        "openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544", f"openai_humaneval/test-{ONE}"
    ),
    "cmrc": ("hfl/cmrc2018", "137f2c45a24275fb68f6961c4d357f46288886aa", f"data/validation-{ONE}"),
}  # fmt: skip


def on_hub(data: Path) -> bool:
    """Whether `data` means the hub, and no folder of that name."""
    return data == HUB and not data.exists()


def hub_folder(benchmark: str) -> Path:
    """The folder with a benchmark's files, downloaded where they are not here yet."""
    if benchmark not in DATA_SETS:
        raise InputError(
            f"{benchmark} is not on the hub as its authors publish it: give a folder with --data; "
            f"--data hub has {', '.join(DATA_SETS)}"
        )
    repository, revision, *names = DATA_SETS[benchmark]
    files = [hub_file(repository, revision, name) for name in names]
    return files[0].parent
