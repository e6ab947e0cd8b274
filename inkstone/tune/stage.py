"""A tuning stage: a base model and conversations or preference pairs in, a chat model directory out.

The template is inside, and with an adapter the adapter alone too (`adapter/`, as PEFT reads it).
"""

from dataclasses import asdict
from pathlib import Path

from inkstone.stage import Job, Result, StageKind
from inkstone.train import InOrder, heldout_loss, join_mesh
from inkstone.train.arithmetic import choose_arithmetic
from inkstone.tune.conversations import packed_chats
from inkstone.tune.ends import Work, open_base, write_tuned
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
    rows, heldout, counts = packed_chats(work.inputs, template, settings, tokenizer, work.tests)
    work.progress.note(
        f"{counts['conversations']} conversations in {rows.rows_per_epoch} rows ({rows.fill:.0%} full), "
        f"{settings.steps(rows.rows_per_epoch)} steps",
        **counts,
    )
    before = {}
    if work.tests and heldout:
        model.to(choose_arithmetic(settings, 0).device)
        before = {"heldout_loss_before": heldout_loss(model, heldout, settings)}
    objective = NoisyEmbeddings(settings.neftune_alpha) if settings.neftune_alpha else None
    result = work.train(model, InOrder(rows), objective, heldout)
    write_tuned(work, model, template, tokenizer)
    return {**asdict(result), **before, **counts}


def _run(job: Job) -> Result:
    settings = job.of(SFTSettings)
    base = job.run_dir / settings.base if settings.base in job.earlier else Path(settings.base)
    name = settings.ppo.reward_model
    work = Work(
        settings, job.paths(settings.inputs), base, job.output, job.scratch, job.progress, join_mesh(settings.shard),
        tests=job.paths(settings.heldout), ptx=job.paths(settings.ppo.ptx),
        judge_dir=None if not name else job.run_dir / name if name in job.earlier else Path(name),
    )  # fmt: skip
    methods = {"sft": sft, "preference": prefer, "kto": kto, "grpo": reinforce, "reward": rank, "ppo": proximal}
    return methods[settings.method](work)


def _models(settings: SFTSettings) -> list[str]:
    """Stages or directories that the stage starts from."""
    judge = [settings.ppo.reward_model] if settings.method == "ppo" and settings.ppo.reward_model else []
    return [settings.base, *judge]


SFT = StageKind(
    "sft",
    ("sft",),
    _run,
    needs=lambda settings, earlier: [name for name in _models(settings) if name in earlier],
    inputs=lambda settings, earlier: [
        *settings.inputs,
        *settings.heldout,
        *(settings.ppo.ptx if settings.method == "ppo" else []),
        *(name for name in _models(settings) if name not in earlier),
    ],
    every_rank=True,
    makes_model=True,
)
