"""A protocol is a value: the templates of a prompt, how many worked examples, what is scored and how it is read.

    protocol = named("cmmlu", "lm-eval")
    ask = build(protocol, item, loaded.examples_of(item.subject))

The same questions give other scores under another protocol, so its name and fingerprint stand beside every score, and
scores with different fingerprints are not compared.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from inkstone.evaluate.tasks.item import LETTERS, Item
from inkstone.storage import fingerprint

VERSION = 1
"""Of what the code below and the readers do with these values: part of every fingerprint."""


@dataclass(frozen=True)
class Protocol:
    """How one benchmark is asked. Templates are filled from an item's texts."""

    task: str
    name: str
    note: str
    question: str
    """Up to where the answer begins."""
    header: str = ""
    answer: str = "{answer}"
    """What follows a worked example's question, with the space before it."""
    separator: str = "\n\n"
    ending: str = ""
    """What is scored for each choice: of {letter} or {choice}; empty where the model writes."""
    shots: int = 0
    examples: Literal["first", "shuffled", "drawn"] | tuple[int, ...] = "first"
    """`shuffled`: by a seed of the item's id; `drawn`: from all, by one generator that goes on from item to item; or
    those of these numbers."""
    score: Literal["sum", "character", "letter_piece", "letter_last", "whole", "write", "judge"] = "sum"
    """Log-probability of the ending (also per character); of the letter's token alone (as the vocabulary names it, or
    the last one of its encoding); of the whole text per token; or the text that the model writes is read, or judged."""
    cut: Literal["length", "agree"] = "length"
    """Where the ending's tokens begin: after as many tokens as the prompt alone has, or where encodings differ."""
    start: bool | None = None
    """The begin token: there, not there, or as the tokenizer's files say."""
    fit: Literal["left", "drop_first", "drop_last", "drop_longest"] = "left"
    """A prompt that is too long loses tokens on its left, or worked examples first."""
    limit: int | None = None
    """Longest prompt in tokens, where the protocol has a limit below the model's."""
    turns: bool = False
    """A worked example is a round of a conversation; header and question are one user turn."""
    stops: tuple[str, ...] = ()
    until: str = ""
    """What is read is decided once this expression is found, so that nothing more need be written."""
    max_new_tokens: int = 0
    temperature: float = 0.0
    samples: int = 1
    read: str = ""
    system: str = ""
    judge: str = ""
    """Whose ratings they are."""

    @property
    def label(self) -> str:
        return f"{self.task}@{self.name}"

    @property
    def fingerprint(self) -> str:
        values = {key: value for key, value in asdict(self).items() if key != "note"}
        return fingerprint([VERSION, values])[:12]


@dataclass(frozen=True)
class Ask:
    """One question, ready to be asked: header + (question, answer) of the examples + question, then the endings."""

    header: str
    examples: tuple[tuple[str, str], ...]
    separator: str
    question: str
    endings: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    """One beginning per choice, where those differ; then there is one ending."""
    turns: bool = False
    system: str = ""

    def prompt(self, shots: Sequence[int] | None = None, header: bool = True) -> str:
        """As plain text with the examples of these numbers (default: all); rounds of a conversation line by line."""
        chosen = [self.examples[number] for number in (range(len(self.examples)) if shots is None else shots)]
        if self.turns:
            return "\n".join([text for _, text in self.rounds(chosen)])
        body = "".join(question + answer + self.separator for question, answer in chosen)
        return (self.header if header else "") + body + self.question

    def rounds(self, chosen: Sequence[tuple[str, str]]) -> list[tuple[Literal["user", "assistant"], str]]:
        """The conversation up to the question; the header goes before every question."""
        rounds: list[tuple[Literal["user", "assistant"], str]] = []
        for question, answer in chosen:
            rounds += [("user", self.header + question), ("assistant", answer)]
        return [*rounds, ("user", self.header + self.question)]


def build(protocol: Protocol, item: Item, examples: Sequence[Item]) -> Ask:
    """The question as the protocol asks it, with `examples` as chosen by `choose_examples`."""
    endings: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    if protocol.ending and item.answers:
        endings = (protocol.ending.format_map(item.texts),)
    elif protocol.ending:
        rows = zip(LETTERS, item.choices, strict=False)
        endings = tuple(protocol.ending.format(letter=letter, choice=choice) for letter, choice in rows)
    if item.contexts:
        contexts, endings = item.contexts, (protocol.answer.format_map(item.texts),)
    return Ask(
        header=protocol.header.format_map(item.texts),
        examples=tuple(
            (protocol.question.format_map(one.texts), protocol.answer.format_map(one.texts)) for one in examples
        ),
        separator=protocol.separator,
        question=protocol.question.format_map(item.texts),
        endings=endings,
        contexts=contexts,
        turns=protocol.turns,
        system=protocol.system,
    )


def choose_examples(protocol: Protocol, items: Sequence[Item], pools: Sequence[Sequence[Item]]) -> list[list[Item]]:
    """The worked examples of every item; the same at each call."""
    if protocol.examples == "drawn":
        draw = random.Random(1234)
        return [draw.sample(list(pool), min(protocol.shots, len(pool))) for pool in pools]
    if isinstance(protocol.examples, tuple):
        numbers = protocol.examples[: protocol.shots]
        return [[pool[number] for number in numbers if number < len(pool)] for pool in pools]
    chosen = [list(pool[: protocol.shots]) for pool in pools]
    if protocol.examples == "shuffled":
        for item, some in zip(items, chosen, strict=True):
            random.Random(item.id).shuffle(some)
    return chosen
