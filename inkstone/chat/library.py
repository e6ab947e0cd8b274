"""The formats we know, by name, and which of them a checkpoint was tuned with.

    TEMPLATES["baichuan"]
    choose_template(Path("Baichuan-13B-Chat")).reason   # why, in a sentence

A format is a file in `templates/`, in the form of `schema`, with a `[match]` table that says how its checkpoints are
recognised. Nothing of a checkpoint is executed: its own Jinja template is only searched for control strings.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkstone.chat.export import JINJA_FILE, TEMPLATE_FILE, load_template
from inkstone.chat.schema import template_from
from inkstone.chat.template import Template
from inkstone.errors import InkstoneError, InputError
from inkstone.storage import read_json_object
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.foreign.gguf import read_metadata


@dataclass(frozen=True)
class Match:
    """How checkpoints of a format look. All that is given must hold; what says most about a checkpoint wins."""

    model_types: tuple[str, ...] = ()  # of config.json
    tokens: tuple[tuple[str, int | None], ...] = ()  # names in the vocabulary, with their ids where that matters
    without: tuple[str, ...] = ()  # names that are not in the vocabulary
    vocab_size: int | None = None  # of config.json, asked when there is no readable tokenizer
    marks: tuple[str, ...] = ()  # strings in the checkpoint's own Jinja template


@dataclass(frozen=True)
class TemplateChoice:
    """A template and the reason for it, as a sentence."""

    template: Template
    reason: str


def _read_library() -> tuple[dict[str, Template], dict[str, Match]]:
    templates, matches = {}, {}
    for path in sorted((Path(__file__).parent / "templates").glob("*.toml"), key=lambda path: path.stem):
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        match = values.pop("match", {})
        template = template_from(values)
        templates[template.name] = template
        matches[template.name] = Match(
            model_types=tuple(match.get("model_types", ())),
            tokens=tuple((token["name"], token.get("id")) for token in match.get("tokens", ())),
            without=tuple(match.get("without", ())),
            vocab_size=match.get("vocab_size"),
            marks=tuple(match.get("marks", ())),
        )
    return templates, matches


TEMPLATES, _MATCHES = _read_library()
CHATML = TEMPLATES["chatml"]


def template_named(name: str) -> Template:
    """Raises InputError with the known names."""
    if name not in TEMPLATES:
        raise InputError(f'there is no template "{name}"; known are {", ".join(TEMPLATES)}')
    return TEMPLATES[name]


def find_template(directory: Path, name: str | None = None) -> Template:
    """The template of a model directory: `name`, else what the directory says. Raises as `choose_template` does."""
    return choose_template(directory, name).template


def choose_template(directory: Path, name: str | None = None) -> TemplateChoice:
    """Our chat_template.json first; else the marks of the checkpoint's own Jinja template; else its vocabulary.

    Raises InputError where nothing or too much fits: a base model has no template, and LLaMA's files do not say which
    one a chat model was tuned with.
    """
    if name is not None:
        return TemplateChoice(template_named(name), f"{name}: asked for by name")
    if (directory / TEMPLATE_FILE).is_file():
        template = load_template(directory)
        return TemplateChoice(template, f"{template.name}: {TEMPLATE_FILE} of the directory")
    checkpoint = _Checkpoint(directory)
    found = checkpoint.by_marks() if checkpoint.jinja else checkpoint.by_vocabulary()
    if len(found) == 1:
        chosen, why = next(iter(found.items()))
        return TemplateChoice(TEMPLATES[chosen], f"{chosen}: {why}")
    option = f"--template NAME, one of {', '.join(TEMPLATES)}"
    if found:
        raise InputError(f"{directory} may be written as {' or '.join(found)}; say which with {option}")
    if checkpoint.jinja:
        raise InputError(
            f"{directory} has a Jinja template of its own that is none of ours, and we execute nothing from a "
            f"checkpoint: if one of ours is close enough, say so with {option}"
        )
    raise InputError(
        f"{directory} is a base model without a chat template, so it cannot hold a conversation: tune it first "
        "(inkstone tune), chat with a tuned model such as runs/primer/sft, or, if it was tuned elsewhere, say how its "
        f"conversations are written with {option}"
    )


class _Checkpoint:
    """What a directory says about itself, read once."""

    def __init__(self, directory: Path) -> None:
        self.config = _read_json(directory / "config.json")
        self.jinja = own_jinja(directory)
        try:
            self.tokenizer: Tokenizer | None = Tokenizer.load(directory)
        except InkstoneError:
            self.tokenizer = None

    def by_marks(self) -> dict[str, str]:
        """Templates whose marks are all in the checkpoint's Jinja template."""
        return self._best(
            {
                name: (len(match.marks), f"its own Jinja template has {' and '.join(match.marks)}")
                for name, match in _MATCHES.items()
                if match.marks and all(mark in self.jinja for mark in match.marks)
            }
        )

    def by_vocabulary(self) -> dict[str, str]:
        """Templates that config.json and the vocabulary point to; marks alone do not count here."""
        return self._best(
            {
                name: (0, f"config.json says {self.config.get('model_type')}")
                for name, match in _MATCHES.items()
                if match.model_types or match.tokens
            }
        )

    def _best(self, candidates: dict[str, tuple[int, str]]) -> dict[str, str]:
        """Of those whose model type and tokens fit, the ones with most evidence, and why."""
        scored = {}
        for name, (evidence, why) in candidates.items():
            match = _MATCHES[name]
            if match.model_types and self.config.get("model_type") not in match.model_types:
                continue
            fits, seen = self._vocabulary_fits(match)
            if fits:
                scored[name] = (evidence + len(match.tokens), f"{why}{seen}")
        most = max((evidence for evidence, _ in scored.values()), default=0)
        return {name: why for name, (evidence, why) in scored.items() if evidence == most}

    def _vocabulary_fits(self, match: Match) -> tuple[bool, str]:
        if not match.tokens:
            return True, ""
        if self.tokenizer is None:
            size = self.config.get("padded_vocab_size", self.config.get("vocab_size"))
            return match.vocab_size is not None and size == match.vocab_size, f" and {size} vocabulary entries"
        names = [name for name in (*dict(match.tokens), *match.without) if self.tokenizer.has_token(name)]
        ids = {name: self.tokenizer.token_id(name) for name in names}
        fits = all(name in ids and wanted in (None, ids[name]) for name, wanted in match.tokens)
        fits = fits and not any(name in ids for name in match.without)
        return fits, f", and its vocabulary has {' and '.join(f'{name} ({ids.get(name)})' for name, _ in match.tokens)}"


def own_jinja(directory: Path) -> str:
    """The text of the checkpoint's Jinja template, or nothing. `directory` may be a GGUF file."""
    if directory.suffix == ".gguf":
        return str(read_metadata(directory).get("tokenizer.chat_template", ""))
    path = directory / JINJA_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    own = _read_json(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(own, list):  # several, by name
        own = next((one.get("template") for one in own if isinstance(one, dict) and one.get("name") == "default"), "")
    return own if isinstance(own, str) else ""


def _read_json(path: Path) -> dict[str, Any]:
    """What a file says, or nothing: whoever needs the file reports what is wrong with it."""
    try:
        return read_json_object(path)
    except (OSError, InputError):
        return {}
