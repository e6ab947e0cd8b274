"""SentencePiece BPE models as one `tokenizers` pipeline with identical ids.

SentencePiece merges, again and again, the two neighbours whose joined piece has the best score, the leftmost such pair
first. A list of ranked merges says the same: every way to split a piece into two known pieces, ordered by the piece's
score. Where several splits of one piece overlap in a text, `splits` orders them so that the leftmost still wins.
"""

import base64
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkstone.errors import InputError
from inkstone.tokenizer.foreign import proto
from inkstone.tokenizer.foreign.charsmap import Charsmap

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "▁"
PREFIX_PATTERN = r"\A(?!"  # how the pattern begins that puts a dummy prefix before a text
_ALL = 1 << 20
_KINDS = {1: "unigram", 3: "word", 4: "char"}
_BPE = 2
# Names that only a program writes: a piece of such a name is a control token whatever the file calls it.
_CONTROL_NAME = re.compile(
    r"<\|.*\|>|<(reserved|special|extra_id|extra|unused|dummy|placeholder)[_\w]*>"
    r"|</?(s|pad|unk|bos|eos|mask|sep|cls)>|\[[gs]?(mask|pad|unk|bos|eos|sep|cls|unused|reserved)[_\w]*\]",
    re.IGNORECASE,
)

Spec = dict[str, Any]  # the JSON of a `tokenizers.Tokenizer`


@dataclass
class Pieces:
    """A SentencePiece model, from a `.model` or from a GGUF's metadata."""

    names: list[str]
    scores: list[float]
    kinds: list[int]
    dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    charsmap: bytes = b""
    bos: int = 1
    eos: int = 2
    pad: int = -1

    def roles(self) -> dict[str, str | None]:
        """Names of the begin, end and padding pieces; None where the model has none."""
        ids = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        return {role: self.names[number] if 0 <= number < len(self.names) else None for role, number in ids.items()}


def read_model(path: Path) -> Pieces:
    """Read a `.model` file. Raises InputError where it is damaged or not a BPE model."""
    content = path.read_bytes()
    try:
        return parse_model(content, path)
    except (ValueError, TypeError) as error:
        hint = ""
        if re.match(rb"[A-Za-z0-9+/=]+ \d+\n", content[:200]):
            hint = "; it is a tiktoken file: give the tokenizer.json of the same model"
        raise InputError(f"{path} cannot be read as a SentencePiece model ({error}){hint}.") from error


def pipeline(model: Pieces, source: Path) -> Spec:
    """The model as the JSON of a `tokenizers.Tokenizer`. Raises InputError naming what would change an id."""
    refuse_what_differs(model, source)
    vocabulary = {name: number for number, name in enumerate(model.names)}
    unknown = next((name for name, kind in zip(model.names, model.kinds, strict=True) if kind == UNKNOWN), None)
    pairs, falls_back = [list(pair) for pair in merges(model)], BYTE in model.kinds
    return bpe(around(model), vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=falls_back)


def bpe(around: Spec, vocabulary: dict[str, int], merges: list[list[str]], **changes: object) -> Spec:
    """A BPE model and what stands around its merges; `changes` are what it does otherwise than the plainest."""
    plain = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    model = plain | changes | {"vocab": vocabulary, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, **around, "model": model}


def around(model: Pieces) -> Spec:
    """The parts of a pipeline that stand around its merges."""
    return {
        "added_tokens": _added_tokens(model),
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": _decoder(model),
    }


def added_token(number: int, name: str, special: bool, normalized: bool = False) -> Spec:
    """An entry of `added_tokens`; a `normalized` one is looked for after the text is rewritten."""
    return {
        "id": number,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    }


def names_control(name: str) -> bool:
    """Whether the name itself says that no text should produce the token."""
    return _CONTROL_NAME.fullmatch(name) is not None


def _added_tokens(model: Pieces) -> list[Spec]:
    """Control tokens, and user-defined pieces, which are cut out of a text before anything is merged.

    A user-defined piece of one character needs no cutting: it is a symbol already, and no merge has it as a part.
    """
    known = normal_pieces(model)
    found = []
    for number, (name, kind) in enumerate(zip(model.names, model.kinds, strict=True)):
        hidden = kind == NORMAL and names_control(name) and not splits(name, known)
        control = kind in (CONTROL, UNKNOWN) or hidden or (kind == USER_DEFINED and names_control(name))
        if control or (kind == USER_DEFINED and len(name) > 1):
            found.append(added_token(number, name, special=control, normalized=not control))
    return found


def normal_pieces(model: Pieces) -> dict[str, float]:
    """The pieces that merging makes, with their scores."""
    pieces = zip(model.names, model.scores, model.kinds, strict=True)
    return {name: score for name, score, kind in pieces if kind == NORMAL}


def merges(model: Pieces) -> list[tuple[str, str]]:
    """Every merge in the order in which SentencePiece would prefer it."""
    known = normal_pieces(model)
    ranked = sorted((name for name in known if len(name) > 1), key=lambda name: -known[name])  # stable: ties by id
    return [pair for name in ranked for pair in splits(name, known)]


def ids_of(spec: Spec) -> dict[str, int]:
    """Every token's id, added ones included."""
    return {**spec["model"]["vocab"], **{token["content"]: token["id"] for token in spec["added_tokens"]}}


def merge_parts(merge: str | list[str]) -> list[str]:
    """The two parts of a merge: files before 2024 write them as one string with a space."""
    return merge if isinstance(merge, list) else merge.split(" ", 1)


