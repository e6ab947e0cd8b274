"""The stage of PPO: a chat model, questions and a reward in; the actor, the mean of its weights and its answers out."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch

from inkstone.chat import attach_template
from inkstone.errors import InputError
from inkstone.model import Decoder, load_model
from inkstone.model.decoder.lora import adapter_off
from inkstone.model.files.adapter import save_adapter
from inkstone.tokenizer import Tokenizer
from inkstone.train import InOrder, finish
from inkstone.tune.conversations import packed_chats
from inkstone.tune.distance import prompt_distance
from inkstone.tune.ends import Work, open_base, write_tuned
from inkstone.tune.ppo import CRITIC, Proximal
from inkstone.tune.ppo_rollouts import PpoRollouts
from inkstone.tune.reinforce import mean_reward, split_tasks
from inkstone.tune.rewards import find_rewards, read_tasks
from inkstone.tune.score import add_score, load_score


def proximal(work: Work) -> dict[str, object]:
    """Train on questions with PPO; returns the run's figures."""
    settings, how, judge_dir = work.settings, work.settings.ppo, work.judge_dir
    if judge_dir is None and not how.rewards:
        raise InputError("[ppo] has no reward: set reward_model, or rewards")
    if not work.mesh.whole:
        raise InputError("answers are generated from whole weights: set shard and tensor to 1")
    template, tokenizer, model = open_base(work)
    judge = _judge(judge_dir, tokenizer) if judge_dir else None
    critic = _judge(judge_dir, tokenizer) if judge_dir else load_model(work.base_dir, torch.float32)
    if not judge_dir:
        add_score(critic, settings.seed)
    model.add_module(CRITIC, critic.train().requires_grad_())
    reference = None if settings.adapted else load_model(work.base_dir, torch.float32).requires_grad_(False)
    tasks, held = split_tasks(read_tasks(work.inputs), settings.heldout_fraction)
    learned = replace(work, inputs=work.ptx, tests=(), texts=())
    ptx = packed_chats(learned, template, tokenizer)[0] if work.ptx else None
    source = PpoRollouts(
        model, tokenizer, template, tasks, find_rewards(how.rewards), how, settings.sequence_length,
        settings.rows_per_step, settings.seed, work.scratch / "rollouts.jsonl",
        judge=judge, reference=reference, ptx=InOrder(ptx) if ptx else None,
    )  # fmt: skip
    source.check_lengths([*tasks, *held])
    work.progress.note(f"{len(tasks)} questions, {how.prompts} asked together, {how.updates} steps on their answers")
    told = prompt_distance(work, model, template, tokenizer, [task.question for task in tasks])
    with adapter_off(model):
        before = mean_reward(model, source, held)
    result = work.train(model, source, Proximal(how))
    after = mean_reward(model, source, held)
    del model._modules[CRITIC]
    if work.mesh.first and source.mean:
        _write_mean(work, model, source)
    write_tuned(work, model, template, tokenizer)
    if work.mesh.first:
        shutil.copyfile(work.scratch / "rollouts.jsonl", work.output / "rollouts.jsonl")
    rewarded = {"heldout_reward_before": before, "heldout_reward": after}
    return {**asdict(result), "questions": len(tasks), **rewarded, **told}


def _judge(directory: Path, tokenizer: Tokenizer) -> Decoder:
    """A reward model that reads the same ids. Raises InputError for one of another vocabulary."""
    if Tokenizer.load(directory).fingerprint != tokenizer.fingerprint:
        raise InputError(f"{directory} has another tokenizer than the base: train the reward model from the same base")
    model = load_model(directory, torch.float32)
    load_score(model, directory)
    return model.requires_grad_(False)


@torch.no_grad()
def _write_mean(work: Work, model: Decoder, source: PpoRollouts) -> None:
    """The mean of the actor's weights as a model of its own, or as an adapter; the actor is left as it was."""
    weights = dict(model.named_parameters())
    kept = {name: weights[name].detach().clone() for name in source.mean}
    for name, mean in source.mean.items():
        weights[name].copy_(mean)
    folder, template = work.output / "ema", source.template
    if work.settings.adapted:
        save_adapter(model, folder, str(work.base_dir))
    else:
        stop_ids = sorted(template.stop_ids(source.tokenizer))
        finish(model, source.tokenizer, work.scratch, folder, stop_ids)
    attach_template(template, source.tokenizer, folder)
    for name, weight in kept.items():
        weights[name].copy_(weight)
