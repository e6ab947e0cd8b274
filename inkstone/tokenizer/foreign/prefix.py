"""The dummy prefix: what many tokenizers put before a text so that its first word looks like any other word.

It belongs to a whole text and not to its parts: what follows a control token in the middle of a prompt may have it or
not. So it is taken out of the pipeline on opening, put before a text by `Prefix.put` unless the caller says that the
text continues, and stands in the pipeline again in the file that `save` writes.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import tokenizers
from tokenizers import models

from inkstone.tokenizer.foreign.charsmap import Charsmap
from inkstone.tokenizer.foreign.sentencepiece import PREFIX_PATTERN

Spec = dict[str, Any]
_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_GUARD = "."  # keeps what follows from looking like the beginning of a text; joins with no accent


@dataclass(frozen=True)
class Prefix:
    """`text` goes before every text that is not empty and does not begin with one of `unless`."""

    text: str
    unless: tuple[str, ...]
    taken_off: int  # how many leading spaces decoding removes at most
    before: Callable[[str], str] | None  # rewriting that comes before the prefix
    parts: Spec  # the pipeline as the file has it

    def put(self, texts: Sequence[str], continued: bool) -> list[str]:
        """The texts as the pipeline without its prefix has to see them."""
        if self.before is not None:
            if continued:
                texts = [self.before(_GUARD + text)[len(_GUARD) :] if text else "" for text in texts]
            else:
                texts = [self.before(text) for text in texts]
        if continued:
            return list(texts)
        return [self.text + text if text and not text.startswith(self.unless) else text for text in texts]

    def take_off(self, text: str) -> str:
        """Decoded text without the spaces that stand for the prefix."""
        return text[min(self.taken_off, len(text) - len(text.lstrip(" "))) :]


def take_prefix(backend: tokenizers.Tokenizer, spec: Spec) -> Prefix | None:
    """Cut the dummy prefix out of `backend`, whose JSON is `spec`; None where it has none."""
    parts = {name: spec.get(name) for name in _PARTS}
    left = dict(parts)
    found = _from_normalizer(left) or _from_pre_tokenizer(left)
    if found is None:
        return None
    text, unless, before = found
    taken_off = _keep_leading_space(left)
    carrier = _carrier(left)
    backend.normalizer, backend.decoder = carrier.normalizer, carrier.decoder
    backend.pre_tokenizer = carrier.pre_tokenizer
    return Prefix(text, unless, taken_off, _rewriting(before), parts)


def _from_normalizer(spec: Spec) -> tuple[str, tuple[str, ...], list[Spec]] | None:
    """`Prepend`, or the replacement that `sentencepiece.py` writes for it; what stands before it goes with it."""
    steps = steps_of(spec.get("normalizer"), "normalizers")
    for place, step in enumerate(steps):
        pattern = (step.get("pattern") or {}).get("Regex", "")
        if step["type"] == "Prepend" or (step["type"] == "Replace" and pattern.startswith(PREFIX_PATTERN)):
            spec["normalizer"] = _joined(steps[place + 1 :], "normalizers")
            return step.get("prepend") or step["content"], (), steps[:place]
    maps = [place for place, step in enumerate(steps) if step["type"] == "Precompiled"]
    if not maps:
        return None
    spec["normalizer"] = _joined(steps[maps[-1] + 1 :], "normalizers")
    return "", (), steps[: maps[-1] + 1]


def _from_pre_tokenizer(spec: Spec) -> tuple[str, tuple[str, ...], list[Spec]] | None:
    """A leading `Metaspace` or `ByteLevel` that puts a space before a text without one."""
    steps = [dict(step) for step in steps_of(spec.get("pre_tokenizer"), "pretokenizers")]
    if not steps:
        return None
    step = steps[0]
    if step["type"] == "ByteLevel" and step.get("add_prefix_space", True):
        step["add_prefix_space"] = False
        found: tuple[str, tuple[str, ...]] = (" ", (" ",))
    elif step["type"] == "Metaspace" and _scheme(step) != "never":
        step["prepend_scheme"] = "never"
        step.pop("add_prefix_space", None)
        found = (step["replacement"], (step["replacement"], " "))
    else:
        return None
    before = steps_of(spec.get("normalizer"), "normalizers")
    spec["normalizer"] = None
    spec["pre_tokenizer"] = _joined(steps, "pretokenizers")
    return *found, before


def _keep_leading_space(spec: Spec) -> int:
    """Stop the decoder from removing leading spaces; returns how many it removed at most."""
    steps = [dict(step) for step in steps_of(spec.get("decoder"), "decoders")]
    found = 0
    for step in steps:
        if step["type"] == "Strip" and step["content"] == " " and step["start"]:
            step["start"], found = 0, step["start"]
        elif step["type"] == "Metaspace" and _scheme(step) != "never":
            step["prepend_scheme"], found = "never", 1
            step.pop("add_prefix_space", None)
    spec["decoder"] = _joined(steps, "decoders")
    return found


def _scheme(step: Spec) -> str:
    """When a Metaspace puts its space; files from before 2024 only say whether."""
    return str(step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never"))


def steps_of(part: Spec | None, name: str) -> list[Spec]:
    """The steps of a part of a pipeline, which is one of them or holds them under `name`."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [inner for step in part[name] for inner in steps_of(step, name)]


def _joined(steps: list[Spec], name: str) -> Spec | None:
    return {"type": "Sequence", name: steps} if steps else None


def _rewriting(steps: list[Spec]) -> Callable[[str], str] | None:
    """The steps as one function; a character map is applied as its maker applies it."""
    functions = [
        Charsmap(base64.b64decode(step["precompiled_charsmap"])).normalize_str
        if step["type"] == "Precompiled"
        else _carrier({"normalizer": step}).normalizer.normalize_str
        for step in steps
    ]
    return (lambda text: reduce(lambda done, function: function(done), functions, text)) if functions else None


def _carrier(parts: Spec) -> tokenizers.Tokenizer:
    """An empty tokenizer with these parts of a pipeline, which have no constructors from JSON of their own."""
    empty = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    return tokenizers.Tokenizer.from_str(json.dumps({**empty, **parts}))
