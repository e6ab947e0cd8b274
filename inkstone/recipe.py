"""The recipe: one TOML file that says which stages run and how, validated as a whole before anything starts.

    recipe = read_recipe(Path("recipes/primer.toml"), ['pretrain.learning_rate=1e-3'])

A section that is present is a stage that runs. Every problem is reported at once, with its section and key; unknown
keys are errors, because a misspelt setting that is silently ignored costs a training run.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from inkstone.corpus import CorpusSettings
from inkstone.errors import InputError
from inkstone.evaluate import EvaluateSettings
from inkstone.mixture import MixtureSettings
from inkstone.model import ModelSettings
from inkstone.model.size import is_size, training_of
from inkstone.primer import PrimerSettings
from inkstone.quantize import QuantizeSettings
from inkstone.tokenizer import TokenizerSettings, TokensSettings
from inkstone.train import PRETRAIN, PretrainSettings, TrainSettings
from inkstone.tune import SFT, SFTSettings


class Recipe(BaseModel, extra="forbid", frozen=True):
    """A run. Sections that are None are stages that do not run."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="the run's directory is runs_dir/name")
    runs_dir: str = Field("runs", description="where run directories are")
    trackers: list[Literal["tensorboard", "wandb"]] | None = Field(
        None, description="what draws the figures as they come; default: TensorBoard, where it is installed"
    )
    primer: PrimerSettings | None = None
    corpus: CorpusSettings | None = None
    tokenizer: TokenizerSettings | None = None
    tokens: TokensSettings = TokensSettings()
    mixture: MixtureSettings | None = None
    model: ModelSettings = ModelSettings()
    pretrain: PretrainSettings | None = None
    sft: SFTSettings | None = None
    tune: dict[str, SFTSettings] = Field({}, description="further tuning stages, by name, in order")
    quantize: QuantizeSettings | None = None
    evaluate: EvaluateSettings | None = None

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name

    _origin: str = PrivateAttr("")

    @property
    def origin(self) -> str:
        """Where it was read from, for sentences."""
        return self._origin or f"recipe {self.name}"

    def tunings(self) -> dict[str, SFTSettings]:
        """Every tuning stage by its name: [sft], then those of [tune]."""
        return {**({SFT.name: self.sft} if self.sft else {}), **self.tune}

    def sections(self) -> dict[str, BaseModel]:
        """What the recipe says, by the section's name; tuning stages stand beside the others."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, BaseModel)} | self.tunings()


def read_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read and validate. `overrides` are "section.key=value" with TOML values; a bare word is a string.

    Raises InputError with every problem found.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such recipe; recipes/ holds some to start from") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read as a recipe: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} is not valid TOML: {why}") from error
    problems = [problem for override in overrides or [] if (problem := _apply(values, override))]
    if _holds_nul(values):
        raise InputError([*problems, f"{path}: a value holds the character NUL: write it without"])
    recipe, found = _validate(_sized(values))
    problems += [f"{path}: {problem}" for problem in found]
    if problems or recipe is None:
        raise InputError(problems)
    recipe._origin = str(path)
    return recipe


def _apply(values: dict[str, Any], override: str) -> str | None:
    """Set one key in place; returns what is wrong with the override."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        return f"--set {override}: expected key=value, e.g. --set pretrain.epochs=2"
    *parents, last = key.strip().split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            return f"--set {override}: {parent} is not a section"
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = text
    except RecursionError:
        return f"--set {key}: its value is nested too deeply"
    return None


def _sized(values: dict[str, Any]) -> dict[str, Any]:
    """[model] size decides what [pretrain] does not say itself."""
    model, pretrain = values.get("model"), values.get("pretrain")
    if not (isinstance(model, dict) and isinstance(pretrain, dict) and is_size(model.get("size"))):
        return values
    length = pretrain.get("sequence_length", PretrainSettings.model_fields["sequence_length"].default)
    derived = training_of(model["size"], length) if isinstance(length, int) and length > 0 else {}
    if "batch_tokens" in pretrain:
        derived.pop("micro_batch_tokens", None)
    return {**values, "pretrain": {**derived, **pretrain}}


def _holds_nul(value: object) -> bool:
    """No path, name or text may hold it; the system refuses it in every place in another way."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, str) and "\0" in value) or any(map(_holds_nul, inner))


def _validate(values: dict[str, Any]) -> tuple[Recipe | None, list[str]]:
    """The recipe, or None and every problem; sections are checked apart so that one does not hide another's."""
    problems: list[str] = []
    good: dict[str, Any] = {}
    for name, value in values.items():
        field = Recipe.model_fields.get(name)
        if field is None:
            problems.append(_unknown(name, Recipe, name))
            continue
        try:
            Recipe.model_validate({"name": "x", name: value})
            good[name] = value
        except ValidationError as error:
            problems += [_sentence(one, name) for one in error.errors() if one["loc"][:1] == (name,)]
    if "name" not in values:
        problems.append("name is missing: every run needs one")
    partial = Recipe.model_validate({"name": "x", **good})
    problems += _across_sections(partial, set(values))
    return (None, problems) if problems else (partial, [])


