"""A run: lock it, plan it, do what is missing or stale, and tell what happens as events.

    run(read_recipe(Path("recipes/primer.toml")), observer=print)

Under torchrun every process calls it: the first locks, plans, writes and reports; the others wait at the borders of
stages and join those that all ranks work on.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from inkstone.errors import InkstoneError, InputError
from inkstone.pipeline.check import check_inputs
from inkstone.pipeline.events import EventLog, Observer, StageEvents
from inkstone.pipeline.execute import execute, locked, scratch_of, tidy
from inkstone.pipeline.forecast import forecast
from inkstone.pipeline.plan import Planned, make_plan
from inkstone.pipeline.stages import Stage, build_stages, job
from inkstone.pipeline.trackers import tracked
from inkstone.progress import Silent
from inkstone.recipe import Recipe
from inkstone.report import render_report
from inkstone.storage import Digests
from inkstone.train import Mesh, TrainSettings, join_mesh
from inkstone.train.mesh import announce

_NOTHING_MORE = "nothing more"


def run(
    recipe: Recipe,
    until: str | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Planned]:
    """Do every stage up to `until` that is missing or stale; returns those that were done.

    Raises InputError for what a user must change, InkstoneError for damage and failures, KeyboardInterrupt when it was
    stopped: by a signal, or because `should_stop` said so while a stage was training.
    """
    stages = chosen_stages(recipe, until)
    mesh = join_mesh()
    if not mesh.first:
        _follow(recipe, stages, mesh)
        return []
    together = False
    try:
        with locked(recipe.run_dir):
            waiting = _plan(recipe, stages)
            if waiting:
                log = EventLog(recipe.run_dir / "events.jsonl")
                with tracked(recipe, observer, log.note) as log.observer:
                    names = [planned.stage.name for planned in waiting]
                    log.write("", "plan", stages=[stage.name for stage in stages], waiting=names)
                    for planned in waiting:
                        together = planned.stage.kind.every_rank
                        _lead(recipe, planned, log, should_stop, mesh, names)
                        together = False
            if waiting or not (recipe.run_dir / "report.html").is_file():
                render_report(recipe.run_dir)
    finally:
        # In the middle of a stage that all work on, the others are not at a border: they end with their own error.
        if not together:
            announce(_NOTHING_MORE, mesh)
    return waiting


def chosen_stages(recipe: Recipe, until: str | None) -> list[Stage]:
    """The recipe's stages up to `until`. Raises InputError when there is no such stage, or none at all."""
    stages = build_stages(recipe)
    names = [stage.name for stage in stages]
    if not names:
        raise InputError(f"{recipe.origin} names no stage: add a section such as [corpus] or [pretrain]")
    if until is not None and until not in names:
        raise InputError(f'{recipe.origin} has no stage "{until}"; it has: {", ".join(names)}')
    return stages[: names.index(until) + 1] if until else stages


def _plan(recipe: Recipe, stages: list[Stage]) -> list[Planned]:
    """What is to be done, when everything that is known beforehand is in order."""
    tidy(recipe.run_dir, stages)
    digests = Digests(recipe.run_dir / ".digests.json")
    plan = make_plan(recipe.run_dir, stages, digests, contents=True)
    digests.save()
    damage = [planned.damage for planned in plan if planned.damage]
    if damage:
        raise InkstoneError("\n".join(damage))
    waiting = [planned for planned in plan if planned.reason]
    problems = [one for found in check_inputs(recipe, {p.stage.name for p in waiting}).values() for one in found]
    if problems:
        raise InputError(problems)
    return waiting


def _lead(
    recipe: Recipe,
    planned: Planned,
    log: EventLog,
    should_stop: Callable[[], bool] | None,
    mesh: Mesh,
    waiting: list[str],
) -> None:
    """Do one stage, with the other ranks where they are needed."""
    stage = planned.stage
    scratch = scratch_of(recipe.run_dir, planned)
    log.write(stage.name, "start", reason=planned.reason)
    if stage.kind.every_rank:
        announce(json.dumps({"stage": stage.name, "scratch": str(scratch)}), mesh)
    events, settings = StageEvents(log, stage.name, should_stop), next(iter(stage.settings.values()))
    if isinstance(settings, TrainSettings):
        events.watch = forecast(recipe, stage.name, settings, events.note, mesh.size) or events.watch
    try:
        result = execute(recipe, planned, scratch, events)
    except BaseException as error:
        with suppress(InkstoneError, OSError):  # a full disk must not hide why the stage failed
            log.write(stage.name, "failed", error=str(error) or type(error).__name__)
        raise
    number, directory = waiting.index(stage.name) + 1, str(recipe.run_dir / stage.name)
    log.write(stage.name, "done", directory=directory, number=number, of=len(waiting), result=result)


def _follow(recipe: Recipe, stages: list[Stage], mesh: Mesh) -> None:
    """Join the stages that the first rank announces, until it has nothing more; nothing is written here."""
    by_name = {stage.name: stage for stage in stages}
    while (message := announce(_NOTHING_MORE, mesh)) != _NOTHING_MORE:
        said = json.loads(message)
        stage, scratch = by_name[said["stage"]], Path(said["scratch"])
        stage.kind.work(job(recipe, stage, scratch / "unused", scratch, Silent()))
