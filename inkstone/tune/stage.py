"""A tuning stage: a base model and conversations or preference pairs in, a chat model directory out.

The template is inside, and with an adapter the adapter alone too (`adapter/`, as PEFT reads it).
"""

from dataclasses import asdict
from pathlib import Path

from inkstone.model.decoder.lora import adapter_off
from inkstone.stage import Job, Result, StageKind
from inkstone.train import InOrder, heldout_loss, join_mesh
from inkstone.train.arithmetic import choose_arithmetic
from inkstone.tune.conversations import packed_chats
from inkstone.tune.ends import Work, open_base, write_tuned
from inkstone.tune.merge import merge_models
from inkstone.tune.noise import NoisyEmbeddings
from inkstone.tune.prefer import prefer
from inkstone.tune.proximal import proximal
from inkstone.tune.rank import rank
from inkstone.tune.reinforce import reinforce
from inkstone.tune.settings import SFTSettings
from inkstone.tune.verdicts import kto


def sft(work: Work) -> dict[str, object]:
    """Tune on conversations; returns the run's figures. With `tests` the base is measured on them too."""
    template, tokenizer, model = open_base(work)
    settings = work.settings
    rows, heldout, counts = packed_chats(work, template, tokenizer)
    work.progress.note(
        f"{counts['conversations']} conversations in {rows.rows_per_epoch} rows ({rows.fill:.0%} full), "
        f"{settings.steps(rows.rows_per_epoch)} steps",
        **counts,
    )
    before = {}
    if work.tests and heldout:
        model.to(choose_arithmetic(settings, 0).device)
        with adapter_off(model):
            before = {"heldout_loss_before": heldout_loss(model, heldout, settings)}
    objective = NoisyEmbeddings(settings.neftune_alpha) if settings.neftune_alpha else None
    result = work.train(model, InOrder(rows), objective, heldout)
    write_tuned(work, model, template, tokenizer)
    return {**asdict(result), **before, **counts}


def join(work: Work) -> dict[str, object]:
    """Join models into one; nothing is learned."""
    how, others = work.settings.merge.how(work.settings.seed), list(work.others)
    origin = others.pop() if work.settings.merge.origin else None
    if work.mesh.first:
        merge_models([work.base_dir, *others], work.output, how, origin, work.progress)
    return {"models": len(others) + 1, "merge": how.method}


_METHODS = {
    "sft": sft,
    "preference": prefer,
    "kto": kto,
    "grpo": reinforce,
    "reward": rank,
    "ppo": proximal,
    "merge": join,
}


def _run(job: Job) -> Result:
    settings = job.of(SFTSettings)

    def place(name: str) -> Path:
        return job.run_dir / name if name in job.earlier else Path(name)

    judge, joined = settings.ppo.reward_model, settings.merge
    places = (place(settings.base), job.output, job.scratch, job.progress, join_mesh(settings.shard, settings.tensor))
    work = Work(
        settings,
        job.paths(settings.inputs),
        *places,
        tests=job.paths(settings.heldout),
        judge_dir=place(judge) if judge else None,
        texts=job.paths(settings.texts),
        ptx=job.paths(settings.ppo.ptx),
        tuned_on=job.paths(_tuned_on(job, settings)),
        rows=job.run_dir / ".rows" / job.section,
        others=[place(name) for name in (*joined.models, joined.origin) if name],
    )
    return _METHODS[settings.method](work)


def _tuned_on(job: Job, settings: SFTSettings) -> list[str]:
    """What the base of PPO or GRPO learned conversations from, as far as the recipe says."""
    if settings.method not in ("ppo", "grpo"):
        return []
    how = settings.ppo if settings.method == "ppo" else settings.grpo
    before = settings
    while not how.tuned_on and before.base in job.earlier and job.earlier[before.base] is SFT:
        before = job.of(SFTSettings, before.base)
        if before.method == "sft":
            return before.inputs
    return how.tuned_on or (settings.ppo.ptx if settings.method == "ppo" else [])


def _models(settings: SFTSettings) -> list[str]:
    """Stages or directories that the stage starts from."""
    judge = [settings.ppo.reward_model] if settings.method == "ppo" and settings.ppo.reward_model else []
    joined = [name for name in (*settings.merge.models, settings.merge.origin) if name]
    return [settings.base, *judge, *joined]


SFT = StageKind(
    "sft",
    ("sft",),
    _run,
    needs=lambda settings, earlier: [name for name in _models(settings) if name in earlier],
    inputs=lambda settings, earlier: [
        *settings.inputs,
        *settings.heldout,
        *settings.texts,
        *([*settings.ppo.ptx, *settings.ppo.tuned_on] if settings.method == "ppo" else []),
        *(settings.grpo.tuned_on if settings.method == "grpo" else []),
        *(name for name in _models(settings) if name not in earlier),
    ],
    every_rank=True,
    makes_model=True,
)
