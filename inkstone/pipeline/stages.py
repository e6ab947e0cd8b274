"""The stages of a recipe, in order, as data: settings, what they need, and the room's function that does the work.

To follow the whole pipeline, read `build_stages` from top to bottom.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from inkstone.corpus import CorpusSettings, Workers, curate
from inkstone.corpus.read.files import is_url
from inkstone.errors import InputError
from inkstone.evaluate import evaluate_models
from inkstone.mixture import fit_mixture
from inkstone.model import save_model
from inkstone.primer import render_primer
from inkstone.progress import Progress
from inkstone.recipe import PRIMER_PARTS, Recipe
from inkstone.tokenizer import Tokenizer, encode_corpus, open_shards, train_tokenizer
from inkstone.train import new_model, pretrain
from inkstone.tune import sft

Work = Callable[[Path, Path, Progress], dict[str, object]]
"""(output directory, scratch directory that survives a kill, progress) -> key results."""


VERSIONS = {"corpus": 3, "tokenizer": 2}
"""Raised when the same settings would now give another result, so that finished stages run again."""


@dataclass(frozen=True)
class Stage:
    """One directory of the run. `version` grows when the same settings would now give another result."""

    name: str
    version: int
    settings: dict[str, BaseModel]
    needs: tuple[str, ...]
    inputs: tuple[Path | str, ...]  # strings are URLs
    work: Work


def build_stages(recipe: Recipe, workers: Workers | None = None) -> list[Stage]:
    """Every stage the recipe names; `workers` is where curation runs (default: as many as pay).

    Raises InputError naming all input paths that match nothing.
    """
    run = recipe.run_dir
    inputs = _Inputs(run)
    problems: list[str] = []
    stages: list[Stage] = []

    def add(name: str, settings: dict[str, BaseModel], needs: list[str], patterns: list[str], work: Work) -> None:
        external, from_primer = inputs.split(patterns, f"[{name}]", problems)
        wanted = (["primer"] if from_primer else []) + needs
        stages.append(Stage(name, VERSIONS.get(name, 1), settings, tuple(wanted), tuple(external), work))

    if (primer := recipe.primer) is not None:
        add("primer", {"primer": primer}, [], [], lambda out, _, p: render_primer(primer, out, p))
    if (corpus := recipe.corpus) is not None:
        add(
            "corpus", {"corpus": corpus}, [], corpus_files(corpus),
            lambda out, scratch, p: curate(
                corpus, inputs.resolve_with_urls(corpus.inputs), out, p, scratch / "passes", workers
            ),
        )  # fmt: skip
    if (tokenizer := recipe.tokenizer) is not None:
        add(
            "tokenizer", {"tokenizer": tokenizer}, ["corpus"], [],
            lambda out, _, p: train_tokenizer(tokenizer, run / "corpus", out, p),
        )  # fmt: skip
        add(
            "tokens", {"tokens": recipe.tokens}, ["corpus", "tokenizer"], [],
            lambda out, _, p: encode_corpus(
                recipe.tokens, run / "corpus", run / "tokenizer", out, p, run / ".tokens.parts"
            ),
        )  # fmt: skip
    if (mixture := recipe.mixture) is not None:
        add(
            "mixture", {"mixture": mixture}, ["tokens"], [],
            lambda out, _, p: fit_mixture(mixture, run / "tokens", _budget(recipe), run / "proxies", out, p),
        )  # fmt: skip
    if (training := recipe.pretrain) is not None:
        weights = run / "mixture" / "mixture.json" if recipe.mixture else None
        needs = ["tokens", "mixture"] if weights else ["tokens"]
        add(
            "pretrain", {"pretrain": training, "model": recipe.model}, needs, [],
            lambda out, scratch, p: pretrain(
                training, recipe.model, run / "tokens", run / "tokenizer", out, scratch, p, weights
            ),
        )  # fmt: skip
    if (tuning := recipe.sft) is not None:
        own = tuning.base == "pretrain"
        base = run / "pretrain" if own else Path(tuning.base)
        add(
            "sft", {"sft": tuning}, ["pretrain"] if own else [], tuning.inputs + ([] if own else [tuning.base]),
            lambda out, scratch, p: sft(tuning, inputs.resolve(tuning.inputs), base, out, scratch, p),
        )  # fmt: skip
    if recipe.evaluate is not None:
        needs = [stage.name for stage in stages if stage.name in ("tokens", "pretrain", "sft")]
        evaluation = recipe.evaluate
        patterns = [one for one in (evaluation.quiz, evaluation.problems, evaluation.prompts) if one]
        add(
            "evaluate", {"evaluate": evaluation}, needs, patterns,
            lambda out, scratch, p: _evaluate(recipe, inputs, out, scratch, p),
        )  # fmt: skip
    if problems:
        raise InputError(problems)
    return stages


def _budget(recipe: Recipe) -> int | None:
    """Tokens that [pretrain] will take, which decide how often a mixture repeats a domain."""
    training = recipe.pretrain
    if training is None:
        return None
    tokens = int(open_shards(recipe.run_dir / "tokens", "train").lengths.sum())
    return training.steps(max(1, tokens // training.sequence_length)) * training.batch_tokens


def _evaluate(recipe: Recipe, inputs: "_Inputs", output: Path, scratch: Path, progress: Progress) -> dict[str, object]:
    """Score an untrained model of the same shape, the base and the tuned model, so that each stage's gain shows."""
    settings, run = recipe.evaluate, recipe.run_dir
    assert settings is not None
    models: dict[str, Path] = {}
    untrained = output / "untrained"
    if recipe.pretrain:
        tokenizer = Tokenizer.load(run / "tokenizer")
        model = new_model(recipe.model, tokenizer.vocab_size, recipe.pretrain.seed)
        bos_id, eos_id, pad_id = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
        save_model(model, untrained, bos_id=bos_id, eos_id=eos_id, pad_id=pad_id, stop_ids=tokenizer.end_ids)
        tokenizer.save(untrained)
        models = {"untrained": untrained, "pretrain": run / "pretrain"}
    if recipe.sft:
        models["sft"] = run / "sft"
    quiz, problems, prompts = (
        inputs.resolve([one])[0] if one else None for one in (settings.quiz, settings.problems, settings.prompts)
    )
    tokens = run / "tokens" if settings.heldout and recipe.tokenizer else None
    scores = evaluate_models(settings, models, quiz, problems, tokens, output, progress, prompts, scratch)
    shutil.rmtree(untrained, ignore_errors=True)
    return scores


