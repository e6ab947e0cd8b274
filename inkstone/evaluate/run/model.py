"""The two verbs of a model under test, score choices and write texts, with the same results for every kind of model.

A `Model` is a directory opened here (`local.py`), or an endpoint that speaks OpenAI's API (`endpoint.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from inkstone.chat import Message
from inkstone.evaluate.protocols.protocol import Ask, Protocol


@dataclass(frozen=True)
class Said:
    """A model's answer: `values` of the choices, or `texts` that it wrote; and what was lost of the prompt."""

    values: tuple[float, ...] = ()
    """Summed log-probabilities, or the mean per token of the whole text."""
    greedy: tuple[bool, ...] = ()
    """Whether each ending was the likeliest text."""
    texts: tuple[str, ...] = ()
    tokens: int = 0
    """Of the prompt."""
    dropped: int = 0
    """Worked examples left out because the prompt was too long."""
    cut: int = 0
    """Tokens lost on the left."""


@dataclass(frozen=True)
class Writing:
    """How a text is written: where it stops, how long it may be, and how it is drawn."""

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    until: str = ""
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0


class Model(Interface):
    name: str

    @property
    def fingerprint(self) -> str: ...

    def answer(self, protocol: Protocol, asks: Sequence[Ask], missing: Sequence[int]) -> Iterator[tuple[int, Said]]:
        """(index, answer) of the missing ones, as they come; neighbours of a missing one may come as well."""

    def talk(self, conversations: Sequence[Sequence[Message]], writing: Sequence[Writing]) -> Iterator[tuple[int, str]]:
        """(index, reply) to each conversation, as they come."""


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop, and whether there was one."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)
