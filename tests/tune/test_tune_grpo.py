"""GRPO: groups are weighed against themselves, the loss is its formula, a known reward rises, a killed run goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inkstone.chat import CHATML
from inkstone.errors import InputError
from inkstone.generate import score
from inkstone.model import load_model, save_model
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.train import Batch, Mesh
from inkstone.tune import SFTSettings, Work, reinforce
from inkstone.tune.grpo import GroupAdvantage, GrpoSettings
from inkstone.tune.rewards import Task, find_rewards, reward_of
from inkstone.tune.rollouts import Rollouts

QUESTIONS = [f"{n} 你好" for n in range(12)]
EVEN = '''
def letters(question, answer, row):
    """The more of the answer's characters are small Latin letters, the better."""
    return sum("a" <= one <= "z" for one in answer) / max(1, len(answer))


def broken(question, answer, row):
    raise KeyError("x")


def no_number(question, answer, row):
    return float("nan")
'''


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "my_rewards.py"
    path.write_text(EVEN)
    return path


def tiny(reward: str, **changes: object) -> SFTSettings:
    how = {"rewards": [reward], "prompts": 4, "group": 8, "max_new_tokens": 8}
    values = {
        "inputs": ["q.jsonl"], "method": "grpo", "sequence_length": 64, "batch_tokens": 64, "epochs": 1000,
        "max_steps": 24,
        "learning_rate": 2e-2, "warmup_steps": 2, "device": "cpu", "dtype": "float32", "compile": "off",
        "heldout_fraction": 0.25, "log_steps": 1, "checkpoint_steps": 5, "grpo": how, "micro_batch_tokens": 64,
    }  # fmt: skip
    return SFTSettings.model_validate({**values, **changes})


def stage(root: Path, base_dir: Path, settings: SFTSettings, progress: Silent | None = None) -> dict[str, object]:
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    path = root / "q.jsonl"
    path.write_text("".join(json.dumps({"question": one, "answer": "7"}) + "\n" for one in QUESTIONS))
    return reinforce(Work(settings, [path], base_dir, root / "output", root / "scratch", progress or Silent()))


def with_large_embeddings(source: Path, target: Path) -> Path:
    model, tokenizer = load_model(source, torch.float32), Tokenizer.load(source)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(10)
    save_model(model, target, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(target)
    return target


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_known_reward_rises_also_on_questions_that_were_not_asked(
    adapter: str, functions: Path, base_dir: Path, tmp_path: Path
) -> None:
    beta = {"beta": 0.001} if adapter == "lora" else {}
    settings = tiny(f"{functions}:letters", adapter=adapter)
    if adapter == "lora":  # a head of small weights, which stay as they are, could not say anything clearly
        base_dir = with_large_embeddings(base_dir, tmp_path / "base")
    settings = settings.model_copy(update={"grpo": settings.grpo.model_copy(update=beta)})
    result = stage(tmp_path, base_dir, settings)
    rows = [json.loads(line) for line in (tmp_path / "output" / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.2
    assert result["heldout_reward"] > result["heldout_reward_before"]
    if beta:
        divergences = [row["divergence"] for row in rows if "divergence" in row]
        assert divergences[0] == pytest.approx(0, abs=1e-6) and 0 < divergences[-1] < 20
    kept = [json.loads(line) for line in (tmp_path / "output" / "rollouts.jsonl").read_text().splitlines()]
    assert len(kept) == 24 * 32 and {"step", "question", "answer", "reward"} <= kept[0].keys()


def test_a_stopped_run_ends_like_an_uninterrupted_one(functions: Path, base_dir: Path, tmp_path: Path) -> None:
    """What a step asks and draws depends on its number alone; the answers kept are each there once."""
    settings = tiny(f"{functions}:letters", max_steps=8)

    class Stops(Silent):
        steps = 0

        def should_stop(self) -> bool:
            return self.steps >= 3

        def advance(self, done: float, total: float | None, unit: str, **fields: object) -> None:
            self.steps = int(done)

    stage(tmp_path / "whole", base_dir, settings)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "stopped", base_dir, settings, Stops())
    stage(tmp_path / "stopped", base_dir, settings)
    one, other = (load_model(tmp_path / name / "output").state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept = [(tmp_path / name / "output" / "rollouts.jsonl").read_text() for name in ("whole", "stopped")]
    assert kept[0] == kept[1]


def rollouts(base_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> Rollouts:
    tasks = [Task(question, {"answer": "7"}, f"q:{n}") for n, question in enumerate(QUESTIONS)]
    how = GrpoSettings(prompts=3, group=4, max_new_tokens=6, rewards=["last_number", "ends"])
    found = find_rewards(how.rewards)
    return Rollouts(load_model(base_dir), tokenizer, CHATML, tasks, found, how, 64, 1, 1, tmp_path / "log.jsonl")


def test_advantages_of_a_group_are_those_of_its_rewards(base_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = rollouts(base_dir, tokenizer, tmp_path)
    batches = source.draw([0], 1, Mesh())
    kept = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    worth = np.array([row["reward"] for row in kept]).reshape(3, 4)
    expected = (worth - worth.mean(1, keepdims=True)) / (worth.std(1, keepdims=True) + 1e-4)
    given = [float(x) for batch in batches for x in batch.columns["advantage"] if float(x)]
    assert sorted(given) == pytest.approx(sorted(x for x in expected.flatten() if x), abs=1e-4)


def test_the_loss_is_advantage_times_log_probability(base_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Summed over the answers' tokens, each scored alone; a prompt's tokens do not count."""
    source = rollouts(base_dir, tokenizer, tmp_path)
    documents = [([5, 6, 7], [8, 9], 0.5), ([5, 9], [7, 6, 5], -1.0)]
    batch = Batch.stack(source.rows_of(documents))
    outcome = GroupAdvantage(0.0)(source.policy, batch, {})
    expected = sum(
        -weight * score(source.policy, [(prompt, answer)])[0].logprob for prompt, answer, weight in documents
    )
    assert float(outcome.loss) == pytest.approx(expected, rel=1e-4)
    assert GroupAdvantage(0.0).units(batch) == 5


def test_rewards_that_fail_or_are_not_there_are_named(functions: Path) -> None:
    task = Task("1+1?", {"answer": "2"}, "q.jsonl:1")
    assert reward_of(find_rewards(["last_number"]), task, "it is 2.") == 1
    with pytest.raises(InputError, match=r"failed on q\.jsonl:1 \(KeyError"):
        reward_of(find_rewards([f"{functions}:broken"]), task, "x")
    with pytest.raises(InputError, match=r"is nan on q\.jsonl:1: it must be a finite number"):
        reward_of(find_rewards([f"{functions}:no_number"]), task, "x")
    with pytest.raises(InputError, match="there is no reward") as error:
        find_rewards(["nosuch", "gone.py:f", f"{functions}:g"])
    assert len(error.value.problems) == 3


def test_what_cannot_be_trained_is_said_before_anything_starts(base_dir: Path, tmp_path: Path) -> None:
    how = GrpoSettings(beta=0.1)
    with pytest.raises(InputError, match='set adapter = "lora" or "prefix", or beta = 0'):
        stage(tmp_path, base_dir, tiny("last_number", grpo=how.model_dump()))
    with pytest.raises(InputError, match="together more than sequence_length = 64"):
        stage(tmp_path, base_dir, tiny("last_number", grpo={"max_new_tokens": 60}))
