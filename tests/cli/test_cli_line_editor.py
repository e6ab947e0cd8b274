"""Typing to `inkstone chat` on a terminal: what is sent is what is seen."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

pytest.importorskip("prompt_toolkit", reason="the line editor is not installed: pip install 'inkstone[chat]'")

from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from inkstone.cli.line_editor import line_reader

BACKSPACE, ENTER, UP, CTRL_C, CTRL_D, ALT_ENTER = "\x7f", "\r", "\x1b[A", "\x03", "\x04", "\x1b\r"
PASTED = "\x1b[200~{}\x1b[201~"


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        yield typed


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("ab中文" + BACKSPACE * 2 + ENTER, ["ab"]),
        ("wrong" + CTRL_C + "right" + ENTER, ["right"]),
        (PASTED.format("第一行\r\n第二行\n") + ENTER, ["第一行\n第二行\n"]),
        ("一" + ALT_ENTER + "二" + ENTER, ["一\n二"]),
        ("👨‍👩‍👧" + ENTER, ["👨‍👩‍👧"]),
    ],
    ids=["backspace over Chinese", "Ctrl-C clears", "pasted lines", "Alt-Enter", "emoji"],
)
def test_what_is_typed_is_what_is_sent(typed: str, sent: list[str], keyboard: PipeInput) -> None:
    read = line_reader()
    keyboard.send_text(typed)
    assert [read() for _ in sent] == sent


def test_up_brings_back_what_was_sent(keyboard: PipeInput) -> None:
    read = line_reader()
    keyboard.send_text("床前明月光" + ENTER + "second" + ENTER)
    assert [read(), read()] == ["床前明月光", "second"]
    # History is looked up beside the editor, so the key comes when a person could press it.
    Timer(0.3, keyboard.send_text, [UP * 2 + ENTER]).start()
    assert read() == "床前明月光"


@pytest.mark.parametrize(("key", "leaves"), [(CTRL_C, KeyboardInterrupt), (CTRL_D, EOFError)])
def test_an_empty_line_is_left_with_ctrl_c_and_ctrl_d(
    key: str, leaves: type[BaseException], keyboard: PipeInput
) -> None:
    keyboard.send_text(key)
    with pytest.raises(leaves):
        line_reader()()


def test_on_a_terminal_the_model_gets_the_line_as_edited_and_never_a_command(models: Path) -> None:
    """The whole command behind a pseudo-terminal; --show-prompt says what the model is given."""
    command = [sys.executable, "-m", "inkstone", "chat", str(models / "chat"), "--show-prompt", "--max-new-tokens", "2"]
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"TERM": "xterm"})
    os.close(slave)
    screen = b""

    def wait_for(mark: str, count: int = 1) -> None:
        nonlocal screen
        deadline = time.monotonic() + 60
        while screen.count(mark.encode()) < count:
            assert time.monotonic() < deadline, screen.decode("utf-8", "replace")
            if select.select([master], [], [], 0.1)[0]:
                new = os.read(master, 65536)
                screen += new
                if b"\x1b[6n" in new:  # where is the cursor?
                    os.write(master, b"\x1b[1;1R")

    try:
        for number, typed in enumerate(["/help" + ENTER, "ab中文" + BACKSPACE * 2 + ENTER, CTRL_D], start=1):
            wait_for("\x1b[?2004h", number)  # the editor waits for keys
            os.write(master, typed.encode())
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(master)
    said = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.decode("utf-8", "replace").replace("\r\n", "\n"))
    assert "<|im_start|>user\nab<|im_end|>" in said
    assert "user\n/help" not in said
