"""The quiz and the word problems that a trained model is measured with.

`dev` holds the examples shown in a few-shot prompt, `test` the questions that count; no fact is in both. Four in ten
test questions use a phrasing that appears in no training file. Test problems use pairs of numbers that appear in none.
"""

import random

from inkstone.primer.arithmetic import draw_problem
from inkstone.primer.language import Fact, Language
from inkstone.primer.phrasing import LETTERS, draw_choices

DEV_PER_SUBJECT = 5
TEST_FACTS = 270  # per language, over all subjects but addition
TEST_SUMS = 20
UNSEEN_SHARE = 0.4
DEV_PROBLEMS, TEST_PROBLEMS = 10, 60  # per language

Row = dict[str, object]


def make_quiz(language: Language, rng: random.Random) -> tuple[list[Row], list[Row]]:
    """The dev and the test questions of one language."""
    subjects: dict[str, list[Fact]] = {}
    for fact in (*language.facts, *language.sums):
        subjects.setdefault(language.subject(fact), []).append(fact)
    dev: list[Fact] = []
    test: list[Fact] = []
    for facts in subjects.values():
        shuffled = rng.sample(facts, len(facts))
        dev += shuffled[:DEV_PER_SUBJECT]
        rest = shuffled[DEV_PER_SUBJECT:]
        is_sum = rest[0].relation == "addition"
        test += rest[: TEST_SUMS if is_sum else round(TEST_FACTS * len(facts) / len(language.facts))]
    return (
        _questions(language, dev, "dev", 0.0, rng),
        _questions(language, rng.sample(test, len(test)), "test", UNSEEN_SHARE, rng),
    )


def _questions(language: Language, facts: list[Fact], split: str, unseen_share: float, rng: random.Random) -> list[Row]:
    """One question per fact; phrasings and answer positions are dealt in equal parts, then shuffled."""
    count = len(facts)
    unseen = [index < round(count * unseen_share) for index in range(count)]
    positions = [index % len(LETTERS) for index in range(count)]
    rng.shuffle(unseen)
    rng.shuffle(positions)
    rows: list[Row] = []
    for index, fact in enumerate(facts):
        relation = language.relations[fact.relation]
        phrasing = rng.choice(relation.heldout if unseen[index] else relation.questions)
        rows.append(
            {
                "id": f"{language.code}-{split}-{index:04d}",
                "subject": relation.subject,
                "lang": language.code,
                "question": language.say(phrasing, fact),
                "choices": draw_choices(fact, language, positions[index], rng),
                "answer": positions[index],
                "phrasing": "unseen" if unseen[index] else "seen",
            }
        )
    return rows


def make_problems(language: Language, rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Word problems over held-out pairs of numbers; all questions differ."""
    rows: dict[str, Row] = {}
    while len(rows) < DEV_PROBLEMS + TEST_PROBLEMS:
        problem = draw_problem(language.voice, rng, from_held_out=True)
        rows[problem.question] = {
            "id": "",
            "lang": language.code,
            "question": problem.question,
            "solution": problem.solution,
            "answer": problem.answer,
        }
    ordered = list(rows.values())
    dev, test = ordered[:DEV_PROBLEMS], ordered[DEV_PROBLEMS:]
    for split, part in (("dev", dev), ("test", test)):
        for index, row in enumerate(part):
            row["id"] = f"{language.code}-problem-{split}-{index:03d}"
    return dev, test