def splits(piece: str, known: dict[str, float]) -> list[tuple[str, str]]:
    """The splits of a piece into two known ones, those first that win where two of them overlap.

    Two overlap where the right part of one is the left part of the other, x+y and y+z; the leftmost, x+y, must win.
    Then y both begins and ends the piece. For a power such as "aaa" both orders occur on paper; the longer left part is
    what merging from the left leaves.
    """
    cuts = [cut for cut in range(1, len(piece)) if piece[:cut] in known and piece[cut:] in known]
    cuts.sort(key=lambda cut: (not piece.startswith(piece[cut:]), -cut))
    return [(piece[:cut], piece[cut:]) for cut in cuts]


def parse_model(content: bytes, path: Path) -> Pieces:
    model = Pieces([], [], [])
    algorithm = 1
    for number, value in proto.fields(content):
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is a number")
        if number == 1:
            _add_piece(model, value)
        elif number == 2:
            trainer = {key: proto.signed(item) for key, item in proto.fields(value) if isinstance(item, int)}
            algorithm = trainer.get(3, 1)
            model.bos, model.eos, model.pad = trainer.get(41, 1), trainer.get(42, 2), trainer.get(43, -1)
            if trainer.get(24):
                raise InputError(f"{path} writes spaces after words (treat_whitespace_as_suffix): not supported.")
        elif number == 3:
            _read_normalizer(model, dict(proto.fields(value)), path)
    if not model.names:
        raise ValueError("it has no pieces")
    if algorithm != _BPE:
        kind = _KINDS.get(algorithm, f"kind {algorithm}")
        raise InputError(f"{path} is a {kind} model; Inkstone opens SentencePiece models of the kind BPE.")
    return model


def _add_piece(model: Pieces, message: bytes) -> None:
    name, score, kind = "", 0.0, NORMAL
    for key, value in proto.fields(message):
        if key == 1:
            name = proto.text(value)
        elif key == 2:
            score = proto.float32(value)
        elif key == 3:
            kind = proto.signed(value)
    model.names.append(name)
    model.scores.append(score)
    model.kinds.append(kind)


def _read_normalizer(model: Pieces, values: dict[int, int | bytes], path: Path) -> None:
    charsmap = values.get(2, b"")
    model.charsmap = charsmap if isinstance(charsmap, bytes) else b""
    model.dummy_prefix = bool(values.get(3, 1))
    model.remove_extra_whitespaces = bool(values.get(4, 1))
    if not values.get(5, 1):
        raise InputError(f"{path} keeps spaces as they are (escape_whitespaces = false): not supported.")


def _normalizer(model: Pieces) -> Spec | None:
    """Rewrite characters, tidy spaces, put the dummy prefix, write spaces as `▁`; `prefix.py` finds it in there."""
    steps: list[Spec] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_whitespaces:
        steps += [_replace(r"\A +", ""), _replace(" {2,}", " "), _replace(rf"[ {SPACE}]+\z", "")]
    if model.dummy_prefix:
        own = [re.escape(name) for name in _user_defined(model)]
        # transformers rewrites a user-defined piece as it rewrites text, and would then look for "▁piece".
        prepend = {"type": "Prepend", "prepend": SPACE}
        steps.append(_replace(rf"{PREFIX_PATTERN}(?:{'|'.join([*own, ''])})\z)", SPACE) if own else prepend)
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _replace(pattern: str, content: str) -> Spec:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _decoder(model: Pieces) -> Spec:
    steps: list[Spec] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    if BYTE in model.kinds:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.dummy_prefix:
        spaces = _ALL if model.remove_extra_whitespaces else 1
        steps.append({"type": "Strip", "content": " ", "start": spaces, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _user_defined(model: Pieces) -> list[str]:
    return [
        name
        for name, kind in zip(model.names, model.kinds, strict=True)
        if kind == USER_DEFINED and len(name) > 1 and not names_control(name)
    ]


def refuse_what_differs(model: Pieces, source: Path) -> None:
    """Name what a list of merges cannot express."""
    problems = []
    twice = [name for name, count in Counter(model.names).items() if count > 1]
    if twice:
        problems.append(f"{source} has {_listed(twice)} more than once: an id could not be told from its piece.")
    kinds = dict(zip(model.names, model.kinds, strict=True))
    texts = {name for name, kind in kinds.items() if kind in (NORMAL, UNUSED)}
    hidden = [name for name in texts if len(name) > 1 and any(character not in kinds for character in name)]
    if hidden:
        problems.append(f"{source} has pieces of characters that are no pieces themselves: {_listed(hidden)}.")
    unused = [
        name for name in texts if kinds[name] == UNUSED and (len(name) == 1 or splits(name, dict.fromkeys(texts, 0.0)))
    ]
    if unused:
        problems.append(
            f"{source} has unused pieces that text can reach, and they would be cut up again: {_listed(unused)}."
        )
    own = _user_defined(model) if model.charsmap else []
    rewrite = Charsmap(model.charsmap).normalize_str if own else str
    changed = [name for name in own if rewrite(name) != name]
    if changed:
        problems.append(f"{source} has user-defined pieces that its own character map rewrites: {_listed(changed)}.")
    if problems:
        raise InputError(problems)


def _listed(names: Iterable[str], shown: int = 5) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return ", ".join(repr(name) for name in ordered[:shown]) + rest
