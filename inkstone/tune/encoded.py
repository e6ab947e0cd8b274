"""Rows of files encoded once and kept as arrays on disk: a million conversations in little memory.

    kept = Kept(run_dir / ".rows" / "sft", tokenizer, progress, mesh)
    files = kept.files(paths, CHATS, {"template": ...}, encode, "refuse")
    EncodedChats(files)[7].ids                    # cut from a map when it is asked for

Of each file, under the hash of its content and of all that decides its ids:

    ids.bin        uint16 or uint32, one sequence after the other
    runs.bin       (length, loss weight) of each run of equal weights
    segments.bin   JSON of the texts, where they are encoded anew in every epoch (BPE-dropout)
    sequences.bin  where each sequence ends in the others, its tokens, and which conversation it belongs to
    facts.json     rows that are done, the files' sizes up to there, counts and faults; `done` at the end

facts.json is replaced after each part, so a killed run goes on from the last: what was written beyond it is cut off.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from inkstone.chat import Faults, Kind, Problem, Segment, stream
from inkstone.chat.dataset_info import open_input
from inkstone.chat.datasets import OnProblem
from inkstone.chat.rows import UnreadableFile
from inkstone.errors import InkstoneError
from inkstone.progress import Progress
from inkstone.storage import atomic_file, file_sha256, fingerprint, read_json_object
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.token_shards import token_dtype
from inkstone.train import Mesh
from inkstone.train.mesh import announce

Item = TypeVar("Item")
_LAYOUT = 1  # grows when the same rows would be written otherwise
_PART = 2000  # rows that are encoded together; a kill loses so many
_OPEN = 64  # maps that are open at a time
_RUN = np.dtype([("length", "<i4"), ("weight", "<f8")])
_ENDS = ("ids", "runs", "segments")
_FILES = (*(f"{name}.bin" for name in _ENDS), "sequences.bin")
_SEQUENCE = np.dtype([*((name, "<i8") for name in _ENDS), *((name, "<i4") for name in ("tokens", "learned", "chat"))])


@dataclass(frozen=True)
class EncodedChat:
    """Ids of a conversation, the loss weight of each, and the segments they were made of."""

    ids: Sequence[int] | NDArray[Any]
    weights: Sequence[float] | NDArray[Any]
    segments: Sequence[Segment] = ()


Encode = Callable[[list[Item]], tuple[list[list[EncodedChat]], Mapping[str, int]]]
"""Items to the sequences of each, none where it does not fit; and what became of them."""


@dataclass(frozen=True)
class KeptFile:
    """A file's sequences on disk, and what became of its rows."""

    place: Path
    dtype: np.dtype[Any]
    table: NDArray[Any]  # _SEQUENCE [sequences]
    facts: Mapping[str, Any]

    @property
    def chats(self) -> int:
        """Conversations with at least one sequence."""
        return int(self.table["chat"][-1]) + 1 if len(self.table) else 0

    def read(self, number: int) -> EncodedChat:
        """One sequence; its ids are a view into the map."""

        def part(name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
            start = self.table[name][number - 1] if number else 0
            return _map(self.place / f"{name}.bin", dtype)[start : self.table[name][number]]

        runs = part("runs", _RUN)
        segments = json.loads(part("segments", np.dtype("u1")).tobytes()) if self.table["segments"][-1] else ()
        again = [Segment(*one) for one in segments]
        return EncodedChat(part("ids", self.dtype), np.repeat(runs["weight"], runs["length"]), again)


class EncodedChats(Sequence[EncodedChat]):
    """The sequences of several files by number, or some in the order of `numbers`; each is read when its turn comes."""

    def __init__(self, files: Sequence[KeptFile], numbers: NDArray[np.int64] | None = None) -> None:
        table = np.concatenate([np.zeros(0, _SEQUENCE), *(file.table for file in files)])
        self.files, self.numbers = files, np.arange(len(table)) if numbers is None else numbers
        self.firsts = np.cumsum([0, *(len(file.table) for file in files)])
        self.lengths = table["tokens"][self.numbers].astype(np.int64)
        self.learned = table["learned"][self.numbers].astype(np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> EncodedChat:  # type: ignore[override]
        number = int(self.numbers[place])
        file = int(np.searchsorted(self.firsts, number, side="right")) - 1
        return self.files[file].read(number - int(self.firsts[file]))


def told_of(files: Sequence[KeptFile]) -> Counter[str]:
    """What became of the rows of all files together."""
    return sum((Counter(file.facts["told"]) for file in files), Counter())


@lru_cache(_OPEN)
def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.memmap(path, dtype, "r")


@dataclass
class Kept:
    """The folder of a stage's encoded files. The first rank writes, the others wait."""

    folder: Path
    tokenizer: Tokenizer
    progress: Progress
    mesh: Mesh

    def files(
        self, paths: Sequence[Path], kind: Kind[Item], how: object, encode: Encode[Item], on_problem: OnProblem
    ) -> list[KeptFile]:
        """The files, encoded now or before. `how` is all that decides the ids but the content and the tokenizer.

        Raises InputError with everything that is wrong with them.
        """
        faults, found = Faults(), []
        dtype = token_dtype(self.tokenizer.vocab_size)
        for path in paths:
            try:
                opened = open_input(path)
                content = [file_sha256(file) for file in opened.files]
            except (UnreadableFile, OSError):
                for _ in stream(kind, [path], faults):  # says why
                    pass
                continue
            decides = [_LAYOUT, kind.expected, content, opened.said, how]
            place = self.folder / fingerprint([*decides, self.tokenizer.fingerprint])
            try:
                if self.mesh.first:
                    self._encode(place, path, kind, encode, dtype)
            finally:
                announce("", self.mesh)
            facts = _facts(place)
            if not facts.get("done"):
                raise InkstoneError(f"{path} was not encoded: the first process says why")
            faults.merge(Faults(**facts["faults"]))
            found.append(KeptFile(place, dtype, np.fromfile(place / "sequences.bin", _SEQUENCE), facts))
        faults.refuse(paths, on_problem)
        return found

    def forget_others(self, files: Sequence[KeptFile]) -> None:
        """Remove what was kept of other contents and settings."""
        for place in set(self.folder.iterdir()) - {file.place for file in files} if self.mesh.first else ():
            rmtree(place)

    def _encode(self, place: Path, path: Path, kind: Kind[Item], encode: Encode[Item], dtype: np.dtype[Any]) -> None:
        """Bring a file into its place, from where an earlier call was stopped."""
        facts = _facts(place)
        if facts.get("done"):
            return
        place.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            with (place / name).open("ab") as stopped:
                stopped.truncate(facts.get("sizes", {}).get(name, 0))
        last = np.fromfile(place / "sequences.bin", _SEQUENCE)[-1:]
        rows, told, faults = facts.get("rows", 0), Counter(facts.get("told", {})), Faults()
        every = stream(kind, [path], faults)
        items = islice(every, rows, None)
        while part := list(islice(items, _PART)):
            chats, counts = encode([one for one in part if not isinstance(one, Problem)])
            told.update(counts)
            last = _append(place, last, [chat for chat in chats if chat], dtype)
            rows += len(part)
            _note(place, rows=rows, told=told)
            self.progress.advance(rows, None, f"rows of {path.name} encoded")
        _note(place, rows=rows, told=told, faults=asdict(faults), done=True)


def _facts(place: Path) -> dict[str, Any]:
    """What is known of a file's arrays; nothing where they are shorter than it says."""
    if not (place / "facts.json").is_file():
        return {}
    facts = read_json_object(place / "facts.json")
    whole = all((place / name).is_file() and (place / name).stat().st_size >= facts["sizes"][name] for name in _FILES)
    return facts if whole else {}


def _note(place: Path, **facts: object) -> None:
    """Replace facts.json, once what it speaks of is on the disk."""
    for name in _FILES:
        with (place / name).open("rb") as written:
            os.fsync(written.fileno())
    sizes = {name: (place / name).stat().st_size for name in _FILES}
    with atomic_file(place / "facts.json") as draft:
        draft.write_text(json.dumps({**facts, "sizes": sizes}, ensure_ascii=False), encoding="utf-8")


def _append(
    place: Path, last: NDArray[Any], chats: Sequence[Sequence[EncodedChat]], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Write the sequences of some conversations behind `last`, the newest of the table; returns the new newest."""
    every = [one for chat in chats for one in chat]
    if not every:
        return last
    table = np.zeros(len(every), _SEQUENCE)
    table["tokens"] = [len(one.ids) for one in every]
    ends = np.cumsum(table["tokens"], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(one.ids for one in every), dtype, ends[-1])
    weights = np.fromiter(chain.from_iterable(one.weights for one in every), np.float64, ends[-1])
    begins = np.union1d(np.flatnonzero(np.diff(weights)) + 1, ends - table["tokens"])
    runs = np.zeros(len(begins), _RUN)
    runs["length"], runs["weight"] = np.diff(begins, append=ends[-1]), weights[begins]
    segments = [
        json.dumps([astuple(part) for part in one.segments], ensure_ascii=False).encode() if one.segments else b""
        for one in every
    ]
    table["learned"] = np.diff(np.cumsum(weights > 0)[ends - 1], prepend=0)
    table["chat"] = np.repeat(np.arange(len(chats)), list(map(len, chats)))
    table["ids"], table["runs"] = ends, np.searchsorted(begins, ends)
    table["segments"] = np.cumsum(list(map(len, segments)))
    for name in _ENDS:
        table[name] += last[name].sum()
    table["chat"] += (last["chat"] + 1).sum()
    data = (ids.tobytes(), runs.tobytes(), b"".join(segments), table.tobytes())
    for name, content in zip(_FILES, data, strict=True):
        with (place / name).open("ab") as grown:
            grown.write(content)
    return table[-1:]
