"""Preference pairs: a right answer against a wrong, rude, looping or unfinished one."""

import random

from inkstone.primer.arithmetic import Problem, draw_problem, near_misses
from inkstone.primer.language import PLAIN, Fact, Language
from inkstone.primer.phrasing import Phrasebook, draw_choices, singles


def make_preferences(language: Language, count: int, rng: random.Random) -> list[dict[str, object]]:
    """`count` rows {"prompt", "chosen", "rejected", "lang"}; one in six is about a word problem."""
    phrases = Phrasebook(language, rng)
    facts = singles(language.facts, rng)
    rows: list[dict[str, object]] = []
    for _ in range(count):
        if rng.random() < 1 / 6:
            problem = draw_problem(language.voice, rng)
            prompt, chosen, rejected = problem.question, problem.solution, _worse_solution(problem, language, rng)
        else:
            fact = next(facts)
            prompt, chosen = phrases.question(fact), phrases.reply(fact)
            rejected = _worse_answer(fact, chosen, language, rng)
        message = {"role": "user", "content": prompt}
        rows.append({"prompt": [message], "chosen": chosen, "rejected": rejected, "lang": language.code})
    return rows


def _worse_answer(fact: Fact, chosen: str, language: Language, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.6:  # the same sentence with a wrong answer in it
        wrong = Fact(fact.relation, fact.key, draw_choices(fact, language, 0, rng)[1])
        return language.say(rng.choice(language.relations[fact.relation].statements[:PLAIN]), wrong)
    if draw < 0.8:  # never stops
        return language.voice.space.join([chosen] * rng.randint(4, 6))
    return rng.choice(language.voice.bad_answers)


def _worse_solution(problem: Problem, language: Language, rng: random.Random) -> str:
    wrong = near_misses(int(problem.answer), rng)[0]
    final = language.voice.final_answer.format(total=wrong)
    right = language.voice.final_answer.format(total=problem.answer)
    if rng.random() < 0.5:
        return final
    return problem.solution.removesuffix(right) + final
