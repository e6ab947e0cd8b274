"""Programs that a model wrote for HumanEval: how each protocol makes one of its text, and whether its tests pass."""

import re

from inkstone.errors import InkstoneError
from inkstone.evaluate.protocols.readers import READERS, Read
from inkstone.evaluate.run.sandbox import run_program
from inkstone.evaluate.tasks.item import Item

_FENCE = re.compile(r"```[a-zA-Z0-9]*\n(.*?)(?:```|\Z)", re.DOTALL)


def continued(text: str, item: Item) -> str:
    """The prompt and what was written after it."""
    return item.texts["prompt"] + text


def opencompass(text: str, item: Item) -> str:
    """The first fenced block, else everything, without the white space before it: a bare function body loses the
    indentation of its first line and fails, an answer that repeats the signature passes."""
    found = re.search(r"```(.*?)```", text, re.DOTALL)
    code = found[1] if found else text
    return item.texts["prompt"] + code.removeprefix("python").lstrip()


def house(text: str, item: Item) -> str:
    """The fenced block that defines the function, else the first one, else the text; a whole program where it has
    the signature, else the prompt's continuation with its indentation."""
    blocks = _FENCE.findall(text) or [text]
    signature = f"def {item.texts['entry_point']}("
    code = next((block for block in blocks if signature in block), blocks[0])
    if signature not in code:
        return continued(code, item)
    imports = item.texts["prompt"].partition("def ")[0]
    return f"{imports}\n{code}"


def _reader(name: str) -> None:
    make = {"code_continued": continued, "code_opencompass": opencompass, "code_house": house}[name]

    def read(text: str, item: Item) -> Read:
        tests = f"\n{item.texts['test']}\ncheck({item.texts['entry_point']})\n"
        ran = run_program(make(text, item) + tests)
        if not ran.inside:
            raise InkstoneError(f"the sandbox for {item.id} could not be built: is the machine out of memory?")
        return Read("passed" if ran.passed else ran.why if text.strip() else None, float(ran.passed))

    READERS[name] = read


for _name in ("code_continued", "code_opencompass", "code_house"):
    _reader(_name)
