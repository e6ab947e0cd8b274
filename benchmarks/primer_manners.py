"""How the primer's chat model behaves when it is asked what it was not taught: 60 openings in two languages.

    python benchmarks/primer_manners.py runs/primer/sft

Off-topic questions and other arithmetic must be declined in the question's language, an invented title must be declined
by its own name, and a question after small talk must be answered. None of the questions is in the training chats.
"""

import sys
import tomllib
from pathlib import Path

from inkstone.evaluate.samples import hold_conversation
from inkstone.model import open_directory

ITEMS = Path(__file__).with_name("primer_manners.toml")
DECLINES = {
    "zh": ("抱歉", "对不起", "不会", "不知道", "没有学过", "没有读到", "只会"),
    "en": ("Sorry", "sorry", "do not know", "cannot", "never", "only"),
}


def is_chinese(text: str) -> bool:
    return sum("一" <= char <= "鿿" for char in text) * 2 > sum(char.isalpha() for char in text)


def right(item: dict[str, object], reply: str) -> bool:
    """In the language that was asked, and either declined (by its own title) or with the answer."""
    lang = str(item["lang"])
    same_language = is_chinese(reply) == (lang == "zh")
    if "answer" in item:
        return same_language and str(item["answer"]) in reply
    declined = any(mark in reply for mark in DECLINES[lang])
    return same_language and declined and str(item.get("title", "")) in reply


def main() -> None:
    opened = open_directory(Path(sys.argv[1]), chat=True)
    assert opened.template is not None
    counts: dict[str, list[int]] = {}
    for item in tomllib.loads(ITEMS.read_text(encoding="utf-8"))["items"]:
        said = hold_conversation(opened, opened.template, item["turns"], 64)
        reply = str(said[-1]["content"])
        fine = right(item, reply)
        counts.setdefault(item["kind"], []).append(fine)
        if not fine:
            print(f"wrong, {item['kind']}: {' | '.join(item['turns'])} -> {reply}")
    for kind, found in counts.items():
        print(f"{kind}: {sum(found)} of {len(found)}")
    every = [fine for found in counts.values() for fine in found]
    print(f"all: {sum(every)} of {len(every)} ({sum(every) / len(every):.1%})")


if __name__ == "__main__":
    main()
