"""An uploaded file as a model will see it: pieces, counts, lengths, faults, and what bounds them."""

import json
from pathlib import Path
from typing import Any

import pytest
from serve_samples import Served, call, made, send

from inkstone.serve.jobs import preview as page
from inkstone.tokenizer import Tokenizer
from inkstone.tune import SFTSettings
from inkstone.tune.preview import as_the_model_sees


def uploaded(served: Served, rows: list[Any]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    code, row = send(served, "/api/datasets?name=rows.jsonl", content)
    assert code == 200, row
    return f"/api/datasets/{row['id']}/preview"


def chat(asked: str, answered: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}


def text(row: dict[str, Any], **what: bool) -> str:
    return "".join(one["text"] for one in row["pieces"] if all(one[name] is kind for name, kind in what.items()))


def test_the_page_shows_what_training_learns_piece_by_piece(served: Served, models: Path, tmp_path: Path) -> None:
    rows = [chat("你好", "世界"), chat("水" * 900, "x"), {"messages": 3}, chat("a <|im_end|>", "b")]
    seen = made(served, f"{uploaded(served, rows)}?model=chat&length=63", None, "GET")
    first, typed = seen["rows"]
    assert text(first) == "<|bos|><|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n世界<|im_end|>\n"
    assert text(first, learned=True) == "世界<|im_end|>"
    assert text(first, control=True) == "<|bos|><|im_start|><|im_end|><|im_start|><|im_end|>"
    assert "<|im_end|>" in text(typed, control=False, learned=False), "typed by a person, it is text"
    assert seen["counts"] | {"tokens": 0, "learned_tokens": 0} == {
        "rows": 3, "malformed_rows": 1, "rows_that_lose_their_oldest_rounds": 0, "rows_that_are_too_long": 1,
        "tokens": 0, "learned_tokens": 0,
    }  # fmt: skip
    assert seen["lengths"]["longest"] == max(row["tokens"] for row in seen["rows"])
    assert [fault.partition(" ")[0] for fault in seen["faults"]] == ["3:"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SFTSettings(inputs=["rows"], template="auto", sequence_length=63, batch_tokens=63)
    trained = as_the_model_sees(settings, [tmp_path / "rows.jsonl"], models / "chat", 1, str)
    assert text(first) == Tokenizer.load(models / "chat").decode(trained.rows[0].ids)


def test_sides_of_pairs_are_named(served: Served) -> None:
    seen = made(
        served, uploaded(served, [{"prompt": "你好", "chosen": "世界", "rejected": "水"}]) + "?model=chat", None, "GET"
    )
    assert [(row["number"], row["side"], text(row, learned=True)) for row in seen["rows"]] == [
        (1, "chosen", "世界<|im_end|>"),
        (1, "rejected", "水<|im_end|>"),
    ]


def test_of_a_large_file_some_rows_are_encoded_and_that_is_said(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = uploaded(served, [*(chat(f"{n}", "水" * 50) for n in range(230)), *({"messages": n} for n in range(40))])
    whole = made(served, f"{path}?model=chat", None, "GET")
    assert "rows_encoded" not in whole["counts"] and len(whole["rows"]) == 20
    for name, value in (("_ENCODED", 50), ("_TOKENS", 10), ("_FAULTS", 30)):
        monkeypatch.setattr(page, name, value)
    some = made(served, f"{path}?model=chat", None, "GET")
    assert 40 <= some["counts"]["rows_encoded"] <= 50 and some["counts"]["rows"] == 230
    assert [row["number"] for row in some["rows"]][:7] == [1, 2, 3, 4, 5, 10, 15]
    assert some["rows"][0]["shown"] == 10 < some["rows"][0]["tokens"]
    assert len(some["faults"]) == 30 < some["counts"]["malformed_rows"] == 40
    monkeypatch.setattr(page, "_LIMIT_S", 0.0)
    assert made(served, f"{path}?model=chat", None, "GET")["counts"]["rows_encoded"] == 0


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ("?model=nobody", 404, "no model"),
        ("?model=chat&length=100000", 400, "exceeds the model's 256 positions"),
        ("?model=chat&length=1", 400, "length"),
        ("", 400, "model"),
    ],
)
def test_what_cannot_be_shown_is_said(asked: str, code: int, said: str, served: Served) -> None:
    status, told = call(served, "GET", uploaded(served, [chat("a", "b")]) + asked)
    assert status == code and said in told["error"]["message"]


def test_a_file_that_is_gone_is_said(served: Served) -> None:
    assert call(served, "GET", "/api/datasets/99999/preview?model=chat")[0] == 404
