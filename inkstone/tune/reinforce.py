"""The stage of GRPO: a chat model and questions in, one that answers them better out, and all its answers."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict

from inkstone.errors import InputError
from inkstone.generate import Request, SamplingSettings
from inkstone.model import Decoder
from inkstone.model.decoder.lora import adapter_off
from inkstone.tune.distance import prompt_distance
from inkstone.tune.ends import Work, heldout_numbers, open_base, write_tuned
from inkstone.tune.grpo import GroupAdvantage
from inkstone.tune.rewards import Task, find_rewards, read_tasks, reward_of
from inkstone.tune.rollouts import Rollouts, answer_all


def reinforce(work: Work) -> dict[str, object]:
    """Train on questions with verifiable answers; returns the run's figures."""
    settings, how = work.settings, work.settings.grpo
    rewards = find_rewards(how.rewards)
    if how.beta and not settings.adapted:
        raise InputError('[grpo] beta holds the policy to its base: set adapter = "lora" or "prefix", or beta = 0')
    if how.beta and settings.adapter == "lora" and settings.lora.embeddings:
        raise InputError(
            "[grpo] beta: embeddings that are trained whole cannot be switched off: set one of both to none"
        )
    if not work.mesh.whole:
        raise InputError("answers are generated from whole weights: set shard and tensor to 1")
    template, tokenizer, model = open_base(work)
    training, held = split_tasks(read_tasks(work.inputs), settings.heldout_fraction)
    source = Rollouts(
        model, tokenizer, template, training, rewards, how, settings.sequence_length, settings.rows_per_step,
        settings.seed, work.scratch / "rollouts.jsonl",
    )  # fmt: skip
    source.check_lengths([*training, *held])
    work.progress.note(f"{len(training)} questions, {how.prompts} in a step, {how.group} answers each")
    told = prompt_distance(work, model, template, tokenizer, [task.question for task in training])
    with adapter_off(model):
        before = mean_reward(model, source, held)
    result = work.train(model, source, GroupAdvantage(how.beta))
    after = mean_reward(model, source, held)
    write_tuned(work, model, template, tokenizer)
    if work.mesh.first:
        shutil.copyfile(work.scratch / "rollouts.jsonl", work.output / "rollouts.jsonl")
    rewarded = {"heldout_reward_before": before, "heldout_reward": after}
    return {**asdict(result), "questions": len(training), **rewarded, **told}


def split_tasks(tasks: Sequence[Task], fraction: float) -> tuple[list[Task], list[Task]]:
    """Those to train on, and every n-th, held out."""
    held = set(heldout_numbers(len(tasks), fraction).tolist())
    return (
        [task for number, task in enumerate(tasks) if number not in held],
        [tasks[number] for number in sorted(held)],
    )


def mean_reward(model: Decoder, source: Rollouts, tasks: Sequence[Task]) -> float | None:
    """Of greedy answers to questions that are not trained on."""
    if not tasks:
        return None
    greedy = SamplingSettings(max_new_tokens=source.how.max_new_tokens)
    answers = answer_all(model, [Request(source.prompt(task), greedy, source.stop_ids) for task in tasks])
    texts = [source.tokenizer.decode(ids, skip_control=True) for ids, _ in answers]
    return sum(reward_of(source.rewards, *one) for one in zip(tasks, texts, strict=True)) / len(tasks)
