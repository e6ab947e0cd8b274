"""No table loses what it says: on a terminal of 80 columns, on a narrow one, and in a pipe."""

import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from tiny_run import inkstone

from inkstone.cli import mixture_commands
from inkstone.cli.table import show_table

MAIN = "from inkstone.cli import main; main()"
NAMES = ("baichuan-13b-chat-extended", "baichuan-13b-chat-original", "llama-2-7b-hf", "词表一")


def on_terminal(work: Callable[[int], None], columns: int = 80) -> str:
    """What `work` writes to a terminal of so many columns, without colours."""
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (24, columns))
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
            while data := os.read(main, 4096):
                shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        work(side)
    finally:
        os.close(side)
        reader.join(10)
        os.close(main)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8")).replace("\r\n", "\n")


def printed(monkeypatch: pytest.MonkeyPatch, columns: int, show: Callable[[], None]) -> str:
    """`show()` in this process, its standard output being a terminal."""

    def work(side: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        with os.fdopen(os.dup(side), "w", encoding="utf-8") as terminal, contextlib.redirect_stdout(terminal):
            show()

    return on_terminal(work, columns)


HEADS = ["tokenizer", "vocabulary", "what it is", ""]
ROWS = [[name, "125,696", "[bold]words[/] that may be folded :100: 中文", "in bytes"] for name in NAMES]


@pytest.mark.parametrize("columns", [10, 40, 80, 90, 200])
def test_every_cell_is_whole_at_every_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = printed(monkeypatch, columns, lambda: show_table(HEADS, ROWS, "a title with [brackets]", left=1))
    words = [word for row in [HEADS, *ROWS] for cell in row for word in cell.split()]
    assert all(word in shown for word in words)
    assert "…" not in shown and "a title with [brackets]" in shown
    if columns >= 80:  # a table, which folds
        assert max(map(cell_len, shown.splitlines())) <= columns
    else:  # a block per row
        assert f"tokenizer: {NAMES[0]}\nvocabulary: 125,696\n" in shown


def test_a_pipe_gets_one_line_per_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    show_table(HEADS, ROWS)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(lines) == 2 + len(ROWS)
    assert all(line.endswith("in bytes") and ROWS[0][2] in line for line in lines[2:])


@pytest.fixture(scope="module")
def commands(data: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Every command that prints a table."""
    folder = tmp_path_factory.mktemp("tables")
    for name in NAMES:
        shutil.copytree(data / "tokenizer", folder / name)
    corpus, model, tokens = str(data / "runs" / "small" / "corpus"), str(models / "chat"), str(data / "tokens")
    text = str(data / "primer" / "raw" / "web.jsonl")
    measure = [*(str(folder / name) for name in NAMES), "--text", text, "--chars", "2000"]
    lengths = ["--perplexity-by-length", "16,32,96", "--tokens", tokens, "--text-tokens", "400"]
    return {
        "measure": ["tokenizer", "measure", *measure],
        "evaluate": ["evaluate", model, "-o", "OUT", "--tokens", tokens],
        "by length": ["evaluate", model, "-o", "OUT", *lengths],
        "template list": ["template", "list"],
        "audit": ["curate", "audit", corpus],
        "inspect": ["inspect", model],
        "plan": ["run", str(data / "small.toml"), "--dry-run", "--set", "corpus.max_document_mb=7"],
    }


KINDS = ["measure", "evaluate", "by length", "template list", "audit", "inspect", "plan"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_terminal_of_80_columns_shows_every_word_that_a_pipe_gets(
    kind: str, commands: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(place: str) -> list[str]:
        return [str(tmp_path / place) if word == "OUT" else word for word in commands[kind]]

    piped = inkstone(*arguments("one"))
    assert piped.code == 0, piped.err
    shown = printed(monkeypatch, 80, lambda: _call(arguments("two")))
    # Measured speeds differ from call to call, and the output's name is another one.
    steady = [word for word in piped.out.replace("/one", "/two").split() if not set(word) <= set("─")]
    missing = [word for word in steady if word not in shown]
    assert len(missing) <= (len(NAMES) * 3 if kind == "measure" else 0), missing
    assert not any(re.search("[a-z]", word) for word in missing) and "…" not in piped.out + shown


def _call(arguments: list[str]) -> None:
    from inkstone.cli.commands import app

    with contextlib.redirect_stderr(io.StringIO()):
        app(arguments, standalone_mode=False)


def test_a_measured_tokenizer_keeps_its_name_in_a_process_of_its_own(commands: dict[str, list[str]]) -> None:
    """The command as a user calls it: rich asks the real terminal for its width."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}

    def work(side: int) -> None:
        command = [sys.executable, "-c", MAIN, *commands["measure"]]
        subprocess.run(command, stdin=side, stdout=side, stderr=side, check=True, timeout=120, env=environment)

    shown = on_terminal(work)
    assert all(f"tokenizer: {name}\n" in shown for name in NAMES) and "not exact: 0" in shown


def test_a_mixture_of_many_domains_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"zh/a-source-with-a-long-name-{number:02}" for number in range(12)]
    shares = dict.fromkeys(names, 0.25)
    facts = {
        "mixes": dict.fromkeys(("natural", "stratified", "temperature", "learned"), shares),
        "domains": {name: {"tokens": 123_456, "cap": 0.5} for name in names},
        "law": {name: {"transfer": {other: 1 / (1 + len(other)) for other in names}} for name in names},
    }
    shown = printed(monkeypatch, 80, lambda: mixture_commands.show(facts))
    assert all(shown.count(name) == 2 for name in names) and "temperature" in shown and "…" not in shown
