"""A tuning stage: a base model and conversations or preference pairs in, a chat model directory out.

The template is inside, and with an adapter the adapter alone too (`adapter/`, as PEFT reads it).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from inkstone.progress import Progress
from inkstone.stage import Job, Result, StageKind
from inkstone.train import InOrder, Mesh, heldout_loss, join_mesh, train
from inkstone.train.arithmetic import choose_arithmetic
from inkstone.train.mesh import ALONE
from inkstone.tune.conversations import packed_chats
from inkstone.tune.ends import open_base, write_tuned
from inkstone.tune.prefer import prefer
from inkstone.tune.proximal import proximal
from inkstone.tune.rank import rank
from inkstone.tune.reinforce import reinforce
from inkstone.tune.settings import SFTSettings


def sft(
    settings: SFTSettings,
    inputs: list[Path],
    base_dir: Path,
    output: Path,
    scratch: Path,
    progress: Progress,
    mesh: Mesh = ALONE,
    tests: Sequence[Path] = (),
) -> dict[str, object]:
    """Tune the model of `base_dir` on the conversations of `inputs`; returns the run's figures.

    With `tests` the base and the tuned model are measured on the conversations of these files.
    """
    template, tokenizer, model = open_base(settings, base_dir, mesh)
    rows, heldout, counts = packed_chats(inputs, template, settings, tokenizer, tests)
    progress.note(
        f"{counts['conversations']} conversations in {rows.rows_per_epoch} rows ({rows.fill:.0%} full), "
        f"{settings.steps(rows.rows_per_epoch)} steps",
        **counts,
    )
    before = {}
    if tests and heldout:
        model.to(choose_arithmetic(settings, 0).device)
        before = {"heldout_loss_before": heldout_loss(model, heldout, settings)}
    result = train(model, InOrder(rows), settings, scratch, progress, heldout=heldout, mesh=mesh)
    write_tuned(settings, model, template, tokenizer, base_dir, output, scratch, mesh)
    return {**asdict(result), **before, **counts}


def _run(job: Job) -> Result:
    settings = job.of(SFTSettings)
    base = job.run_dir / settings.base if settings.base in job.earlier else Path(settings.base)
    inputs = job.paths(settings.inputs)
    told = (settings, inputs, base, job.output, job.scratch, job.progress, join_mesh(settings.shard))
    if settings.method == "ppo":
        name = settings.ppo.reward_model
        judge = None if not name else job.run_dir / name if name in job.earlier else Path(name)
        return proximal(*told, judge, job.paths(settings.ppo.ptx))
    if settings.method in ("grpo", "reward"):
        return {"grpo": reinforce, "reward": rank}[settings.method](*told)
    return {"sft": sft, "preference": prefer}[settings.method](*told, tests=job.paths(settings.heldout))


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
