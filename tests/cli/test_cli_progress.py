"""Progress: JSON lines where nobody watches, a live bar on a terminal, and neither ever breaks the work."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import inkstone

from inkstone.cli.progress import show_progress


def on_terminal(work: Callable[[], None]) -> str:
    """What `work` writes to standard error when that is a terminal."""
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 120))
    shown = bytearray()
    reader = threading.Thread(target=_read_all, args=(main, shown))
    reader.start()
    try:
        with os.fdopen(side, "w", encoding="utf-8") as terminal, contextlib.redirect_stderr(terminal):
            work()
    finally:
        reader.join(10)
        os.close(main)
    return shown.decode("utf-8")


def _read_all(handle: int, shown: bytearray) -> None:
    with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
        while data := os.read(handle, 4096):
            shown += data


def test_without_a_terminal_every_line_of_progress_is_a_json_object(tmp_path: Path) -> None:
    ended = inkstone("primer", "-o", tmp_path / "primer", "--size-mb", "0.3")
    rows = [json.loads(line) for line in ended.err.splitlines()]
    assert rows[0] == {"stage": "primer", "done": 0, "total": 3, "unit": "parts"}
    assert rows[-1] == {"stage": "primer", "done": 3, "total": 3, "unit": "parts"}
    assert ended.out == f"{tmp_path / 'primer'}\n"


def test_lines_keep_chinese_readable_and_the_last_number_is_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("语料") as progress:
        for done in range(1, 1001):
            progress.advance(done, 1000, "documents", kept=done // 2)
        progress.note("保留 3 篇", removed=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 10, "numbers come at most every few seconds"
    assert json.loads(lines[-2]) == {"stage": "语料", "done": 1000, "total": 1000, "unit": "documents", "kept": 500}
    assert lines[-1] == '{"stage": "语料", "note": "保留 3 篇", "removed": 2}'


@pytest.mark.parametrize(
    ("done", "total", "unit", "fields"),
    [
        (0, None, "documents", {}),
        (0.0, 0.0, "MB", {}),
        (3, None, "documents", {"kept": 2}),
        (0.25, 12.5, "MB", {"mb_per_second": 3.1415926}),
        (5_000_000, 12_000_000, "bytes", {"documents": 12_345, "kept": None}),
        (7, 7, "steps", {"loss": float("nan"), "tokens_per_second": 0, "note": "[red]not markup[/]", "ok": True}),
        (9, 7, "steps", {"loss": float("inf")}),
    ],
)
def test_a_bar_draws_whatever_a_room_reports(
    done: float, total: float | None, unit: str, fields: dict[str, float | str | None]
) -> None:
    def work() -> None:
        with show_progress("corpus") as progress:
            progress.advance(done, total, unit, **fields)
            progress.note("chats.jsonl:100: [x] 第一百行 [/]", row=100)
            progress.advance(done, total, unit, **fields)

    shown = on_terminal(work)
    assert "corpus" in shown
    assert unit in shown
    assert "chats.jsonl:100: [x] 第一百行 [/]" in shown
    assert all(str(value) in shown for value in fields.values() if isinstance(value, str))
    assert '{"stage"' not in shown


def test_a_command_on_a_terminal_draws_its_bar_and_ends_well(tmp_path: Path) -> None:
    code = "from inkstone.cli import main; main()"
    ended: list[int] = []

    def work() -> None:
        arguments = [sys.executable, "-c", code, "primer", "-o", str(tmp_path / "primer"), "--size-mb", "0.3"]
        ended.append(subprocess.run(arguments, stderr=sys.stderr, stdout=subprocess.DEVNULL, timeout=60).returncode)

    shown = on_terminal(work)
    assert ended == [0]
    assert "3/3" in shown and "parts" in shown
    assert "Traceback" not in shown


def test_an_error_under_a_bar_is_one_sentence(tmp_path: Path) -> None:
    """The bar is taken down first, so the sentence stands alone on the last line."""
    (tmp_path / "corpus" / "train").mkdir(parents=True)
    ended: list[int] = []

    def work() -> None:
        arguments = ["tokenizer", "train", str(tmp_path / "corpus"), "-o", str(tmp_path / "tokenizer")]
        command = [sys.executable, "-c", "from inkstone.cli import main; main()", *arguments]
        ended.append(subprocess.run(command, stderr=sys.stderr, stdout=subprocess.DEVNULL, timeout=60).returncode)

    shown = on_terminal(work)
    assert ended == [2]
    assert shown.splitlines()[-1].count("the corpus has no text to train a tokenizer on") == 1
    assert "Traceback" not in shown
