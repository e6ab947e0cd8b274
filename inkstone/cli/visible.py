"""Foreign text on a terminal: control characters are shown, not obeyed.

A model, a checkpoint or a crawled page may hold ESC ] 52 (writes the clipboard), ESC [ 2 J (clears the screen) or a
bare carriage return (hides what stood before). `visible(text)` stands wherever such text is printed; line breaks and
tabs stay. Characters that turn the direction of writing are left: Arabic needs them.
"""

import re

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    r"""The text with C0, DEL and C1 characters as \x1b and the like."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
