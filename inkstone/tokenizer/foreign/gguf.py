"""The vocabulary inside a GGUF file, with or without weights: SentencePiece BPE ("llama") and byte-level BPE ("gpt2").

Only the metadata at the head of the file is read. A byte-level vocabulary says how it cuts text into words by a name
alone; `_WORDS` knows the names whose ids are tested, and any other is refused, because a guess gives other ids.
"""

import mmap
import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from inkstone.errors import InputError
from inkstone.storage import reading
from inkstone.tokenizer.foreign.sentencepiece import (
    BYTE,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Pieces,
    Spec,
    added_token,
    bpe,
    pipeline,
)

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> Spec:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(words: bool) -> Spec:
    """Text as the letters that stand for its bytes, with GPT-2's words or without."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words}


_WORDS: dict[str, list[Spec]] = {
    "llama-bpe": [_split(_LLAMA3), _bytes(words=False)],
    "falcon": [
        {"type": "Punctuation", "behavior": "Contiguous"},
        _bytes(words=True),
        {"type": "Digits", "individual_digits": False},
        _split("[0-9][0-9][0-9]"),
    ],
    "mpt": [_bytes(words=True)],
    "bloom": [_split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), _bytes(words=False)],
}


def words_name(spec: Spec) -> str | None:
    """llama.cpp's name for the way a byte-level vocabulary cuts text into words; None where it has none."""
    found = spec["pre_tokenizer"] or {}
    steps = found.get("pretokenizers", [found])
    if spec["normalizer"] is not None or spec["model"].get("type") != "BPE":
        return None
    return next((name for name, ours in _WORDS.items() if _cuts(steps) == _cuts(ours)), None)


