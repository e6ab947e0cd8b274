"""Control characters of foreign text never reach a terminal."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import inkstone

from inkstone.cli.visible import visible

HOSTILE = ["\x1b]0;owned\x07", "\x1b[2J", "\x1b]52;c;aGk=\x07", "safe\rhidden", "\x9b31m", "a\x7fb"]


@given(st.text())
def test_what_is_shown_has_no_control_character_but_line_breaks_and_tabs(text: str) -> None:
    shown = visible(text)
    assert not {c for c in shown if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160}
    assert visible(shown) == shown


def test_ordinary_text_stays_as_it_is() -> None:
    assert visible("白日依山尽，\n\té 🏴\u200d☠️ العربية") == "白日依山尽，\n\té 🏴\u200d☠️ العربية"


@pytest.mark.parametrize("text", HOSTILE)
def test_an_error_that_quotes_a_file_shows_its_controls(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": text}), encoding="utf-8")
    ended = inkstone("inspect", tmp_path)
    assert ended.code == 2 and visible(text) in ended.err
    assert text not in ended.out + ended.err


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_shows_the_controls_of_its_cells(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from inkstone.cli.table import show_table

    show_table(["name"], [[text]])
    assert visible(text) in capsys.readouterr().out