class _Inputs:
    """Turns a recipe's input patterns into paths: "primer:PART" lies in the run, the rest are files and globs."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def split(self, patterns: list[str], where: str, problems: list[str]) -> tuple[list[Path | str], bool]:
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

    def resolve(self, patterns: list[str]) -> list[Path]:
        """All paths, when everything they need exists."""
        return [path for path in self.resolve_with_urls(patterns) if isinstance(path, Path)]

    def resolve_with_urls(self, patterns: list[str]) -> list[Path | str]:
        """The same, and URLs as they are."""
        paths: list[Path | str] = []
        for pattern in patterns:
            if pattern.startswith("primer:"):
                paths.append(self.run_dir / "primer" / PRIMER_PARTS[pattern.removeprefix("primer:")])
            else:
                paths += [pattern] if is_url(pattern) else match_paths(pattern)
        return paths


def corpus_files(corpus: CorpusSettings) -> list[str]:
    """Every file and folder that the corpus is made from: raw text, known corpora, benchmarks, word lists, a model."""
    words = [given.file for given in corpus.word_lists.values()]
    model = [corpus.quality.model] if corpus.quality.model else []
    return [*corpus.inputs, *corpus.dedup.known, *corpus.decontaminate, *words, *model]


def match_paths(pattern: str) -> list[Path]:
    """Existing paths a pattern names, sorted; `**` descends into folders."""
    path = Path(pattern).expanduser()
    return [path] if path.exists() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
