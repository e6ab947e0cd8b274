"""The stages of a recipe, in order: the kinds that rooms export, with this recipe's settings, needs and inputs.

To follow the whole pipeline, read `KINDS` from top to bottom; then come tuning stages, quantisation, evaluation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from inkstone.chat.dataset_info import is_entry
from inkstone.corpus import CORPUS
from inkstone.corpus.read.files import is_url
from inkstone.errors import InputError
from inkstone.evaluate import EVALUATE
from inkstone.mixture import MIXTURE
from inkstone.primer import PRIMER
from inkstone.progress import Progress
from inkstone.quantize import QUANTIZE
from inkstone.recipe import PRIMER_PARTS, Recipe
from inkstone.stage import Job, StageKind
from inkstone.tokenizer import TOKENIZER, TOKENS
from inkstone.train import PRETRAIN
from inkstone.tune import SFT

KINDS = (PRIMER, CORPUS, TOKENIZER, TOKENS, MIXTURE, PRETRAIN)


@dataclass(frozen=True)
class Stage:
    """One directory of the run: its kind, its name, and what decides whether it is fresh. String inputs are URLs."""

    name: str
    kind: StageKind
    settings: dict[str, BaseModel]
    needs: tuple[str, ...]
    inputs: tuple[Path | str, ...]
    earlier: dict[str, StageKind]


def build_stages(recipe: Recipe) -> list[Stage]:
    """Every stage the recipe names. Raises InputError naming all input paths that match nothing."""
    sections = recipe.sections()
    problems: list[str] = []
    stages: list[Stage] = []
    earlier: dict[str, StageKind] = {}
    for name, kind in _named(recipe):
        own = name if kind is SFT else kind.sections[0]
        patterns = kind.inputs(sections[own], earlier)
        external, from_primer = _split(patterns, f"[{name}]", problems)
        needs = ([PRIMER.name] if from_primer else []) + kind.needs(sections[own], earlier)
        settings = {section: sections[section] for section in (own, *kind.sections[1:])}
        stages.append(Stage(name, kind, settings, tuple(needs), tuple(external), dict(earlier)))
        earlier[name] = kind
    run = recipe.run_dir.resolve()
    problems += [
        f"{path} holds the run's own folder {recipe.run_dir}, which would be read as input: name other folders or files"
        for path in dict.fromkeys(one for stage in stages for one in stage.inputs)
        if isinstance(path, Path) and path.resolve() in (run, *run.parents) and path.is_dir()
    ]
    if problems:
        raise InputError(problems)
    return stages


def job(recipe: Recipe, stage: Stage, output: Path, scratch: Path, progress: Progress) -> Job:
    """What the stage's work is given."""
    run = recipe.run_dir
    return Job(
        section=next(iter(stage.settings)),
        sections=recipe.sections(),
        run_dir=run,
        earlier=stage.earlier,
        resolve=lambda patterns: resolve(patterns, run),
        output=output,
        scratch=scratch,
        progress=progress,
    )


def _named(recipe: Recipe) -> Iterator[tuple[str, StageKind]]:
    """The stages that run, as (name, kind)."""
    sections = recipe.sections()
    yield from ((kind.name, kind) for kind in KINDS if (kind.when or kind.sections[0]) in sections)
    yield from ((name, SFT) for name in recipe.tunings())
    yield from ((kind.name, kind) for kind in (QUANTIZE, EVALUATE) if kind.name in sections)


def _split(patterns: list[str], where: str, problems: list[str]) -> tuple[list[Path | str], bool]:
    """External paths and URLs, and whether any is a part of the primer; what matches nothing is a problem."""
    external: list[Path | str] = []
    for pattern in patterns:
        if pattern.startswith("primer:"):
            continue
        if is_url(pattern):
            external.append(pattern)
            continue
        found = match_paths(pattern)
        if not found:
            problems.append(f'{where} "{pattern}" matches no file: correct the path (seen from {Path.cwd()})')
        external += found
    return external, any(pattern.startswith("primer:") for pattern in patterns)


def resolve(patterns: list[str], run_dir: Path) -> list[Path | str]:
    """Paths of patterns, when everything they need exists: "primer:PART" lies in the run; URLs as they are."""
    paths: list[Path | str] = []
    for pattern in patterns:
        if pattern.startswith("primer:"):
            paths.append(run_dir / PRIMER.name / PRIMER_PARTS[pattern.removeprefix("primer:")])
        else:
            paths += [pattern] if is_url(pattern) else match_paths(pattern)
    return paths


def match_paths(pattern: str) -> list[Path]:
    """Existing paths a pattern names, sorted; `**` descends into folders, `#` names an entry of a dataset_info.json."""
    try:
        path = Path(pattern).expanduser()
    except RuntimeError as error:
        raise InputError(f'"{pattern}": {str(error).rstrip(".").lower()}') from error
    if path.resolve() == Path(path.anchor or "/").resolve():
        raise InputError(f'"{pattern}" is the whole file system: name the folder with the files')
    if is_entry(path):
        return [path] if Path(str(path).partition("#")[0]).is_file() else []
    return [path] if path.exists() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
