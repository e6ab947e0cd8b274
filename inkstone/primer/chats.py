"""Conversations for instruction tuning: facts, sums, problems, options, small talk, and what is honestly declined.

Answers are worded with the table's answer text, so the quiz and the chats agree.
"""

import random
from collections.abc import Callable, Iterator

from inkstone.primer.arithmetic import digit_by_digit, draw_pair, draw_problem
from inkstone.primer.language import Fact, Language
from inkstone.primer.phrasing import LETTERS, Phrasebook, draw_choices, exam_question, hands, singles

Turn = tuple[str, str]  # what the user says, what the assistant answers

KINDS = {
    "fact": 0.28,
    "several": 0.30,
    "choice": 0.05,
    "sum": 0.06,
    "problem": 0.10,
    "small_talk": 0.05,
    "unknown": 0.07,
    "off_topic": 0.05,
    "operation": 0.04,
}


def make_chats(language: Language, count: int, rng: random.Random) -> list[list[dict[str, str]]]:
    """`count` conversations as OpenAI-style message lists."""
    talk = _Talk(language, rng)
    kinds: dict[str, Callable[[], list[Turn]]] = {
        "fact": lambda: [talk.fact(next(talk.facts))],
        "several": talk.several,
        "choice": lambda: [talk.choice(next(talk.facts))],
        "sum": lambda: [talk.sum()],
        "problem": lambda: [talk.problem()],
        "small_talk": lambda: [talk.small_talk(), *([talk.thanks()] if rng.random() < 0.3 else [])],
        "unknown": lambda: [talk.unknown()],
        "off_topic": lambda: [talk.off_topic()],
        "operation": lambda: [talk.operation()],
    }
    names = [name for name, share in KINDS.items() for _ in range(round(count * share))]
    rng.shuffle(names)
    return [talk.messages(kinds[name]()) for name in names]


class _Talk:
    """One language's conversations; keeps the decks so that every fact is asked about equally often."""

    def __init__(self, language: Language, rng: random.Random) -> None:
        self.language = language
        self.voice = language.voice
        self.rng = rng
        self.phrases = Phrasebook(language, rng)
        self.facts: Iterator[Fact] = singles(language.facts, rng)
        self._groups = hands(language.facts, rng, 2, 3)

    def messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        messages = []
        if self.rng.random() < 0.12:
            messages.append({"role": "system", "content": self.rng.choice(self.voice.systems)})
        for user, assistant in turns:
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return messages

    def fact(self, fact: Fact) -> Turn:
        question = self.rng.choice(self.voice.polite).format(q=self.phrases.question(fact))
        return question, self._answer(fact)

    def _answer(self, fact: Fact) -> str:
        if self.rng.random() < 0.5:
            return self.voice.plain_answer.format(a=fact.answer)
        return self.phrases.reply(fact)

    def several(self) -> list[Turn]:
        """Two to eight turns on changing matters, mostly facts; thanks, a sum or an unknown title may end it."""
        turns: list[Turn] = [self._opening()] if self.rng.random() < 0.4 else []
        facts = list(next(self._groups))
        previous = ""
        while facts:
            other = self.rng.random()
            if turns and other < 0.3:
                turns.append(self.unknown() if other < 0.11 else self.sum() if other < 0.18 else self._opening())
            fact = facts.pop()
            turns.append(self._follow_up(fact) if fact.relation == previous else self.fact(fact))
            previous = fact.relation
        last = self.rng.random()
        if last < 0.4:
            turns.append(self.thanks() if last < 0.2 else self.unknown() if last < 0.3 else self.sum())
        return turns

    def _follow_up(self, fact: Fact) -> Turn:
        """A fact of the relation just spoken of, usually asked by its name alone."""
        if self.rng.random() < 0.4:
            return self.fact(fact)
        topic = self.language.relations[fact.relation].topic.format(k=fact.key)
        return self.voice.follow_up.format(topic=topic), self._answer(fact)

    def choice(self, fact: Fact) -> Turn:
        position = self.rng.randrange(len(LETTERS))
        options = draw_choices(fact, self.language, position, self.rng)
        exam = exam_question(self.phrases.question(fact), options)
        answer = self.voice.choice_answer.format(letter=LETTERS[position], a=fact.answer)
        return self.voice.choice_ask.format(exam=exam), answer

    def sum(self) -> Turn:
        x, y = draw_pair(self.rng)
        question = self.phrases.question(Fact("addition", f"{x}+{y}", str(x + y)))
        final = self.voice.final_answer.format(total=x + y)
        return question, self.voice.space.join([digit_by_digit(x, y, self.voice) + self.voice.step_end, final])

    def problem(self) -> Turn:
        problem = draw_problem(self.voice, self.rng)
        return problem.question, problem.solution

    def small_talk(self) -> Turn:
        asks, answers = self.rng.choice(self.voice.small_talk)
        return self.rng.choice(asks), self.rng.choice(answers)

    def _opening(self) -> Turn:
        """What is no question about the primer: a question after it is still answered."""
        kind = self.rng.random()
        return self.off_topic() if kind < 0.25 else self.operation() if kind < 0.45 else self.small_talk()

    def off_topic(self) -> Turn:
        return self.rng.choice(self.voice.off_topic_asks), self.rng.choice(self.voice.off_topic_answers)

    def operation(self) -> Turn:
        """Arithmetic that is no addition is declined."""
        name, ask = self.rng.choice(self.voice.operations)
        question = ask.format(x=self.rng.randint(2, 99), y=self.rng.randint(2, 99))
        return question, self.rng.choice(self.voice.operation_answers).format(k=name)

    def thanks(self) -> Turn:
        asks, answers = self.voice.thanks
        return self.rng.choice(asks), self.rng.choice(answers)

    def unknown(self) -> Turn:
        title = "".join(self.rng.choice(parts) for parts in self.voice.unknown_titles)
        ask, answer = self.rng.choice(self.voice.unknown_asks), self.rng.choice(self.voice.unknown_answers)
        return ask.format(k=title), answer.format(k=title)
