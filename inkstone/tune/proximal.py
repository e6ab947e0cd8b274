"""The stage of PPO: a chat model, questions and a reward in; the actor, the mean of its weights and its answers out."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from inkstone.chat import attach_template
from inkstone.errors import InputError
from inkstone.model import Decoder, load_model
from inkstone.model.files.adapter import save_adapter
from inkstone.progress import Progress
from inkstone.tokenizer import Tokenizer
from inkstone.train import InOrder, Mesh, finish, train
from inkstone.train.mesh import ALONE
from inkstone.tune.conversations import packed_chats
from inkstone.tune.ends import open_base, write_tuned
from inkstone.tune.ppo import CRITIC, Proximal
from inkstone.tune.ppo_rollouts import PpoRollouts
from inkstone.tune.reinforce import mean_reward, split_tasks
from inkstone.tune.rewards import find_rewards, read_tasks
from inkstone.tune.score import add_score, load_score
from inkstone.tune.settings import SFTSettings


def proximal(
    settings: SFTSettings,
    inputs: list[Path],
    base_dir: Path,
    output: Path,
    scratch: Path,
    progress: Progress,
    mesh: Mesh = ALONE,
    judge_dir: Path | None = None,
    ptx_inputs: Sequence[Path] = (),
) -> dict[str, object]:
    """Train the model of `base_dir` on questions with PPO; `judge_dir` is a reward model's directory.

    Returns the run's figures. `ptx_inputs` are conversations that are learned on beside the answers.
    """
    how = settings.ppo
    if judge_dir is None and not how.rewards:
        raise InputError("[ppo] has no reward: set reward_model, or rewards")
    if mesh.shard > 1:
        raise InputError("answers are generated from whole weights: set shard = 1")
    template, tokenizer, model = open_base(settings, base_dir, mesh)
    judge = _judge(judge_dir, tokenizer) if judge_dir else None
    critic = _judge(judge_dir, tokenizer) if judge_dir else load_model(base_dir, torch.float32)
    if not judge_dir:
        add_score(critic, settings.seed)
    model.add_module(CRITIC, critic.train().requires_grad_())
    reference = None if settings.adapter == "lora" else load_model(base_dir, torch.float32).requires_grad_(False)
    tasks, held = split_tasks(read_tasks(inputs), settings.heldout_fraction)
    ptx = packed_chats(ptx_inputs, template, settings, tokenizer)[0] if ptx_inputs else None
    source = PpoRollouts(
        model, tokenizer, template, tasks, find_rewards(how.rewards), how, settings.sequence_length,
        settings.rows_per_step, settings.seed, scratch / "rollouts.jsonl",
        judge=judge, reference=reference, ptx=InOrder(ptx) if ptx else None,
    )  # fmt: skip
    source.check_lengths([*tasks, *held])
    progress.note(f"{len(tasks)} questions, {how.prompts} asked together, {how.updates} steps on their answers")
    before = mean_reward(model, source, held)
    result = train(model, source, settings, scratch, progress, objective=Proximal(how), mesh=mesh)
    after = mean_reward(model, source, held)
    del model._modules[CRITIC]
    if mesh.first and source.mean:
        _write_mean(settings, model, source, base_dir, output, scratch)
    write_tuned(settings, model, template, tokenizer, base_dir, output, scratch, mesh)
    if mesh.first:
        shutil.copyfile(scratch / "rollouts.jsonl", output / "rollouts.jsonl")
    return {**asdict(result), "questions": len(tasks), "heldout_reward_before": before, "heldout_reward": after}


def _judge(directory: Path, tokenizer: Tokenizer) -> Decoder:
    """A reward model that reads the same ids. Raises InputError for one of another vocabulary."""
    if Tokenizer.load(directory).fingerprint != tokenizer.fingerprint:
        raise InputError(f"{directory} has another tokenizer than the base: train the reward model from the same base")
    model = load_model(directory, torch.float32)
    load_score(model, directory)
    return model.requires_grad_(False)


@torch.no_grad()
def _write_mean(
    settings: SFTSettings, model: Decoder, source: PpoRollouts, base_dir: Path, output: Path, scratch: Path
) -> None:
    """The mean of the actor's weights as a model of its own, or as an adapter; the actor is left as it was."""
    weights = dict(model.named_parameters())
    kept = {name: weights[name].detach().clone() for name in source.mean}
    for name, mean in source.mean.items():
        weights[name].copy_(mean)
    folder, template = output / "ema", source.template
    if settings.adapter == "lora":
        save_adapter(model, folder, str(base_dir))
    else:
        stop_ids = sorted(template.stop_ids(source.tokenizer))
        finish(model, source.tokenizer, scratch, folder, stop_ids)
    attach_template(template, source.tokenizer, folder)
    for name, weight in kept.items():
        weights[name].copy_(weight)
