"""Deal facts and their phrasings evenly, so that every fact is stated about equally often, in all its ways.

Independent sampling would leave some facts with half the mentions of others; here whole decks are dealt to the end.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from inkstone.primer.arithmetic import near_misses
from inkstone.primer.language import PLAIN, Fact, Language

LETTERS = "ABCD"


def hands(facts: Sequence[Fact], rng: random.Random, low: int, high: int) -> Iterator[list[Fact]]:
    """Deal all facts, again and again, in hands of `low` to `high` or so: within relations, then across."""
    for themed in itertools.cycle((True, False)):
        piles: dict[str, list[Fact]] = {}
        for fact in facts:
            piles.setdefault(fact.relation if themed else "", []).append(fact)
        dealt = []
        for pile in piles.values():
            rng.shuffle(pile)
            while pile:
                count = rng.randint(low, high)
                if len(pile) - count < low:
                    count = len(pile)
                dealt.append(pile[:count])
                del pile[:count]
        rng.shuffle(dealt)
        yield from dealt


def singles(facts: Sequence[Fact], rng: random.Random) -> Iterator[Fact]:
    """Deal all facts one at a time, again and again."""
    return (fact for hand in hands(facts, rng, 1, 1) for fact in hand)


class Phrasebook:
    """Remembers which phrasing of a fact comes next; each fact walks through its own shuffled order."""

    def __init__(self, language: Language, rng: random.Random) -> None:
        self.language = language
        self.rng = rng
        self._next: dict[tuple[Fact, str], Iterator[str]] = {}

    def statement(self, fact: Fact) -> str:
        return self._say(fact, "statement", self.language.relations[fact.relation].statements)

    def question(self, fact: Fact) -> str:
        return self._say(fact, "question", self.language.relations[fact.relation].questions)

    def reply(self, fact: Fact) -> str:
        """A plain statement, as a person would answer a question."""
        return self._say(fact, "reply", self.language.relations[fact.relation].statements[:PLAIN])

    def _say(self, fact: Fact, form: str, phrasings: Sequence[str]) -> str:
        turn = self._next.get((fact, form))
        if turn is None:
            turn = self._next[fact, form] = itertools.cycle(self.rng.sample(phrasings, len(phrasings)))
        return self.language.say(next(turn), fact)


def draw_choices(fact: Fact, language: Language, position: int, rng: random.Random) -> list[str]:
    """Four options with the right answer at `position`; the wrong ones are answers of the same relation."""
    if fact.relation == "addition":
        options = near_misses(int(fact.answer), rng)
    else:
        wrong = sorted({other.answer for other in language.group(fact)} - {fact.answer})
        options = rng.sample(wrong, len(LETTERS) - 1)
    options.insert(position, fact.answer)
    return options


def exam_question(question: str, options: Sequence[str]) -> str:
    """The question and its lettered options, one per line."""
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))])
