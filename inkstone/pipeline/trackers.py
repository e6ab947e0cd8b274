"""Trackers: programs that draw a run's figures while it goes, fed from the events that the run writes anyway.

    trackers = ["tensorboard", "wandb"]      # in a recipe; what is not said is TensorBoard, where it is installed

metrics.jsonl is written whatever is here. Another program needs one class with the three methods of `Tracker`; rows are
those of metrics.jsonl, and a run that was killed draws on from the step it continues at.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from inkstone.errors import InputError
from inkstone.pipeline.events import Event, Observer
from inkstone.progress import Field
from inkstone.recipe import Recipe


class Tracker(Protocol):
    """What draws figures."""

    def __init__(self, recipe: Recipe) -> None: ...

    def draw(self, stage: str, step: int, row: Mapping[str, Field]) -> None:
        """Figures of one step of a stage."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """`RUN/tensorboard/STAGE`: tensorboard --logdir runs."""

    def __init__(self, recipe: Recipe) -> None:
        self.folder = recipe.run_dir / "tensorboard"
        self.writers: dict[str, Any] = {}

    def draw(self, stage: str, step: int, row: Mapping[str, Field]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if stage not in self.writers:  # what a killed process drew at this step or later is taken back
            self.writers[stage] = SummaryWriter(str(self.folder / stage), purge_step=step)
        for name, figure in row.items():
            if isinstance(figure, int | float):
                self.writers[stage].add_scalar(name, figure, step)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class WandB:
    """Weights & Biases: one run of the project "inkstone" per run directory; WANDB_MODE=offline needs no network."""

    def __init__(self, recipe: Recipe) -> None:
        import wandb

        settings = {name: section.model_dump(mode="json") for name, section in recipe.sections().items()}
        folder = recipe.run_dir / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(project="inkstone", name=recipe.name, dir=str(folder), config=settings)

    def draw(self, stage: str, step: int, row: Mapping[str, Field]) -> None:
        self.run.log({f"{stage}/{name}": figure for name, figure in row.items() if figure is not None})

    def close(self) -> None:
        self.run.finish()


_TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


@contextmanager
def tracked(recipe: Recipe, observer: Observer | None, note: Callable[[str], None]) -> Iterator[Observer]:
    """An observer that tells `observer` everything and the recipe's trackers each row of figures.

    A tracker that fails is named in a note and left out from then on: a drawing must not end a run. Raises InputError
    for one that is asked for and not installed.
    """
    trackers = {name: _TRACKERS[name](recipe) for name in _wanted(recipe)}

    def tell(event: Event) -> None:
        if observer:
            observer(event)
        if event["kind"] != "metrics":
            return
        for name, tracker in list(trackers.items()):
            try:
                tracker.draw(event["stage"], int(event["row"].get("step") or 0), event["row"])
            except Exception as error:  # whatever a library or its network may raise
                del trackers[name]
                note(f"tracker {name} failed and is left out: {type(error).__name__}: {error}")

    try:
        yield tell
    finally:
        for tracker in trackers.values():
            tracker.close()


def _wanted(recipe: Recipe) -> list[str]:
    if recipe.trackers is None:
        return ["tensorboard"] if find_spec("tensorboard") else []
    missing = [name for name in recipe.trackers if not find_spec(name)]
    if missing:
        raise InputError(f"{recipe.origin}: trackers = {recipe.trackers}, but {', '.join(missing)} is not installed: "
                         f"pip install {' '.join(missing)}")  # fmt: skip
    return list(recipe.trackers)
