"""KTO: its loss against the paper's formula, a level that does not depend on micro-batches, a stage that learns."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from inkstone.chat import CHATML, Message, Verdict
from inkstone.errors import InputError
from inkstone.model import load_model
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.train import Batch
from inkstone.tune import SFTSettings, Work
from inkstone.tune.kto import KtoSettings, Verdicts
from inkstone.tune.noise import NoisyEmbeddings, noise_reach
from inkstone.tune.pairs import PackedPairs
from inkstone.tune.preference import answer_logprobs
from inkstone.tune.stage import sft
from inkstone.tune.verdicts import encode_verdicts, kto

GOOD, BAD = "你好，世界！", "The answer is 7."
VERDICTS = [
    Verdict([Message("user", "你好"), Message("assistant", GOOD)], True),
    Verdict([Message("user", "what is 12 + 7?"), Message("assistant", BAD)], False),
    Verdict([Message("user", "Hello"), Message("assistant", "明月照我还。")], True),
]


def packed(tokenizer: Tokenizer, reference: float = -20.0) -> PackedPairs:
    told = encode_verdicts(VERDICTS, CHATML, tokenizer, 200)
    values = torch.full((3, 2), reference).numpy()
    return PackedPairs(told.pairs, 200, 1, tokenizer.fill_id, values, told.labels)


@pytest.mark.parametrize("last", [None, 4.5, -3.0], ids=["first step", "moved", "an estimate below zero"])
def test_the_loss_is_the_papers_formula(last: float | None, tokenizer: Tokenizer, base_dir: Path) -> None:
    how = KtoSettings(beta=0.3, good_weight=1.5, bad_weight=0.5)
    rows, model = packed(tokenizer), load_model(base_dir)
    batch = Batch.stack([rows.row(0, index) for index in range(rows.rows_per_epoch)])
    figures = {} if last is None else {"divergence": torch.tensor([3 * last]), "pairs": torch.tensor([3.0])}
    outcome = Verdicts(how)(model, batch, figures)
    with torch.no_grad():
        sums, _ = answer_logprobs(model, batch)
    side, label = batch.columns["side"], batch.columns["label"]
    level, expected = max(0.0, last or 0.0), 0.0
    for logprob, good in zip(sums[side > 0].tolist(), label[side > 0].tolist(), strict=True):
        value = how.beta * (logprob + 20.0 - level)
        expected += 1.5 / (1 + math.exp(value)) if good > 0 else 0.5 / (1 + math.exp(-value))
    assert float(outcome.loss) == pytest.approx(expected, rel=1e-4)
    assert Verdicts(how).units(batch) == 3 and sorted(label[side > 0].tolist()) == [-1.0, 1.0, 1.0]


def tiny(**changes: object) -> SFTSettings:
    values = {
        "inputs": ["verdicts.jsonl"], "method": "kto", "sequence_length": 96, "batch_tokens": 288, "epochs": 1000,
        "max_steps": 12, "learning_rate": 5e-3, "warmup_steps": 2, "device": "cpu", "dtype": "float32",
        "compile": "off", "heldout_fraction": 0.0, "log_steps": 2, "checkpoint_steps": 4,
    }  # fmt: skip
    return SFTSettings.model_validate({**values, **changes})


def write(path: Path, count: int = 12) -> Path:
    rows = [
        {"prompt": f"{number} Hello", "completion": GOOD if number % 2 else BAD, "label": bool(number % 2)}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def work(root: Path, base_dir: Path, settings: SFTSettings, progress: Silent | None = None) -> Work:
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    places = (root / "output", root / "scratch", progress or Silent())
    return Work(settings, [write(root / "verdicts.jsonl")], base_dir, *places)


class Stops(Silent):
    """Asks to stop after step 6."""

    steps = 0

    def advance(self, done: float, total: float | None, unit: str, **fields: object) -> None:
        self.steps = int(done) if unit == "steps" else self.steps

    def should_stop(self) -> bool:
        return self.steps >= 6


def metrics(root: Path) -> list[dict[str, float]]:
    lines = (root / "output" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "good_reward" in row]


def test_good_answers_gain_on_bad_ones(base_dir: Path, tmp_path: Path) -> None:
    result = kto(work(tmp_path, base_dir, tiny(max_steps=40, kto={"beta": 0.5})))
    rows = metrics(tmp_path)
    assert result["good"] == result["bad"] == 6
    assert rows[-1]["good_reward"] > rows[-1]["bad_reward"] + 1.0
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_micro_batches_do_not_change_what_is_learned(base_dir: Path, tmp_path: Path) -> None:
    found = []
    for name, micro in (("one", 288), ("three", 96)):
        kto(work(tmp_path / name, base_dir, tiny(max_steps=6, micro_batch_tokens=micro)))
        found.append(load_model(tmp_path / name / "output").state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], atol=1e-5, rtol=1e-3)


def test_a_resumed_run_ends_like_an_uninterrupted_one(base_dir: Path, tmp_path: Path) -> None:
    settings = tiny(adapter="lora", lora={"rank": 4, "dropout": 0.2})
    kto(work(tmp_path / "whole", base_dir, settings))
    with pytest.raises(KeyboardInterrupt):
        kto(work(tmp_path / "stopped", base_dir, settings, Stops()))
    kto(work(tmp_path / "stopped", base_dir, settings))
    one, other = (load_model(tmp_path / name / "output").state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_kind_of_verdict_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r'every answer is good: kto needs both kinds .*method = "sft"'):
        encode_verdicts([one for one in VERDICTS if one.good], CHATML, tokenizer, 96)


# NEFTune


def chats(path: Path) -> Path:
    rows = [{"instruction": "Hello", "output": GOOD}, {"instruction": "你好", "output": "Hello, world"}] * 4
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def tune(root: Path, base_dir: Path, alpha: float, progress: Silent | None = None) -> dict[str, torch.Tensor]:
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    settings = tiny(method="sft", neftune_alpha=alpha, max_steps=9)
    sft(Work(settings, [chats(root / "c.jsonl")], base_dir, root / "output", root / "scratch", progress or Silent()))
    return load_model(root / "output").state_dict()


def test_noise_reaches_as_far_as_each_documents_own_length_says() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 2, 2]])
    batch = Batch(documents, documents, documents, documents.float(), torch.tensor([0, 3, 4, 6]), 3, {})
    expected = [5 / math.sqrt(length * 16) for length in (3, 3, 3, 1, 2, 2)]
    assert noise_reach(batch, 5.0, 16)[0].tolist() == pytest.approx(expected)


def test_noise_is_added_in_training_only_and_within_its_reach(tokenizer: Tokenizer, base_dir: Path) -> None:
    model, rows = load_model(base_dir), packed(tokenizer)
    batch = Batch.stack([rows.row(0, 0)])
    seen: list[torch.Tensor] = []
    model.model.layers[0].register_forward_hook(lambda module, given, out: seen.append(given[0].detach()))
    NoisyEmbeddings(5.0)(model, batch, {})
    with torch.no_grad():
        NoisyEmbeddings(5.0)(model, batch, {})
        plain = nn.functional.embedding(batch.tokens, model.model.embed_tokens.weight)
    share = (seen[0] - plain).abs() / noise_reach(batch, 5.0, 32)[..., None]
    assert 0.95 < float(share.max()) <= 1.0001 and torch.equal(seen[1], plain)


def test_noise_is_the_same_after_a_resume_and_changes_what_is_learned(base_dir: Path, tmp_path: Path) -> None:
    whole, plain = tune(tmp_path / "whole", base_dir, 5.0), tune(tmp_path / "plain", base_dir, 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "stopped", base_dir, 5.0, Stops())
    resumed = tune(tmp_path / "stopped", base_dir, 5.0)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], plain[name]) for name in whole)
