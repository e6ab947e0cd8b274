"""One message typed on a terminal: wide characters, history, pasted lines (prompt_toolkit, the extra `chat`).

read = line_reader()
text = read()               # EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C on an empty line

Python's own `input` counts a Chinese character as one column and Up as `^[[A`: what stands on the screen is then not
what is sent. History lasts as long as the conversation and is written nowhere.
"""

from collections.abc import Callable
from typing import Any

MISSING = "plain input without history: pip install 'inkstone[chat]' brings a line editor"


def line_reader() -> Callable[[], str]:
    """A function that reads a message. Raises ImportError where prompt_toolkit is not installed."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def break_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear(event: Any) -> None:
        if not event.current_buffer.text:
            event.app.exit(exception=KeyboardInterrupt("left the conversation"))
        event.current_buffer.reset()

    # Several lines, so that what is pasted is seen as it is; Enter sends all the same.
    session: PromptSession[str] = PromptSession(
        [("bold ansicyan", "> ")],
        history=InMemoryHistory(),
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
    )
    return session.prompt
