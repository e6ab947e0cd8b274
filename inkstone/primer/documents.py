"""Clean documents: the learnable half of the raw corpus, eight kinds of page that state facts and work sums.

`Writer` deals facts to the kinds; `write(size)` keeps the kinds at their share of bytes. Every kind draws several facts
at random, so no two documents share more than a sentence or two.
"""

import random
from collections.abc import Callable

from inkstone.primer.arithmetic import digit_by_digit, draw_pair, draw_problem
from inkstone.primer.language import Language
from inkstone.primer.phrasing import LETTERS, Phrasebook, draw_choices, exam_question, hands

# Kind of document -> share of the clean bytes, fewest and most facts in one document.
KINDS = {
    "article": (0.24, 5, 9),
    "answers": (0.27, 5, 10),
    "arrows": (0.09, 4, 10),
    "dialogue": (0.11, 3, 5),
    "exam": (0.10, 3, 5),
    "story": (0.06, 3, 5),
    "drill": (0.08, 4, 8),
    "problems": (0.05, 2, 3),
}


class Writer:
    """Writes one language's documents; keeps the decks, so facts stay balanced over everything it ever wrote."""

    def __init__(self, language: Language, rng: random.Random) -> None:
        self.language = language
        self.voice = language.voice
        self.rng = rng
        self.phrases = Phrasebook(language, rng)
        self._kinds: dict[str, Callable[[], str]] = {
            "article": self.article,
            "answers": self.answers,
            "arrows": self.arrows,
            "dialogue": self.dialogue,
            "exam": self.exam,
            "story": self.story,
            "drill": self.drill,
            "problems": self.problems,
        }
        self._decks = {
            kind: hands(language.sums if kind == "drill" else language.facts, rng, low, high)
            for kind, (_, low, high) in KINDS.items()
        }
        self._written = dict.fromkeys(KINDS, 0.0)

    def write(self, size: int) -> list[str]:
        """Documents of about `size` UTF-8 bytes in all."""
        documents = []
        left = size
        while left > 0:
            documents.append(self.document())
            left -= len(documents[-1].encode())
        return documents

    def document(self) -> str:
        """The next document, of the kind that lags furthest behind its share."""
        kind = min(KINDS, key=lambda name: self._written[name] / KINDS[name][0])
        text = self._kinds[kind]()
        self._written[kind] += len(text.encode())
        return text

    def article(self) -> str:
        opening = self.rng.choice(self.voice.article_openings)
        facts = [
            self.rng.choice(self.voice.connectors) + self.phrases.statement(fact)
            for fact in next(self._decks["article"])
        ]
        half = len(facts) // 2
        paragraphs = [facts[:half], facts[half:]] if self.rng.random() < 0.5 else [facts]
        return _lines(opening, *(self.voice.space.join(sentences) for sentences in paragraphs))

    def answers(self) -> str:
        form = self.rng.choice(self.voice.qa_formats)
        rows = [form.format(q=self.phrases.question(fact), a=fact.answer) for fact in next(self._decks["answers"])]
        return _lines(self.rng.choice(self.voice.qa_headings), *rows)

    def arrows(self) -> str:
        brief = self.rng.random() < 0.7
        rows = [f"{fact.key}->{(brief and fact.short) or fact.answer}" for fact in next(self._decks["arrows"])]
        return _lines(self.rng.choice(self.voice.arrow_headings), *rows)

    def dialogue(self) -> str:
        """Two people, or a person and the assistant; then there is small talk and a title that nobody knows, too."""
        x, y = self.rng.sample(self.voice.names, 2)
        with_assistant = self.rng.random() < 0.4
        rows = []
        if with_assistant:
            y = self.voice.assistant
            asks, answers = self.rng.choice(self.voice.small_talk)
            rows += [self._says(x, self.rng.choice(asks)), self._says(y, self.rng.choice(answers))]
        for fact in next(self._decks["dialogue"]):
            rows += [
                self.rng.choice(self.voice.dialogue_asks).format(x=x, q=self.phrases.question(fact)),
                self._answer(y, fact.answer, self.phrases.statement(fact)),
                self.rng.choice(self.voice.dialogue_praises).format(x=x),
            ]
        if with_assistant:
            title = "".join(self.rng.choice(parts) for parts in self.voice.unknown_titles)
            ask, answer = self.rng.choice(self.voice.unknown_asks), self.rng.choice(self.voice.unknown_answers)
            rows += [self._says(x, ask.format(k=title)), self._says(y, answer.format(k=title))]
            rows += [
                self._says(x, self.rng.choice(self.voice.thanks[0])),
                self._says(y, self.rng.choice(self.voice.thanks[1])),
            ]
        return _lines(*rows)

    def _says(self, name: str, text: str) -> str:
        return self.voice.line.format(x=name, s=text)

    def _answer(self, y: str, answer: str, statement: str) -> str:
        return self.rng.choice(self.voice.dialogue_answers).format(y=y, a=answer, s=statement)

    def exam(self) -> str:
        heading = self.rng.choice(self.voice.exam_headings)
        rows = [heading]
        for number, fact in enumerate(next(self._decks["exam"]), start=1):
            position = self.rng.randrange(len(LETTERS))
            options = draw_choices(fact, self.language, position, self.rng)
            remark = self.rng.choice(self.voice.exam_remarks)
            rows += [
                (f"{number}. " if heading else "") + exam_question(self.phrases.question(fact), options),
                self.voice.exam_answer.format(letter=LETTERS[position])
                + remark.format(a=fact.answer, s=self.phrases.statement(fact)),
            ]
        return _lines(*rows)

    def story(self) -> str:
        x = self.rng.choice(self.voice.names)
        facts = next(self._decks["story"])
        steps = self.rng.sample(self.voice.story_steps, len(self.voice.story_steps))
        told = [
            steps[index % len(steps)].format(x=x, s=self.phrases.statement(fact)) for index, fact in enumerate(facts)
        ]
        opening, ending = self.rng.choice(self.voice.story_openings), self.rng.choice(self.voice.story_endings)
        return self.voice.space.join([opening.format(x=x), *told, ending.format(x=x)])

    def drill(self) -> str:
        rows = []
        for fact in next(self._decks["drill"]):
            rows.append(self.phrases.statement(fact))
            if self.rng.random() < 0.4:
                form = self.rng.choice(self.voice.qa_formats)
                rows.append(form.format(q=self.phrases.question(fact), a=fact.answer))
            x, y = draw_pair(self.rng) if self.rng.random() < 0.7 else (int(part) for part in fact.key.split("+"))
            rows.append(digit_by_digit(x, y, self.voice))
        return _lines(self.rng.choice(self.voice.drill_headings), *rows)

    def problems(self) -> str:
        rows = []
        for _ in range(self.rng.randint(2, 3)):
            problem = draw_problem(self.voice, self.rng)
            rows.append(self.voice.problem.format(question=problem.question, solution=problem.solution))
        return _lines(self.rng.choice(self.voice.problem_headings), *rows)


def _lines(*rows: str) -> str:
    return "\n".join(row for row in rows if row)
