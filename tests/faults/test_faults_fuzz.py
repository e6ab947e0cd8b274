"""Damaged and hostile input of every kind: a sentence or a result, never a traceback, within 30 s and a gigabyte.

The cases run in a process of their own (`fuzz.py`), so that its memory is theirs and a panic of a library is seen.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KINDS = (
    "config", "companions", "tokenizer", "sentencepiece", "gguf", "safetensors", "shards", "pickles", "conversations",
    "texts", "recipe", "finished", "questions", "benchmarks", "gguf_weights",
    "adapters", "packed", "tokens", "checkpoints", "requests",
)  # fmt: skip


def fuzz(seed: int, cases: int, *kinds: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("fuzz.py")), str(seed), str(cases), *kinds]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.fixture(scope="module")
def some() -> dict[str, Any]:
    return fuzz(1, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_ends_with_a_result_or_a_sentence(kind: str, some: dict[str, Any]) -> None:
    # Some damage is refused and some is harmless: else the kind would show nothing. Texts lose rows instead.
    assert kind == "texts" or 0 < some["sentences"][kind] < 30
    assert [fault for fault in some["faults"] if fault["kind"] == kind] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_inputs_end_with_a_result_or_a_sentence(kind: str) -> None:
    assert fuzz(2, 10_000 // len(KINDS) + 1, kind)["faults"] == []
