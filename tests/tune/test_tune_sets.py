"""Several files with weights, and plain text beside conversations."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from inkstone.chat import CHATML
from inkstone.errors import InputError
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.tune import PackedChats, SFTSettings, Work
from inkstone.tune.conversations import packed_chats


def chats(path: Path, count: int) -> Path:
    rows = [{"instruction": f"{path.stem} {number}", "output": "你好"} for number in range(count)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(**changes: object) -> SFTSettings:
    return SFTSettings.model_validate({"inputs": ["x"], "sequence_length": 64, "batch_tokens": 64, **changes})


def packed(
    files: list[Path], how: SFTSettings, tokenizer: Tokenizer, folder: Path, **more: list[Path]
) -> tuple[PackedChats, PackedChats | None, dict[str, float]]:
    work = Work(how, files, folder, folder / "out", folder / "scratch", Silent(), **more)  # type: ignore[arg-type]
    return packed_chats(work, CHATML, tokenizer)


def test_a_files_rows_are_seen_as_often_as_its_weight_says(tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = [chats(tmp_path / f"{name}.jsonl", 20) for name in ("rare", "own", "plain")]
    how = settings(weights={"rare*": 0.5, "own*": 2.5}, heldout_fraction=0.1)
    rows, heldout, counts = packed(files, how, tokenizer, tmp_path)
    seen = Counter(tokenizer.decode(chat.ids).split("user\n")[1].split("<")[0] for chat in rows.chats)
    by_file = {
        name: sorted(n for said, n in seen.items() if said.startswith(name)) for name in ("rare", "own", "plain")
    }
    assert by_file == {"rare": [1] * 9, "own": [2] * 9 + [3] * 9, "plain": [1] * 18}
    assert heldout is not None and len(heldout.chats) == 6 and counts["conversations"] == 72
    held = {tokenizer.decode(chat.ids).split("user\n")[1].split("<")[0] for chat in heldout.chats}
    assert not held & seen.keys(), "what is held out is not trained on, however often a file counts"
    again = packed(files, how, tokenizer, tmp_path)[0]
    assert all(np.array_equal(one.ids, other.ids) for one, other in zip(again.chats, rows.chats, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_plain_text_is_learned_whole_in_pieces_that_fit(dropout: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = "Hello, what is 12 + 7? The answer is 19. " * 12
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    rows, _, counts = packed(
        [chats(tmp_path / "c.jsonl", 4)], settings(heldout_fraction=0, bpe_dropout=dropout), tokenizer, tmp_path,
        texts=[tmp_path / "t.jsonl"],
    )  # fmt: skip
    plain = list(rows.chats)[int(counts["conversations"]) :]
    assert len(plain) == counts["pieces_of_text"] > 1 and all(set(chat.weights) == {1.0} for chat in plain)
    ids = [token for chat in plain for token in chat.ids]
    assert ids == [*tokenizer.start_ids, *tokenizer.encode(text), tokenizer.eos_id]
    seen = [row for index in range(rows.rows_per_epoch) for row in rows.row(0, index).tokens.tolist()]
    assert len(seen) - seen.count(tokenizer.fill_id) >= len(ids)


def test_what_is_no_text_and_a_weight_of_nothing_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": 3}\n{"words": "a"}\n', encoding="utf-8")
    files = [chats(tmp_path / "c.jsonl", 4)]
    with pytest.raises(InputError) as raised:
        packed(files, settings(), tokenizer, tmp_path, texts=[tmp_path / "t.jsonl"])
    assert [problem.partition("jsonl:")[2] for problem in raised.value.problems] == [
        "1 text: is missing or no string",
        "2 text: is missing or no string",
        "",
    ]
    with pytest.raises(InputError, match='weights name "d\\*"'):
        packed(files, settings(weights={"d*": 2.0}), tokenizer, tmp_path)
    with pytest.raises(ValueError, match="weights must be above 0"):
        settings(weights={"c*": 0.0})
    with pytest.raises(ValueError, match='texts has no part in method = "grpo"'):
        settings(method="grpo", texts=["t.jsonl"])
