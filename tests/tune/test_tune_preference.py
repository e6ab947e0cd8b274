"""Preference tuning: each loss against its written-out formula, packing that changes nothing, a stage that prefers."""

import json
import math
from pathlib import Path

import pytest
import torch

from inkstone.chat import CHATML, Message, Preference, encode_chat
from inkstone.errors import InputError
from inkstone.generate import score
from inkstone.model import load_model
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.train import Batch
from inkstone.tune import SFTSettings, Work, prefer
from inkstone.tune.pairs import PackedPairs, encode_pair
from inkstone.tune.preference import LOSSES, Kind, PreferenceSettings, Preferred, Sides, answer_logprobs

PAIRS = [
    Preference([Message("user", "你好")], "你好，世界！", "Hello"),
    Preference([Message("user", "what is 12 + 7?")], "The answer is 19.", "The answer is 7."),
    Preference(
        [Message("user", "Hello"), Message("assistant", "你好"), Message("user", "Hello")], "明月照我还。", "is 12"
    ),
]
SIDES = Sides(
    chosen=torch.tensor([-4.0, -9.0]),
    rejected=torch.tensor([-6.0, -5.0]),
    chosen_tokens=torch.tensor([4.0, 6.0]),
    rejected_tokens=torch.tensor([3.0, 5.0]),
    chosen_reference=torch.tensor([-5.0, -8.0]),
    rejected_reference=torch.tensor([-5.5, -6.0]),
)


def by_hand(kind: Kind, beta: float) -> list[float]:
    """The formulas of the papers, pair by pair."""
    found = []
    for c, r, nc, nr, rc, rr in zip(*(x.tolist() for x in vars(SIDES).values()), strict=True):
        margin = (c - r) - (rc - rr)
        odds = [mean - math.log(1 - math.exp(mean)) for mean in (c / nc, r / nr)]
        found.append(
            {
                "sigmoid": math.log(1 + math.exp(-beta * margin)),
                "ipo": ((c - rc) / nc - (r - rr) / nr - 1 / (2 * beta)) ** 2,
                "hinge": max(0.0, 1 - beta * margin),
                "orpo": -c / nc + beta * math.log(1 + math.exp(-(odds[0] - odds[1]))),
                "simpo": math.log(1 + math.exp(-beta * (c / nc - r / nr - 0.5))),
            }[kind]
        )
    return found


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_each_loss_is_its_formula(kind: Kind, beta: float) -> None:
    how = PreferenceSettings(loss=kind, beta=beta)
    assert LOSSES[kind](SIDES, how).tolist() == pytest.approx(by_hand(kind, beta), rel=1e-4)


def test_smoothing_thinks_some_pairs_swapped() -> None:
    c, r, nc, nr, rc, rr = vars(SIDES).values()
    swapped = Sides(r, c, nr, nc, rr, rc)
    plain, half = PreferenceSettings(), PreferenceSettings(label_smoothing=0.25)
    mixed = 0.75 * LOSSES["sigmoid"](SIDES, plain) + 0.25 * LOSSES["sigmoid"](swapped, plain)
    torch.testing.assert_close(LOSSES["sigmoid"](SIDES, half), mixed)


def packed(tokenizer: Tokenizer, length: int = 96) -> PackedPairs:
    pairs = [encode_pair(pair, CHATML, tokenizer, length) for pair in PAIRS]
    return PackedPairs([pair for pair in pairs if pair], length, 1, tokenizer.fill_id)


def test_packed_answers_have_the_log_probabilities_of_each_alone(tokenizer: Tokenizer, base_dir: Path) -> None:
    """Also of the answer alone: an earlier answer in the history says nothing."""
    model, rows = load_model(base_dir), packed(tokenizer)
    for index in range(rows.rows_per_epoch):
        batch = Batch.stack([rows.row(0, index)])
        with torch.no_grad():
            sums, tokens = answer_logprobs(model, batch)
        for place, number in enumerate(rows.members(0, index)):
            for side, answer in enumerate((PAIRS[number].chosen, PAIRS[number].rejected)):
                prompt, _ = encode_chat(PAIRS[number].prompt, CHATML, tokenizer, add_generation_prompt=True)
                whole, _ = encode_chat([*PAIRS[number].prompt, Message("assistant", answer)], CHATML, tokenizer)
                stop = whole.index(tokenizer.token_id("<|im_end|>"), len(prompt)) + 1
                [alone] = score(model, [(whole[: len(prompt)], whole[len(prompt) : stop])])
                assert float(sums[2 * place + side]) == pytest.approx(alone.logprob, abs=1e-3)
                assert int(tokens[2 * place + side]) == stop - len(prompt)


