"""The shape of one language's primer: facts, the relations that phrase them, and the voice around them.

`words/*_facts.toml` fill `Relation`s and `words/*_voice.toml` a `Voice`; everything else in the room is written once
against these shapes and never asks which language it is rendering. In every template `{k}` is the key of a fact (a
poem), `{a}` its answer (the poet).
"""

from dataclasses import dataclass
from typing import Literal

Lang = Literal["zh", "en"]
PLAIN = 3


@dataclass(frozen=True)
class Fact:
    """One row of a fact table."""

    relation: str
    key: str
    answer: str
    short: str = ""  # a shorter answer for lists such as `Hamlet->Shakespeare`; empty where the answer is short already


@dataclass(frozen=True)
class Relation:
    """How the facts of one table are said and asked. The first `PLAIN` statements are plain enough to answer with.

    `questions` may appear anywhere; `heldout` phrasings appear in `quiz/test.jsonl` only, so that the quiz can tell
    knowledge of a fact from memory of a sentence.
    """

    name: str  # the table is facts/{lang}_{name}.csv
    subject: str  # the quiz subject, readable
    topic: str  # how a follow-up names the key: 《{k}》
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    heldout: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """A word problem: `{name}` has `{x}` and `{y}` of something; `reason` opens the worked solution."""

    text: str
    reason: str


@dataclass(frozen=True)
class Voice:
    """Everything around the facts: frames of documents, arithmetic wording, and what the assistant says."""

    space: str  # between two sentences of a paragraph
    names: tuple[str, ...]
    # documents
    article_openings: tuple[str, ...]
    connectors: tuple[str, ...]
    qa_headings: tuple[str, ...]
    qa_formats: tuple[str, ...]  # {q}, {a}
    arrow_headings: tuple[str, ...]
    exam_headings: tuple[str, ...]
    exam_answer: str  # {letter}
    exam_remarks: tuple[str, ...]  # what may follow the letter: {a}, {s} (a statement)
    assistant: str  # its name, as a speaker in a dialogue
    line: str  # {x} says {s}
    dialogue_asks: tuple[str, ...]  # {x} asks {q}
    dialogue_answers: tuple[str, ...]  # {y} answers {a} or {s}
    dialogue_praises: tuple[str, ...]  # {x}
    story_openings: tuple[str, ...]  # {x}
    story_steps: tuple[str, ...]  # {x}, {s}
    story_endings: tuple[str, ...]  # {x}
    # arithmetic
    drill_headings: tuple[str, ...]
    step_plain: str  # {x0}+{y0}={s}, write {s}
    step_carry: str  # {x0}+{y0}={s}, write {d} carry 1
    digits: str  # {x}+{y}: {ones}; {tens}; {total}
    step_end: str  # the full stop after a worked sum
    problem_headings: tuple[str, ...]
    problem: str  # {question}, {solution}
    final_answer: str  # {total}
    scenes: tuple[Scene, ...]
    # conversations
    systems: tuple[str, ...]
    polite: tuple[str, ...]  # {q}
    plain_answer: str  # {a}
    choice_ask: str  # {exam}
    choice_answer: str  # {letter}, {a}
    follow_up: str  # {topic}
    small_talk: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # (user says, assistant says), drawn independently
    thanks: tuple[tuple[str, ...], tuple[str, ...]]
    unknown_titles: tuple[tuple[str, ...], ...]  # beginnings, middles and ends of invented titles
    unknown_asks: tuple[str, ...]  # {k}
    unknown_answers: tuple[str, ...]  # {k}
    off_topic_asks: tuple[str, ...]  # what the assistant cannot do
    off_topic_answers: tuple[str, ...]
    operations: tuple[tuple[str, str], ...]  # arithmetic it never learned: its name and how it is asked, {x}, {y}
    operation_answers: tuple[str, ...]  # {k}
    bad_answers: tuple[str, ...]  # rejected in preference pairs


@dataclass(frozen=True)
class Language:
    """One language, complete. `sums` are the two-digit additions of the drills and the quiz, phrased by `addition`."""

    code: Lang
    voice: Voice
    relations: dict[str, Relation]
    facts: tuple[Fact, ...]
    sums: tuple[Fact, ...]

    def say(self, template: str, fact: Fact) -> str:
        """Fill a phrasing; an English sentence that opens with its key starts with a capital all the same."""
        text = template.format(k=fact.key, a=fact.answer)
        return text[0].upper() + text[1:]

    def group(self, fact: Fact) -> list[Fact]:
        """All facts of the same relation: where wrong options come from."""
        return [other for other in (*self.facts, *self.sums) if other.relation == fact.relation]

    def subject(self, fact: Fact) -> str:
        return self.relations[fact.relation].subject
