"""Two-digit addition: which sums exist, how they are worked digit by digit, and word problems about them.

Pairs of numbers fall into two worlds by a fixed rule: a tenth or so is held out for `problems/` and appears in no
training text at all, so a solved problem shows the method was learnt. `addition_facts` are the sums that drills repeat
and the quiz asks; other training sums are drawn freely.
"""

import random
from dataclasses import dataclass

from inkstone.primer.language import Fact, Scene, Voice

LOWEST, HIGHEST = 11, 99
QUIZZED_SUMS = 240


def held_out(x: int, y: int) -> bool:
    """True for the pairs that only `problems/` may use; both orders of a pair share its fate."""
    return (min(x, y) * 7 + max(x, y) * 12) % 11 == 0


def draw_pair(rng: random.Random, from_held_out: bool = False) -> tuple[int, int]:
    """A pair of two-digit numbers from the training world, or from the held-out one."""
    while True:
        x, y = rng.randint(LOWEST, HIGHEST), rng.randint(LOWEST, HIGHEST)
        if held_out(x, y) == from_held_out:
            return x, y


def addition_facts() -> tuple[Fact, ...]:
    """The sums repeated often enough to be known by heart; the same in every language and for every seed."""
    rng = random.Random("inkstone addition")
    pairs = {(27, 45)}
    while len(pairs) < QUIZZED_SUMS:
        pairs.add(draw_pair(rng))
    return tuple(Fact("addition", f"{x}+{y}", str(x + y)) for x, y in sorted(pairs))


def near_misses(total: int, rng: random.Random) -> list[str]:
    """Three wrong totals as a pupil would get them: a lost carry, a slip by one or two."""
    return [str(total + slip) for slip in rng.sample((-11, -10, -9, -2, -1, 1, 2, 9, 10, 11), 3)]


def digit_by_digit(x: int, y: int, voice: Voice) -> str:
    """The worked sum on one line: `27+45: 7+5=12, write 2 carry 1; 2+4+1=7; 72`."""
    ones = x % 10 + y % 10
    tens = x // 10 + y // 10 + ones // 10
    step = voice.step_carry if ones > 9 else voice.step_plain
    first = step.format(x0=x % 10, y0=y % 10, s=ones, d=ones % 10)
    second = f"{x // 10}+{y // 10}{'+1' if ones > 9 else ''}={tens}"
    return voice.digits.format(x=x, y=y, ones=first, tens=second, total=x + y)


@dataclass(frozen=True)
class Problem:
    """A word problem with its worked solution; the solution ends in the voice's fixed final answer."""

    question: str
    solution: str
    answer: str


def word_problem(scene: Scene, name: str, x: int, y: int, voice: Voice) -> Problem:
    question = scene.text.format(name=name, x=x, y=y)
    steps = [scene.reason, digit_by_digit(x, y, voice) + voice.step_end, voice.final_answer.format(total=x + y)]
    return Problem(question, voice.space.join(steps), str(x + y))


def draw_problem(voice: Voice, rng: random.Random, from_held_out: bool = False) -> Problem:
    x, y = draw_pair(rng, from_held_out)
    return word_problem(rng.choice(voice.scenes), rng.choice(voice.names), x, y, voice)
