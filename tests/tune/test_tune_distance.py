"""How far prompts are from the tuning set: alike, worded otherwise, unlikely; and against scores of single prompts."""

import json
from pathlib import Path

import pytest

from inkstone.chat import CHATML, Message, encode_chat
from inkstone.errors import InputError
from inkstone.generate import score
from inkstone.model import load_model
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.tune import SFTSettings, Work
from inkstone.tune.distance import prompt_distance

TUNED = [f"你好，世界！{number} + 7?" for number in range(64)]


def distance(prompts: list[str], base_dir: Path, folder: Path, lines: str = "") -> dict[str, object]:
    chats = [{"instruction": text, "output": "明月照我还。"} for text in TUNED]
    file = folder / "chats.jsonl"
    file.write_text(lines or "".join(json.dumps(row) + "\n" for row in chats))
    settings = SFTSettings.model_validate(
        {"inputs": ["x"], "method": "grpo", "sequence_length": 64, "batch_tokens": 64, "device": "cpu"}
    )
    work = Work(settings, [], base_dir, folder, folder, Silent(), tuned_on=[file] if prompts else [])
    told = prompt_distance(work, load_model(base_dir), CHATML, Tokenizer.load(base_dir), prompts)
    return told.get("prompts", {})  # type: ignore[return-value]


def test_prompts_worded_like_the_tuning_set_are_near_and_others_far(base_dir: Path, tmp_path: Path) -> None:
    near = distance([text.replace("7", "12") for text in TUNED], base_dir, tmp_path)
    assert near["new_pairs"] == pytest.approx(near["tuning_new_pairs"], abs=0.1) and near["far"] is False
    assert near["loss"] == pytest.approx(near["tuning_loss"], abs=0.1)
    mixed = distance([*TUNED, *["The answer is what, Hello hello"] * 36], base_dir, tmp_path)
    assert 0.3 < mixed["new_pairs"] < 0.4 and mixed["far"] is True
    assert (
        f"{mixed['new_pairs']:.0%} are new to the tuning set, of its own prompts' {mixed['tuning_new_pairs']:.0%};"
        in str(mixed["said"])
    )
    assert "the prompts are far from what the base was tuned on" in str(mixed["said"])


def test_the_loss_is_of_the_prompts_own_tokens_under_the_base(base_dir: Path, tmp_path: Path) -> None:
    prompts, tokenizer = ["Hello, what is 12", "你好 你好"], Tokenizer.load(base_dir)
    told = distance(prompts, base_dir, tmp_path)
    pairs = []
    for text in prompts:
        ids, weights = encode_chat([Message("user", text, 1.0)], CHATML, tokenizer)
        said = [token for token, weight in zip(ids, weights, strict=True) if weight]
        assert said[:-1] == tokenizer.encode(text)  # and the mark that ends the turn
        first = weights.index(1.0)
        pairs.append((ids[:first], said))
    scored = score(load_model(base_dir), pairs)
    assert told["loss"] == pytest.approx(-sum(s.logprob for s in scored) / sum(s.tokens for s in scored), abs=1e-3)


def test_nothing_is_said_without_a_tuning_set_and_one_of_no_use_is_refused(base_dir: Path, tmp_path: Path) -> None:
    assert distance([], base_dir, tmp_path) == {}
    with pytest.raises(InputError, match=r"chats\.jsonl"):
        distance(["Hello"], base_dir, tmp_path, lines='{"instruction": ""}\n')
