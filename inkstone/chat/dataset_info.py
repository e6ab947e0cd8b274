"""LLaMA-Factory's `dataset_info.json`: "data/dataset_info.json#alpaca_en" is the set that the file calls alpaca_en.

    opened = open_input(Path("data/dataset_info.json#alpaca_en"))     # or a plain file of rows
    for file, number, row in opened.rows(): ...                       # rows with the names of this room

An entry says which file beside it, and what its columns and turns are called. As in LLaMA-Factory, where `columns` is
given no other column is read. Nothing is downloaded and no script is run: such entries are refused with the reason.
"""

import difflib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inkstone.chat.rows import Row, UnreadableFile, read_rows

_MARK = ".json#"
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
_OTHER = {name: name for name in ("messages", "system", "tools", "chosen", "rejected", "kto_tag")}
"""What an entry calls a column, and what this room calls it."""
_USUAL = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
"""Columns of an entry that names none."""
_ROLES = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "assistant"),
    "system_tag": ("system", "system"),
}
_TURN = {"role_tag": ("from", "role"), "content_tag": ("value", "content")}
"""Tags of an entry: the usual value, and ours."""
_ELSEWHERE = ("script_url", "hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name")
_KNOWN = {
    "": ("file_name", "formatting", "ranking", "columns", "tags", "num_samples", "split", *_ELSEWHERE),
    "columns": (*_ALPACA, *_OTHER),
    "tags": (*_TURN, *_ROLES),
}


@dataclass(frozen=True)
class Input:
    """Files of rows, and what they call things, as an entry says; a plain file calls them as we do."""

    files: tuple[Path, ...]
    said: Mapping[str, object] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)  # ours: the file's
    turn: Mapping[str, str] = field(default_factory=dict)  # ours: the file's
    roles: Mapping[str, str] = field(default_factory=dict)  # the file's: ours

    def rows(self) -> Iterator[tuple[Path, int, Row | str]]:
        """File, row number, and the row or a sentence on why it is none. Raises UnreadableFile."""
        drawn, wanted = None, self.said.get("num_samples")
        if isinstance(wanted, int):
            there = sum(1 for file in self.files for _ in read_rows(file))
            if wanted > there:
                raise UnreadableFile(f"has {there} rows, fewer than num_samples: leave it out (weights repeat rows)")
            drawn = set(random.Random(there).sample(range(there), wanted))
        found = ((file, number, row) for file in self.files for number, row in read_rows(file))
        for place, (file, number, row) in enumerate(found):
            if drawn is None or place in drawn:
                yield file, number, self._renamed(row) if self.said and isinstance(row, dict) else row

    def named(self, label: str) -> str:
        """What the file calls a field: `messages[1].content` may be `conversations[1].value` there."""
        inside = re.sub(r"\.content\b", f".{self.turn['content']}", label) if self.said else label
        return re.sub(r"^\w+", lambda head: self.columns.get(head[0], head[0]), inside)

    def _renamed(self, row: Row) -> Row:
        ours = {name: row[column] for name, column in self.columns.items() if column in row}
        for name in {"messages", "chosen", "rejected"} & ours.keys():
            value = ours[name]
            ours[name] = [self._turn(one) for one in value] if isinstance(value, list) else self._turn(value)
        return ours

    def _turn(self, turn: object) -> object:
        if not isinstance(turn, dict):
            return turn
        left = {name: value for name, value in turn.items() if name not in self.turn.values()}
        ours = {name: turn[theirs] for name, theirs in self.turn.items() if theirs in turn}
        if isinstance(ours.get("role"), str):
            ours["role"] = self.roles.get(ours["role"], ours["role"])
        return left | ours


def is_entry(path: Path) -> bool:
    """Whether it names an entry of a file, rather than a file."""
    return _MARK in str(path) and not path.exists()


def called(path: Path) -> str:
    """What patterns match: the name of a file, or of an entry."""
    return path.name.rpartition(_MARK)[2]


def open_input(path: Path) -> Input:
    """The files that a path or an entry stands for. Raises UnreadableFile for an entry that cannot be read as said."""
    if not is_entry(path):
        return Input((path,))
    info, name = Path(str(path).partition("#")[0]), called(path)
    try:
        told = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableFile(f"cannot be read ({error})") from error
    said = told.get(name) if isinstance(told, dict) else None
    if not isinstance(said, dict):
        close = difflib.get_close_matches(name, told if isinstance(told, dict) else (), 1)
        raise UnreadableFile("is no entry of the file" + (f"; did you mean {close[0]}?" if close else ""))
    columns, tags = said.get("columns", {}), said.get("tags", {})
    if wrong := _wrong(said, columns, tags):
        raise UnreadableFile(wrong)
    ranking, alpaca = said.get("ranking", False), said.get("formatting", "alpaca") == "alpaca"
    usual = {**_USUAL["alpaca" if alpaca else "sharegpt"], "chosen": "chosen", "rejected": "rejected"}
    # Of pairs the two answers are read, of other rows the one; a prompt alone is a text to learn whole.
    ours = {**_ALPACA, **_OTHER, **({"prompt": "text"} if set(columns) == {"prompt"} else {})}
    unread = {"response"} if ranking else {"chosen", "rejected"}
    place = info.parent / said["file_name"]
    return Input(
        tuple(sorted(one for one in place.iterdir() if one.is_file())) if place.is_dir() else (place,),
        said,
        {ours[key]: column for key, column in (columns or usual).items() if key not in unread},
        {mine: tags.get(tag, theirs) for tag, (theirs, mine) in _TURN.items()},
        {tags.get(tag, theirs): mine for tag, (theirs, mine) in _ROLES.items()},
    )


def _wrong(said: Row, columns: object, tags: object) -> str:
    """Why an entry cannot be read as it says; empty where it can."""
    for where, table in (("", said), ("columns", columns), ("tags", tags)):
        if not isinstance(table, dict) or (where and not all(isinstance(one, str) for one in table.values())):
            return f"{where} must be an object of names"
        if strange := sorted(set(table) - set(_KNOWN[where])):
            return f"{where} {strange[0]} is not read here; known are {', '.join(_KNOWN[where])}".strip()
    if not isinstance(said.get("file_name"), str):
        place = next((key for key in _ELSEWHERE if key in said), None)
        if place == "script_url":
            return "names a script (script_url), which is not run: write the set as .jsonl and give it as file_name"
        where = f"lies elsewhere ({place} = {said[place]}): download it as .jsonl" if place else "names no file"
        return f"{where} and give it as file_name"
    samples = said.get("num_samples", 1)
    if type(samples) is not int or samples < 1 or not isinstance(said.get("ranking", False), bool):
        return "num_samples must be a number above 0, and ranking true or false"
    if said.get("formatting", "alpaca") not in ("alpaca", "sharegpt", "openai"):
        return f"formatting = {said['formatting']} is not read here; known are alpaca, sharegpt, openai"
    return "" if said.get("split", "train") == "train" else "split: a local file has only train: leave it out"
