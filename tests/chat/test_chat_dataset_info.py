"""LLaMA-Factory's dataset_info.json: entries are read as it reads them, and what cannot be read is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from inkstone.chat import (
    TEXTS,
    Faults,
    Message,
    Preference,
    Verdict,
    read_chats,
    read_preferences,
    read_verdicts,
    stream,
)
from inkstone.errors import InputError

TURNS = [{"who": "me", "said": "a"}, {"who": "it", "said": "b"}]
TAGS = {"role_tag": "who", "content_tag": "said", "user_tag": "me", "assistant_tag": "it"}
CHAT = [Message("user", "a"), Message("assistant", "b")]


def entry(folder: Path, rows: list[Any], **said: object) -> list[Path]:
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    info = {"mine": {"file_name": "rows.json", **said}}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return [folder / "dataset_info.json#mine"]


def test_columns_and_tags_are_renamed_and_others_are_not_read(tmp_path: Path) -> None:
    row = {"q": "a", "more": "x", "a": "b", "old": [["c", "d"]], "system": "not named", "instruction": "no"}
    columns = {"prompt": "q", "query": "more", "response": "a", "history": "old"}
    said = read_chats(entry(tmp_path, [row], columns=columns)).chats[0]
    assert said == [Message("user", "c"), Message("assistant", "d"), Message("user", "a\nx"), Message("assistant", "b")]
    assert read_chats(entry(tmp_path, [{"instruction": "a", "output": "b", "system": "s"}])).chats == [CHAT]
    named = {"formatting": "sharegpt", "columns": {"messages": "talk", "system": "s"}, "tags": TAGS}
    with_system = read_chats(entry(tmp_path, [{"talk": TURNS, "s": "be kind"}], **named)).chats
    assert with_system == [[Message("system", "be kind"), *CHAT]]


def test_pairs_verdicts_and_plain_texts(tmp_path: Path) -> None:
    sides = {"good": TURNS[1], "bad": {"who": "it", "said": "c"}}
    columns = {"messages": "talk", "chosen": "good", "rejected": "bad"}
    files = entry(
        tmp_path, [{"talk": TURNS[:1], **sides}], formatting="sharegpt", ranking=True, columns=columns, tags=TAGS
    )
    assert read_preferences(files).preferences == [Preference(CHAT[:1], "b", "c")]
    with pytest.raises(InputError, match="the last turn is the user's"):
        read_chats(files)
    columns = {"messages": "talk", "kto_tag": "liked"}
    files = entry(tmp_path, [{"talk": TURNS, "liked": False}], formatting="sharegpt", columns=columns, tags=TAGS)
    assert read_verdicts(files).verdicts == [Verdict(CHAT, False)]
    files = entry(tmp_path, [{"page": "whole"}], columns={"prompt": "page"})
    assert list(stream(TEXTS, files, Faults())) == ["whole"]


def test_a_fault_has_the_files_own_name_row_and_fields(tmp_path: Path) -> None:
    named = {"formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": TAGS}
    files = entry(tmp_path, [{"talk": TURNS}, {"talk": [TURNS[0], {"who": "it", "said": ""}]}, {}], **named)
    with pytest.raises(InputError) as raised:
        read_chats(files)
    assert raised.value.problems[:2] == [
        f"{tmp_path / 'rows.json'}:2 talk[1].said: is empty",
        f"{tmp_path / 'rows.json'}:3 talk: is missing",
    ]


def test_num_samples_draws_the_same_rows_each_time(tmp_path: Path) -> None:
    rows = [{"instruction": str(n), "output": "b"} for n in range(50)]
    drawn, again = (read_chats(entry(tmp_path, rows, num_samples=10)).chats for _ in range(2))
    assert drawn == again and len(drawn) == 10 and drawn != read_chats([tmp_path / "rows.json"]).chats[:10]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"file_name": None, "script_url": "x.py"}, "names a script"),
        ({"file_name": None, "hf_hub_url": "a/b"}, "lies elsewhere .hf_hub_url = a/b.: download it"),
        ({"file_name": None}, "names no file"),
        ({"file_name": "gone.json"}, "does not exist"),
        ({"colums": {}}, "colums is not read here; known are file_name"),
        ({"columns": {"images": "x"}}, "columns images is not read here"),
        ({"columns": []}, "columns must be an object"),
        ({"tags": {"user": "x"}}, "tags user is not read here"),
        ({"formatting": "csv"}, "formatting = csv"),
        ({"split": "test"}, "only train"),
        ({"num_samples": 3}, "has 1 rows, fewer than num_samples"),
        ({"num_samples": True}, "num_samples must be"),
    ],
)
def test_what_cannot_be_read_is_said(said: dict[str, Any], words: str, tmp_path: Path) -> None:
    files = entry(tmp_path, [{"instruction": "a", "output": "b"}], **said)
    with pytest.raises(InputError, match=words):
        read_chats(files)


def test_no_such_entry_and_no_such_file(tmp_path: Path) -> None:
    entry(tmp_path, [])
    for name, words in (("#mien", "did you mean mine"), ("#zzz", "is no entry")):
        with pytest.raises(InputError, match=words):
            read_chats([tmp_path / f"dataset_info.json{name}"])
    (tmp_path / "dataset_info.json").write_text("[1", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_chats([tmp_path / "dataset_info.json#mine"])


REAL = Path(__file__).parents[3] / "shared" / "data"
ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
TALK = {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}
PAIRS = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
SETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sft/llamafactory_identity": (read_chats, {}),
    "sft/llamafactory_alpaca_en_demo": (read_chats, {}),
    "sft/llamafactory_alpaca_zh_demo": (read_chats, {}),
    "sft/llamafactory_glaive_toolcall_en_demo": (read_chats, TALK),
    "sft/llamafactory_glaive_toolcall_zh_demo": (read_chats, TALK),
    "sft/llamafactory_v1_sft_demo": (
        read_chats, {"formatting": "openai", "columns": {"messages": "messages"}, "tags": ROLES}
    ),
    "preference/llamafactory_dpo_zh_raw_sharegpt_layout": (
        read_preferences,
        {"formatting": "sharegpt", "ranking": True, "columns": PAIRS},
    ),
    "preference/llamafactory_kto_en": (
        read_verdicts,
        {"formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "label"}, "tags": ROLES},
    ),
}  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared data sets")
@pytest.mark.parametrize("name", SETS)
def test_llama_factorys_own_entries_read_as_the_files_do(name: str, tmp_path: Path) -> None:
    read, said = SETS[name]
    file = REAL / f"{name}.jsonl.gz"
    told = {"set": {"file_name": str(file), **said}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(told), encoding="utf-8")
    found, plain = (vars(read([path], "skip")).values() for path in (tmp_path / "dataset_info.json#set", file))
    assert list(found) == list(plain)
