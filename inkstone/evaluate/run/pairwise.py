"""Which of two models answered better: a judge reads both answers, in both orders; where these disagree it is a tie.

outcomes = judge_pairs(judge, items, run_a / "mt-bench@fastchat.jsonl", run_b / "mt-bench@fastchat.jsonl", kept)
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from inkstone.chat import Message
from inkstone.errors import InputError
from inkstone.evaluate.kept import Kept, worded
from inkstone.evaluate.run.judged import JUDGE_TOKENS, talk
from inkstone.evaluate.run.model import Model, Writing
from inkstone.evaluate.run.runner import read_rows
from inkstone.evaluate.tasks import Item


def judge_pairs(judge: Model, items: Sequence[Item], one: Path, other: Path, kept: Kept) -> Counter[str]:
    """How many turns are "a", "b", "tie" or "unparsed" (in either order), over turns that both runs have."""
    said = [{row["id"]: row["texts"][0] for row in read_rows(path)} for path in (one, other)]
    prompts: dict[str, list[Message]] = {}
    turns = []
    for item in items:
        for turn in range(1, len(item.choices) + 1):
            names = [f"{item.id}/{number}" for number in range(1, turn + 1)]
            if f"pair/{turn}" not in item.texts or not all(name in answers for name in names for answers in said):
                continue
            turns.append(names[-1])
            for order, (a, b) in (("ab", said), ("ba", said[::-1])):
                shown = _prompt(item, turn, [a[name] for name in names], [b[name] for name in names])
                prompts[f"{names[-1]}/{order}"] = shown
    if not turns:
        raise InputError(f"{one} and {other} have no answers to the same questions, or there are no prompts for pairs")
    names = [worded(name, prompt) for name, prompt in prompts.items()]
    writing = [Writing(JUDGE_TOKENS)] * len(prompts)
    texts, _ = kept.ask("pairs", names, partial(talk, judge, list(prompts.values()), writing))
    verdicts = {name: read_verdict(text) for name, text in zip(prompts, texts, strict=True)}
    return Counter(_outcome(verdicts[f"{turn}/ab"], verdicts[f"{turn}/ba"]) for turn in turns)


def read_verdict(text: str) -> str | None:
    """The last [[A]], [[B]] or [[C]] (a tie); None where there is none."""
    found = re.findall(r"\[\[([ABC])\]\]", text)
    return found[-1] if found else None


def _outcome(first: str | None, second: str | None) -> str:
    if first is None or second is None:
        return "unparsed"
    return {("A", "B"): "a", ("B", "A"): "b"}.get((first, second), "tie")


def _prompt(item: Item, turn: int, a: Sequence[str], b: Sequence[str]) -> list[Message]:
    facts = {"question": item.choices[turn - 1], "answer_a": a[-1], "answer_b": b[-1]}
    for number, (question, one, other) in enumerate(zip(item.choices, a, b, strict=False), 1):
        facts |= {f"question_{number}": question, f"answer_a_{number}": one, f"answer_b_{number}": other}
    facts |= {name: text for name, text in item.texts.items() if name.startswith("ref_answer")}
    return [Message("system", item.texts[f"pair_system/{turn}"]),
            Message("user", item.texts[f"pair/{turn}"].format_map(facts))]  # fmt: skip