def _cuts(steps: list[Spec]) -> list[Spec]:
    """What decides the words: offsets do not."""
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def read_gguf(path: Path) -> tuple[Spec, dict[str, str | None]]:
    """The vocabulary as the JSON of a `tokenizers.Tokenizer`, and the names of begin, end and padding."""
    metadata = read_metadata(path)
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("llama", "gpt2"):
        raise InputError(f'{path} has a vocabulary of the kind "{kind}"; Inkstone opens "llama" and "gpt2".')
    names = _without_padding(metadata, path)
    numbers = {
        "bos_token": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    roles = {
        role: names[number] if isinstance(number, int) and number < len(names) else None
        for role, number in numbers.items()
    }
    return (_pieces(metadata, names, path) if kind == "llama" else _byte_level(metadata, names, path)), roles


def _without_padding(metadata: dict[str, Any], path: Path) -> list[str]:
    """The tokens without the unused ones that fill an embedding's last rows; no text becomes one of them."""
    names, kinds = _list(metadata, "tokens", path), metadata.get("tokenizer.ggml.token_type")
    size = len(names)
    if isinstance(kinds, list) and len(kinds) == size:
        while size and kinds[size - 1] == UNUSED and str(names[size - 1]).startswith("[PAD"):
            size -= 1
        for name in ("tokens", "token_type", "scores"):
            if isinstance(found := metadata.get(f"tokenizer.ggml.{name}"), list):
                metadata[f"tokenizer.ggml.{name}"] = found[:size]
    return names[:size]


def read_metadata(path: Path) -> dict[str, Any]:
    """Every key of the file's head. Raises InputError where it is no GGUF file, or ends early."""
    state = path.stat()
    return dict(_keys(path, state.st_mtime_ns, state.st_size)[0])


@lru_cache(maxsize=1)
def _keys(path: Path, changed: int, size: int) -> tuple[dict[str, Any], int]:
    """The keys and where they end. Kept, for a model's opening asks several times and a vocabulary takes a second."""
    with (
        path.open("rb") as stream,
        reading(path, "a GGUF file"),
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        reader = _Reader(data)
        return reader.metadata(), reader.at


def end_ids(path: Path) -> set[int]:
    """The ids at which generation stops: the ends of a text and of a turn."""
    keys = read_metadata(path)
    found = [keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return {number for number in found if isinstance(number, int)}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: dimensions from the slowest to the fastest, the number of its type, its first byte."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


def read_head(path: Path) -> tuple[dict[str, Any], list[StoredTensor]]:
    """The keys and the tensors of a file. Raises InputError where it is no GGUF file, or ends early."""
    with (
        path.open("rb") as stream,
        reading(path, "a GGUF file"),
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        state, reader = path.stat(), _Reader(data)
        metadata, reader.at = _keys(path, state.st_mtime_ns, state.st_size)
        return dict(metadata), reader.tensors(int(metadata.get("general.alignment", 32)))


class _Reader:
    """A position in the file's bytes."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def metadata(self) -> dict[str, Any]:
        magic, version = self.data[:4], self.number("<I", at=4)
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("it does not begin with GGUF and the version 2 or 3")
        self.at = 16  # past the number of tensors
        return {self.string(): self.value(self.number("<I")) for _ in range(self.number("<Q"))}

    def tensors(self, alignment: int) -> list[StoredTensor]:
        """What follows the metadata, where this stands after it."""
        count = struct.unpack_from("<Q", self.data, 8)[0]
        if count > len(self.data) - self.at:
            raise ValueError(f"it claims {count} tensors")
        found = []
        for _ in range(count):
            name, dimensions = self.string(), self.number("<I")
            if not 1 <= dimensions <= 4:
                raise ValueError(f"{name} has {dimensions} dimensions")
            shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
            found.append(StoredTensor(name, shape, self.number("<I"), self.number("<Q")))
        base = -(-self.at // alignment) * alignment
        return [replace(one, start=base + one.start) for one in found]

    def number(self, code: str, at: int | None = None) -> int:
        self.at = self.at if at is None else at
        value = struct.unpack_from(code, self.data, self.at)[0]
        self.at += struct.calcsize(code)
        return value

    def string(self) -> str:
        size = self.number("<Q")
        self.at += size
        if self.at > len(self.data):
            raise ValueError("it ends inside a string")
        return self.data[self.at - size : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(self.scalar(kind))
        kind, count = self.number("<I"), self.number("<Q")
        if count > len(self.data) - self.at:
            raise ValueError(f"it claims a list of {count} entries")
        if kind in (_STRING, _ARRAY):
            return [self.value(kind) for _ in range(count)]
        code = f"<{count}{self.scalar(kind)[1]}"
        values = list(struct.unpack_from(code, self.data, self.at))
        self.at += struct.calcsize(code)
        return values

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(f"byte {self.at} begins a value of the unknown kind {kind}")
        return _SCALARS[kind]


def _pieces(metadata: dict[str, Any], names: list[str], path: Path) -> Spec:
    kinds = _list(metadata, "token_type", path)
    model = Pieces(
        names,
        _list(metadata, "scores", path),
        kinds,
        dummy_prefix=metadata.get("tokenizer.ggml.add_space_prefix", True),
        remove_extra_whitespaces=metadata.get("tokenizer.ggml.remove_extra_whitespaces", False),
        charsmap=bytes(value & 0xFF for value in metadata.get("tokenizer.ggml.precompiled_charsmap", [])),
    )
    if not len(model.names) == len(model.scores) == len(kinds):
        raise InputError(f"{path} has {len(names)} tokens, {len(model.scores)} scores and {len(kinds)} kinds.")
    return pipeline(model, path)


def _byte_level(metadata: dict[str, Any], names: list[str], path: Path) -> Spec:
    words = metadata.get("tokenizer.ggml.pre")
    if words not in _WORDS:
        raise InputError(
            f'{path} cuts text into words in the way "{words}", which Inkstone does not know (known: '
            f"{', '.join(_WORDS)}): give the tokenizer.json of the same model."
        )
    kinds = _list(metadata, "token_type", path)
    added = [(number, kind) for number, kind in enumerate(kinds) if kind not in (NORMAL, BYTE)]
    around = {
        "added_tokens": [added_token(number, names[number], special=kind != USER_DEFINED) for number, kind in added],
        "normalizer": {"type": "NFC"} if words == "mpt" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _WORDS[words]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [merge.split(" ") for merge in _list(metadata, "merges", path)]
    return bpe(around, vocabulary, merges, ignore_merges=words == "llama-bpe")


def _list(metadata: dict[str, Any], name: str, path: Path) -> list[Any]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list):
        raise InputError(f"{path} has no tokenizer.ggml.{name}: it holds no whole vocabulary.")
    return found
