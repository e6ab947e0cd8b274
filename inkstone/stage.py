"""A stage as its room says it: what the pipeline needs to know to run it, and what the room is given when it does.

    PRIMER = StageKind("primer", ("primer",), lambda job: render_primer(job.of(PrimerSettings), job.output, ...))

A stage is one directory of a run. Rooms export their kinds; the pipeline puts them in order, plans and runs them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel

from inkstone.errors import InkstoneError
from inkstone.progress import Progress

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")
Result = dict[str, object]
"""Key figures of a stage, for its stage.json."""


@dataclass(frozen=True)
class Job:
    """One stage at work. `section` is its place in the recipe, `sections` all that the recipe says.

    `output` is an empty directory that appears as a whole when the work ends; `scratch` survives a kill. `earlier` has
    the stages before this one, whose directories are `run_dir / name`; `resolve` turns input patterns into paths, URLs
    left as they are.
    """

    section: str
    sections: Mapping[str, BaseModel]
    run_dir: Path
    earlier: Mapping[str, "StageKind"]
    resolve: Callable[[list[str]], list[Path | str]]
    output: Path
    scratch: Path
    progress: Progress

    def of(self, kind: type[S], section: str | None = None) -> S:
        """The settings of a section (default: the stage's own), as what they are."""
        found = self.sections.get(section or self.section)
        if not isinstance(found, kind):
            raise InkstoneError(f"the recipe's [{section or self.section}] is no {kind.__name__}")
        return found

    def paths(self, patterns: list[str]) -> list[Path]:
        """What the patterns name on this machine."""
        return [path for path in self.resolve(patterns) if isinstance(path, Path)]


def _nothing(settings: Any, earlier: Mapping[str, "StageKind"]) -> list[str]:
    return []


@dataclass(frozen=True)
class StageKind:
    """`sections` decide the result; the stage runs where the recipe has the section `when` (default: the first).

    `needs` names the earlier stages it builds on, `inputs` the patterns of files from outside, both from the settings
    of the first section and the stages before. `version` grows when the same settings would now give another result.
    With `every_rank` all processes of a run work on it, else the first alone.
    """

    name: str
    sections: tuple[str, ...]
    work: Callable[[Job], Result]
    needs: Callable[[Any, Mapping[str, "StageKind"]], list[str]] = _nothing
    inputs: Callable[[Any, Mapping[str, "StageKind"]], list[str]] = _nothing
    version: int = 1
    when: str | None = None
    every_rank: bool = False
    makes_model: bool = False


_MARK = "machine"
Machine = Annotated[T, _MARK]
"""`log_steps: Machine[int] = Field(...)`: the setting decides where or how a run happens, not what comes out."""


def deciding(settings: BaseModel) -> dict[str, Any]:
    """The settings that decide the result, as plain data."""
    plain: dict[str, Any] = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        inner = getattr(settings, name)
        if _MARK in field.metadata:
            del plain[name]
        elif isinstance(inner, BaseModel):
            plain[name] = deciding(inner)
    return plain
