"""The stage of GRPO: a chat model and questions in, one that answers them better out, and all its answers."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from inkstone.errors import InputError
from inkstone.generate import Request, SamplingSettings
from inkstone.model import Decoder
from inkstone.progress import Progress
from inkstone.train import Mesh, train
from inkstone.train.mesh import ALONE
from inkstone.tune.ends import open_base, write_tuned
from inkstone.tune.grpo import GroupAdvantage
from inkstone.tune.rewards import Task, find_rewards, read_tasks, reward_of
from inkstone.tune.rollouts import Rollouts, answer_all
from inkstone.tune.settings import SFTSettings


def reinforce(
    settings: SFTSettings,
    inputs: list[Path],
    base_dir: Path,
    output: Path,
    scratch: Path,
    progress: Progress,
    mesh: Mesh = ALONE,
) -> dict[str, object]:
    """Train the model of `base_dir` on questions with verifiable answers; returns the run's figures."""
    how = settings.grpo
    rewards = find_rewards(how.rewards)
    if how.beta and settings.adapter == "none":
        raise InputError('[grpo] beta holds the policy to its base: set adapter = "lora", or beta = 0')
    if how.beta and settings.lora.embeddings:
        raise InputError(
            "[grpo] beta: embeddings that are trained whole cannot be switched off: set one of both to none"
        )
    if mesh.shard > 1:
        raise InputError("answers are generated from whole weights: set shard = 1")
    template, tokenizer, model = open_base(settings, base_dir, mesh)
    training, held = split_tasks(read_tasks(inputs), settings.heldout_fraction)
    source = Rollouts(
        model, tokenizer, template, training, rewards, how, settings.sequence_length, settings.rows_per_step,
        settings.seed, scratch / "rollouts.jsonl",
    )  # fmt: skip
    source.check_lengths([*training, *held])
    progress.note(f"{len(training)} questions, {how.prompts} in a step, {how.group} answers each")
    before = mean_reward(model, source, held)
    result = train(model, source, settings, scratch, progress, objective=GroupAdvantage(how.beta), mesh=mesh)
    after = mean_reward(model, source, held)
    write_tuned(settings, model, template, tokenizer, base_dir, output, scratch, mesh)
    if mesh.first:
        shutil.copyfile(scratch / "rollouts.jsonl", output / "rollouts.jsonl")
    return {**asdict(result), "questions": len(training), "heldout_reward_before": before, "heldout_reward": after}


def split_tasks(tasks: Sequence[Task], fraction: float) -> tuple[list[Task], list[Task]]:
    """Those to train on, and every n-th, held out."""
    every = max(2, round(1 / fraction)) if fraction and len(tasks) > 1 else 0
    held = [task for number, task in enumerate(tasks) if every and number % every == 0]
    return [task for number, task in enumerate(tasks) if not (every and number % every == 0)], held


def mean_reward(model: Decoder, source: Rollouts, tasks: Sequence[Task]) -> float | None:
    """Of greedy answers to questions that are not trained on."""
    if not tasks:
        return None
    greedy = SamplingSettings(max_new_tokens=source.how.max_new_tokens)
    answers = answer_all(model, [Request(source.prompt(task), greedy, source.stop_ids) for task in tasks])
    texts = [source.tokenizer.decode(ids, skip_control=True) for ids, _ in answers]
    return sum(reward_of(source.rewards, *one) for one in zip(tasks, texts, strict=True)) / len(tasks)