def _sentence(error: Any, section: str) -> str:
    """One pydantic error as `[section] key = value: what is wrong`."""
    keys = [str(part) for part in error["loc"][1:]]
    heading = f"[{section}]" if _settings_at(section, []) else section
    where = " ".join([heading, *filter(None, [".".join(keys)])])
    if error["type"] == "extra_forbidden":
        settings = _settings_at(section, keys[:-1])
        return _unknown(where, settings, keys[-1]) if settings else f"{where}: there is no such key"
    if error["type"] == "missing":
        return f"{where} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _settings_at(section: str, keys: list[str]) -> type[BaseModel] | None:
    """The settings model that holds a key, for suggestions."""
    model: type[BaseModel] = Recipe
    for key in [section, *keys]:
        field = model.model_fields.get(key)
        options = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        found = [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]
        if not found:
            return None
        model = found[0]
    return model


def _unknown(where: str, settings: type[BaseModel], key: str) -> str:
    close = difflib.get_close_matches(key, settings.model_fields, 1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(settings.model_fields)}"
    return f"{where}: there is no such key; {hint}"


def _across_sections(recipe: Recipe, present: set[str]) -> list[str]:
    """What is wrong between sections that are fine by themselves."""
    problems = []
    needs = {"tokenizer": "corpus", "mixture": "tokenizer", PRETRAIN.name: "tokenizer"}
    problems += [
        f"[{name}] needs a [{need}] section" for name, need in needs.items() if name in present and need not in present
    ]
    problems += _wrong_bases(recipe)
    if recipe.pretrain and recipe.pretrain.base and "model" in present:
        problems.append("[model] has no part in a run whose [pretrain] has a base, which brings its shape: remove one")
    fresh = recipe.pretrain and not recipe.pretrain.base
    own: dict[str, TrainSettings] = {PRETRAIN.name: recipe.pretrain} if recipe.pretrain and fresh else {}
    for name, tuning in recipe.tunings().items():
        own |= {name: tuning} if tuning.base in own else {}
    problems += [
        f"[{name}] sequence_length = {stage.sequence_length} exceeds the model's {recipe.model.max_positions} "
        f"positions: shorten it, or raise [model] max_positions"
        for name, stage in own.items()
        if stage.sequence_length > recipe.model.max_positions
    ]
    problems += _nothing_to_evaluate(recipe, present)
    for where, reference in _references(recipe):
        if reference.startswith("primer:"):
            if "primer" not in present:
                problems.append(f'{where} = "{reference}" needs a [primer] section')
            elif reference.removeprefix("primer:") not in PRIMER_PARTS:
                known = ", ".join(f"primer:{part}" for part in PRIMER_PARTS)
                problems.append(f'{where} = "{reference}": there is no such part; known: {known}')
    return problems


def _wrong_bases(recipe: Recipe) -> list[str]:
    """What is wrong with the names of tuning stages and with what they start from."""
    problems = []
    before = [PRETRAIN.name] if recipe.pretrain else []
    tunings = recipe.tunings()
    for name, tuning in tunings.items():
        where = f"[{name}]" if name == SFT.name else f"[tune.{name}]"
        if name in recipe.tune and (name in Recipe.model_fields or not re.fullmatch(r"\w[\w-]*", name)):
            problems.append(f"{where}: a tuning stage cannot be called {name}: its directory is another stage's")
        if tuning.base in before:
            pass
        elif tuning.base in tunings:
            problems.append(f'{where} base = "{tuning.base}" is no earlier stage: write its section before this one')
        elif tuning.base == PRETRAIN.name:
            problems.append(
                f'{where} base = "{tuning.base}" needs a [{tuning.base}] section; or set base to a model directory'
            )
        before.append(name)
    return problems


def _nothing_to_evaluate(recipe: Recipe, present: set[str]) -> list[str]:
    """Why an [evaluate] section would have no model or no question."""
    asked = recipe.evaluate
    if asked is None:
        return []
    if not recipe.pretrain and not recipe.tunings():
        return ["[evaluate] needs a [pretrain] or [sft] section; for a model directory use inkstone evaluate"]
    if not (asked.quiz or asked.problems or asked.prompts or asked.tasks or (asked.heldout and "tokenizer" in present)):
        return [
            "[evaluate] has nothing to do: set quiz, problems, prompts or tasks, "
            "or heldout = true with a [tokenizer] section"
        ]
    return []


PRIMER_PARTS = {
    "raw": "raw",
    "chats": "chats.jsonl",
    "preferences": "preferences.jsonl",
    "quiz": "quiz",
    "problems": "problems",
    "prompts": "prompts.json",
}
"""What "primer:PART" stands for, below the primer stage's directory."""


def _references(recipe: Recipe) -> list[tuple[str, str]]:
    """(where, value) of every setting that names input data."""
    found = []
    if recipe.corpus:
        found += [("[corpus] inputs", one) for one in recipe.corpus.inputs]
    for name, tuning in recipe.tunings().items():
        found += [(f"[{name}] inputs", one) for one in [*tuning.inputs, *tuning.heldout, *tuning.texts]]
    if recipe.evaluate:
        names = ("quiz", "problems", "prompts")
        found += [(f"[evaluate] {name}", str(getattr(recipe.evaluate, name))) for name in names]
    return found
