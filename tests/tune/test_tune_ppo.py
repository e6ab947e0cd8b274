"""PPO and reward models: arithmetic by hand, a preference learned, a known reward rising, a killed run going on."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import escape
from test_tune_grpo import with_large_embeddings
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from tiny_run import inkstone

from inkstone.errors import InputError
from inkstone.model import ModelSettings, load_model, save_model
from inkstone.progress import Field, Silent
from inkstone.tokenizer import Tokenizer
from inkstone.train import new_model
from inkstone.tune import SFTSettings, Work, proximal, rank
from inkstone.tune.ppo import actor_loss, adapted, advantages, critic_loss, token_rewards, whitened
from inkstone.tune.score import load_score, score_documents

QUESTIONS = [f"{n} 你好" for n in range(12)]
LETTERS = '''
def letters(question, answer, row):
    """The more of the answer's characters are small Latin letters, the better."""
    return sum("a" <= one <= "z" for one in answer) / max(1, len(answer))
'''
COMMON: dict[str, Any] = {
    "inputs": ["x.jsonl"], "sequence_length": 64, "batch_tokens": 64, "micro_batch_tokens": 64, "epochs": 1000,
    "warmup_steps": 2, "device": "cpu", "dtype": "float32", "compile": "off", "heldout_fraction": 0.25,
    "log_steps": 1, "checkpoint_steps": 3,
}  # fmt: skip


def rows(path: Path, content: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def reward_model(root: Path, base_dir: Path, steps: int = 40) -> dict[str, object]:
    """Trained to prefer answers of Latin letters; the worse ones are as long."""
    letters, others = ["the answer", "what is", "hello the"], ["你好，世界！", "明月照我还", "19 + 12 7?"]
    pairs = [
        {"prompt": question, "chosen": good, "rejected": bad}
        for question in QUESTIONS for good in letters for bad in others
    ]  # fmt: skip
    settings = SFTSettings.model_validate(
        {
            **COMMON,
            "method": "reward",
            "max_steps": steps,
            "learning_rate": 3e-3,
            "batch_tokens": 256,
            "micro_batch_tokens": 128,
        }
    )
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True)
    path = rows(root / "pairs.jsonl", pairs)
    return rank(Work(settings, [path], base_dir, root / "output", root / "scratch", Silent()))


@pytest.fixture(scope="session")
def judge(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    root = tmp_path_factory.mktemp("judge")
    figures = reward_model(root, base_dir)
    return root / "output", figures


def ppo(
    root: Path, base_dir: Path, judge_dir: Path | None = None, progress: Silent | None = None, **changes: Any
) -> Any:
    how = {"prompts": 8, "max_new_tokens": 8, "kl": 0.02, **changes.pop("ppo", {})}
    settings = SFTSettings.model_validate(
        {**COMMON, "method": "ppo", "max_steps": 24, "learning_rate": 1e-2, "ppo": how, **changes}
    )
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    path = rows(root / "q.jsonl", [{"question": one} for one in QUESTIONS])
    talk = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "明月照我还。"}]}
    ptx = [rows(root / "ptx.jsonl", [talk] * 8)]
    work = Work(
        settings, [path], base_dir, root / "output", root / "scratch", progress or Silent(), judge_dir=judge_dir,
        ptx=ptx if how.get("ptx") else [],
    )  # fmt: skip
    return proximal(work)


def test_advantages_are_the_sums_of_the_paper() -> None:
    rewards, values = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.1, 0.2, 0.3])
    deltas = [0.5 + 0.9 * 0.2 - 0.1, -1.0 + 0.9 * 0.3 - 0.2, 2.0 - 0.3]
    expected = [sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, 3)) for t in range(3)]
    found, returns = advantages(rewards, values, 0.9, 0.8)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert returns.tolist() == pytest.approx([a + v for a, v in zip(expected, [0.1, 0.2, 0.3], strict=True)], rel=1e-5)


def test_losses_are_clipped_where_the_paper_clips_them() -> None:
    old, new = torch.zeros(4), torch.log(torch.tensor([1.5, 1.5, 0.5, 1.1]))
    gained = torch.tensor([1.0, -1.0, -1.0, 2.0])
    assert actor_loss(new, old, gained, 0.2).tolist() == pytest.approx([-1.2, 1.5, 0.8, -2.2], rel=1e-5)
    values, before, returns = torch.tensor([1.0, 0.1]), torch.zeros(2), torch.tensor([1.0, 1.0])
    assert critic_loss(values, before, returns, 0.2).tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.9**2])


def test_the_divergence_is_part_of_every_tokens_reward_and_the_score_of_the_last() -> None:
    given = token_rewards(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0]), 3.0, 0.1)
    assert given.tolist() == pytest.approx([-0.05, 0.1 + 3.0])
    assert adapted(0.1, 0.5, 0.0) == 0.1 and adapted(0.1, 9.0, 1.0) == pytest.approx(0.102)
    assert adapted(0.1, 0.9, 1.0) == pytest.approx(0.099)
    spread = whitened(torch.tensor([1.0, 2.0, 5.0]))
    assert float(spread.mean()) == pytest.approx(0, abs=1e-6) and float(spread.std(correction=0)) == pytest.approx(1)


def test_a_reward_model_learns_a_preference_that_length_does_not_tell(judge: tuple[Path, dict[str, object]]) -> None:
    directory, figures = judge
    assert figures["heldout_accuracy"] == 1.0 and figures["longer_wins"] < 0.8
    model = load_model(directory, torch.float32)
    load_score(model, directory)
    tokenizer = Tokenizer.load(directory)
    documents = [tokenizer.encode(text) for text in ("你好 the answer", "你好 明月", "what", "is 12 + 7?")]
    together = score_documents(model, documents, 64, tokenizer.fill_id)
    alone = [score_documents(model, [one], 64, tokenizer.fill_id)[0] for one in documents]
    assert together == pytest.approx(alone, abs=1e-5)
    assert math.isfinite(sum(together)) and len(set(together)) == 4


def metrics(root: Path, name: str) -> list[float]:
    lines = (root / "output" / "metrics.jsonl").read_text().splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]


def test_a_known_reward_rises_and_the_divergence_stays_bounded(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(LETTERS)
    how = {"rewards": [f"{tmp_path}/my.py:letters"], "group": 4}
    result = ppo(tmp_path, base_dir, max_steps=40, learning_rate=2e-2, ppo=how)
    rewards = metrics(tmp_path, "reward")
    assert np.mean(rewards[-6:]) > np.mean(rewards[:6]) + 0.2
    assert result["heldout_reward"] > result["heldout_reward_before"]
    kl = metrics(tmp_path, "kl")
    assert kl[0] == pytest.approx(0, abs=1e-5) and max(kl) < 3
    assert all(0 <= share <= 1 for share in metrics(tmp_path, "clipped"))


def test_the_score_of_a_reward_model_rises_with_an_adapter_and_text_of_the_tuning_set(
    judge: tuple[Path, dict[str, object]], base_dir: Path, tmp_path: Path
) -> None:
    # A head of small weights, which stay as they are, could not say anything clearly.
    base = with_large_embeddings(base_dir, tmp_path / "base")
    how = {"ptx": ["x"], "ptx_weight": 0.1, "kl_target": 0.5, "ema": 0.9, "group": 4}
    ppo(tmp_path, base, judge[0], adapter="lora", learning_rate=2e-2, max_steps=24, ppo=how)
    rewards, losses, weights = (metrics(tmp_path, name) for name in ("reward", "ptx_loss", "kl_weight"))
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4])
    assert losses[-1] < losses[0] and len(set(weights)) > 3
    assert (tmp_path / "output" / "ema" / "adapter_model.safetensors").is_file()
    assert load_model(tmp_path / "output").config.num_layers == 2


class Watch(Silent):
    """The actor's weights after each step, and a stop if asked."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after, self.steps = stop_after, 0

    def should_stop(self) -> bool:
        return bool(self.stop_after) and self.steps >= self.stop_after

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        self.steps = int(done)


@pytest.mark.parametrize("stop_after", [4, 5])
def test_a_run_that_is_stopped_in_a_set_or_between_two_ends_like_an_uninterrupted_one(
    stop_after: int, judge: tuple[Path, dict[str, object]], base_dir: Path, tmp_path: Path
) -> None:
    how = {"ema": 0.5, "kl_target": 0.01, "ptx": ["x"]}
    ppo(tmp_path / "whole", base_dir, judge[0], max_steps=8, ppo=how)
    with pytest.raises(KeyboardInterrupt):
        ppo(tmp_path / "stopped", base_dir, judge[0], Watch(stop_after), max_steps=8, ppo=how)
    ppo(tmp_path / "stopped", base_dir, judge[0], max_steps=8, ppo=how)
    for part in ("output", "output/ema"):
        one, other = (load_model(tmp_path / name / part).state_dict() for name in ("whole", "stopped"))
        assert all(torch.equal(one[name], other[name]) for name in one)
    answers = [(tmp_path / name / "output" / "rollouts.jsonl").read_text() for name in ("whole", "stopped")]
    assert answers[0] == answers[1]


def test_the_mean_of_the_weights_is_its_formula(
    judge: tuple[Path, dict[str, object]], base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inkstone.tune.ppo_rollouts import PpoRollouts

    seen: list[torch.Tensor] = [load_model(base_dir, torch.float32).model.norm.weight.detach().clone()]
    learn = PpoRollouts.learn

    def watched(self: PpoRollouts, *arguments: Any) -> None:
        learn(self, *arguments)
        norm = self.policy.model.norm
        assert isinstance(norm, nn.Module)
        seen.append(self.policy.get_parameter("model.norm.weight").detach().clone())

    monkeypatch.setattr(PpoRollouts, "learn", watched)
    ppo(tmp_path, base_dir, judge[0], max_steps=3, ppo={"ema": 0.5})
    mean = seen[0]
    for weight in seen[1:]:
        mean = 0.5 * mean + 0.5 * weight
    torch.testing.assert_close(load_model(tmp_path / "output/ema").get_parameter("model.norm.weight"), mean)


def test_what_is_missing_is_said_before_anything_starts(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[ppo\] has no reward: set reward_model, or rewards"):
        ppo(tmp_path, base_dir)
    with pytest.raises(InputError, match="is no reward model: it has no score"):
        ppo(tmp_path, base_dir, base_dir)
    with pytest.raises(InputError, match="together more than sequence_length = 64"):
        ppo(tmp_path, base_dir, ppo={"rewards": ["ends"], "max_new_tokens": 60})


def test_the_recipe_of_qlora_runs_on_a_tiny_base(tokenizer: Tokenizer, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shape = ModelSettings(hidden_size=64, num_layers=1, num_heads=2, max_positions=2048)
    save_model(new_model(shape, tokenizer.vocab_size, 1), base, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(base)
    talk = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "明月照我还。"}]
    chats = rows(tmp_path / "chats.jsonl", [{"messages": talk}] * 60)
    recipe = Path(__file__).parents[2] / "recipes" / "baichuan-qlora.toml"
    here = [f"--set=sft.base={base}", f'--set=sft.inputs=["{chats}"]', f"--set=runs_dir={tmp_path}/runs"]
    few = [f"--set=sft.{key}" for key in ("max_steps=2", "batch_tokens=4096", "template=chatml", "compile=off")]
    ended = inkstone("run", recipe, *here, *few)
    assert ended.code == 0, ended.said
    assert (tmp_path / "runs/baichuan-qlora/sft/adapter/adapter_model.safetensors").is_file()


def test_the_recipe_of_grpo_runs_on_a_tiny_base(tokenizer: Tokenizer, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shape = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, max_positions=1024)
    save_model(new_model(shape, tokenizer.vocab_size, 1), base, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(base)
    asked = rows(tmp_path / "q.jsonl", [{"question": one, "answer": "#### 7"} for one in QUESTIONS])
    recipe = Path(__file__).parents[2] / "recipes" / "grpo-math.toml"
    here = [f"--set=sft.base={base}", f'--set=sft.inputs=["{asked}"]', f"--set=runs_dir={tmp_path}/runs"]
    few = ("max_steps=2", "template=chatml", "compile=off", "grpo.prompts=2", "grpo.group=2", "grpo.max_new_tokens=4")
    ended = inkstone("run", recipe, *here, *(f"--set=sft.{key}" for key in few))
    assert ended.code == 0, ended.said
    result = json.loads((tmp_path / "runs" / "grpo-math" / "sft" / "stage.json").read_text())["result"]
    assert result["steps"] == 2 and 0 <= result["heldout_reward"] <= 2


def test_the_recipe_of_huozi_2_runs_from_tuning_to_ppo(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The recipe as it is in the repository, with a tiny base and few steps."""
    base = tmp_path / "base"
    shape = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, max_positions=512)
    save_model(new_model(shape, tokenizer.vocab_size, 1), base, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(base)
    keys = ("max_steps=2", "batch_tokens=512", "sequence_length=512", "compile=off", "dtype=float32")
    few = [f"--set={name}.{key}" for name in ("sft", "tune.reward", "tune.ppo") for key in keys]
    sizes = ["--set=primer.size_mb=0.3", "--set=tune.ppo.ppo.prompts=2", "--set=tune.ppo.ppo.max_new_tokens=4"]
    recipe = Path(__file__).parents[2] / "recipes" / "huozi-2.toml"
    ended = inkstone(
        "run", recipe, "--until", "ppo", f"--set=sft.base={base}", f"--set=runs_dir={tmp_path}/runs", *few, *sizes
    )
    assert ended.code == 0, ended.said
    run = tmp_path / "runs" / "huozi-2"
    assert (run / "reward" / "score.safetensors").is_file() and (run / "ppo" / "ema" / "model.safetensors").is_file()
    result = json.loads((run / "ppo" / "stage.json").read_text())["result"]
    assert result["steps"] == 2 and result["questions"] > 5
    prompts = result["prompts"]  # the pairs' questions are those of the chats, so both are alike for any model
    assert not prompts["far"] and abs(prompts["loss"] - prompts["tuning_loss"]) < 1 and 0 <= prompts["new_pairs"] < 0.5
    assert escape(prompts["said"]) in (run / "report.html").read_text()