def test_figures_and_units_count_pairs(tokenizer: Tokenizer, base_dir: Path) -> None:
    rows, objective = packed(tokenizer, 200), Preferred(PreferenceSettings())
    batch = Batch.stack([rows.row(0, index) for index in range(rows.rows_per_epoch)])
    outcome = objective(load_model(base_dir), batch, {})
    assert objective.units(batch) == 3
    told = objective.report({name: values.tolist() for name, values in outcome.figures.items()})
    assert 0 <= told["accuracy"] <= 1 and told["chosen_logprob"] < 0
    assert torch.isfinite(outcome.loss)


def tiny(**changes: object) -> SFTSettings:
    values = {
        "inputs": ["pairs.jsonl"], "method": "preference", "sequence_length": 96, "batch_tokens": 288, "epochs": 1000,
        "max_steps": 12, "learning_rate": 5e-3, "warmup_steps": 2, "device": "cpu", "dtype": "float32",
        "compile": "off", "heldout_fraction": 0.2, "log_steps": 2, "checkpoint_steps": 4,
    }  # fmt: skip
    return SFTSettings.model_validate({**values, **changes})


def write_pairs(path: Path, count: int = 12) -> Path:
    rows = []
    for number in range(count):
        pair = PAIRS[number % 3]
        turns = [{"role": "user", "content": f"{number} {pair.prompt[-1].content}"}]
        rows.append({"messages": turns, "chosen": pair.chosen, "rejected": pair.rejected})
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def stage(root: Path, base_dir: Path, settings: SFTSettings) -> dict[str, object]:
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return prefer(
        Work(settings, [write_pairs(root / "pairs.jsonl")], base_dir, root / "output", root / "scratch", Silent())
    )


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("loss", ["sigmoid", "simpo"])
def test_pairs_that_were_not_seen_are_preferred(adapter: str, loss: str, base_dir: Path, tmp_path: Path) -> None:
    how = {"loss": loss, "beta": 0.5 if loss == "sigmoid" else 2.0}
    result = stage(tmp_path, base_dir, tiny(adapter=adapter, preference=how, max_steps=40))
    assert result["heldout_accuracy"] == 1.0
    rows = [json.loads(line) for line in (tmp_path / "output" / "metrics.jsonl").read_text().splitlines()]
    told = [row for row in rows if "accuracy" in row]
    assert told[-1]["accuracy"] > 0.9 and told[-1]["chosen_reward"] > told[-1]["rejected_reward"]
    assert (tmp_path / "output" / "adapter" / "adapter_model.safetensors").is_file() == (adapter == "lora")


def test_at_the_first_step_the_policy_is_its_reference(base_dir: Path, tmp_path: Path) -> None:
    result = stage(tmp_path, base_dir, tiny(max_steps=1))
    assert result["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_resumed_run_ends_like_an_uninterrupted_one(base_dir: Path, tmp_path: Path) -> None:
    """The reference is kept; after it was lost it could not be made from the tuned weights."""
    settings = tiny(adapter="lora")
    stage(tmp_path / "whole", base_dir, settings)
    stopped = tmp_path / "stopped"

    class Stops(Silent):
        def should_stop(self) -> bool:
            return self.steps >= 6

        steps = 0

        def advance(self, done: int, *rest: object, **fields: object) -> None:
            self.steps = done if rest and rest[1] == "steps" else self.steps

    for name in ("output", "scratch"):
        (stopped / name).mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        prefer(
            Work(
                settings, [write_pairs(stopped / "p.jsonl")], base_dir, stopped / "output", stopped / "scratch", Stops()
            )
        )
    prefer(Work(settings, [stopped / "p.jsonl"], base_dir, stopped / "output", stopped / "scratch", Silent()))
    one, other = (load_model(root / "output").state_dict() for root in (tmp_path / "whole", stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_equal_sides_and_pairs_that_are_too_long_are_said(tokenizer: Tokenizer, base_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": "x", "rejected": "x"}) + "\n")
    with pytest.raises(InputError, match="is the same text as chosen"):
        prefer(Work(tiny(), [path], base_dir, tmp_path, tmp_path, Silent()))
    long = Preference([Message("user", "水" * 300)], "a", "b")
    assert encode_pair(long, CHATML, tokenizer, 96) is None
