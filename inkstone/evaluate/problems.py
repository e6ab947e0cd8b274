"""Word problems with a checkable answer: the model writes, the last number it wrote is compared with the answer.

A base model continues worked examples (`问：…\\n答：…`); a chat model gets the question as a user turn. Decoding is
greedy. Extraction is strict and never guesses: no number means a wrong answer, counted as `without_number`.
"""

import re
import time
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

from inkstone.chat import Message, Template, encode_chat
from inkstone.evaluate.items import Problem, Questions
from inkstone.evaluate.quiz import SEPARATOR, SPACE, TEXT_QUESTION
from inkstone.evaluate.requests import common_prefix
from inkstone.evaluate.tally import evenly, summary
from inkstone.generate import SamplingSettings, generate
from inkstone.model import Decoder
from inkstone.progress import Progress
from inkstone.tokenizer import Tokenizer

# A minus sign after a digit, letter or bracket is a subtraction; commas count only between groups of three digits.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def last_number(text: str) -> str | None:
    """The last number in `text`, without thousands separators; full-width digits and minus signs are read too."""
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-"))
    return found[-1].replace(",", "") if found else None


def same_number(one: str | None, other: str | None) -> bool:
    """Equality of value: "7", "7.0" and "7.00" are the same; None equals nothing."""
    return one is not None and other is not None and Decimal(one) == Decimal(other)


def answer_part(text: str, chat: bool) -> str:
    """What belongs to the answer: a base model that has finished goes on with the next example, a chat model stops."""
    return text.strip() if chat else text.split(SEPARATOR, 1)[0].strip()


def worked(problem: Problem) -> str:
    return _asked(problem) + SPACE[problem.lang] + problem.solution.strip()


def example_prompt(problem: Problem, examples: Sequence[Problem]) -> str:
    """Worked examples, then the question, up to where the answer begins."""
    return "".join(worked(one) + SEPARATOR for one in examples) + _asked(problem)


def example_end_ids(tokenizer: Tokenizer, examples: Sequence[Problem]) -> set[int]:
    """Token ids that end a worked answer and never occur inside one: stopping there saves decoding to the limit."""
    ends: set[int] = set()
    inside: set[int] = set()
    for one in examples:
        alone, followed = tokenizer.encode_batch([worked(one), worked(one) + SEPARATOR + worked(one)])
        boundary = common_prefix([alone, followed])
        if boundary == len(alone):
            ends.add(followed[boundary])
        inside.update(tokenizer.encode(one.solution.strip()))
    return ends - inside


def run_problems(
    model: Decoder,
    tokenizer: Tokenizer,
    template: Template | None,
    problems: Questions[Problem],
    shots: int,
    limit: int,
    max_new_tokens: int,
    progress: Progress,
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """(scores, one row per problem). With a chat template the problems are asked as conversations."""
    asked = [problems.test[index] for index in evenly(len(problems.test), limit)]
    started = time.perf_counter()
    room = model.config.max_positions - max_new_tokens
    stop_ids = set(tokenizer.end_ids)
    if template is None:
        prompts = [_fitting(problem, problems.dev, shots, tokenizer, room) for problem in asked]
        stop_ids |= example_end_ids(tokenizer, problems.dev)
    else:
        stop_ids |= {tokenizer.token_id(name) for name in template.stop_tokens}
        prompts = [(_chat_prompt(problem, template, tokenizer), 0) for problem in asked]
    fits = [index for index, (prompt, _) in enumerate(prompts) if len(prompt) <= room]
    sampling = SamplingSettings(temperature=0.0, max_new_tokens=max_new_tokens)
    written = generate(model, [prompts[index][0] for index in fits], sampling, stop_ids) if fits else []
    outputs = dict(zip(fits, written, strict=True))
    rows = []
    for index, problem in enumerate(asked):
        output = tokenizer.decode(outputs.get(index, []), skip_control=True)
        rows.append(_row(problem, output, template is not None))
    seconds = time.perf_counter() - started
    progress.advance(len(asked), len(asked), "problems", problems_per_second=round(len(asked) / seconds, 2))
    result = summary([bool(row["correct"]) for row in rows], {"lang": [problem.lang for problem in asked]})
    return result | {
        "without_number": sum(row["extracted"] is None for row in rows),
        "prompts_too_long": len(asked) - len(fits),
        "dropped_examples": sum(dropped for _, dropped in prompts),
        "shots": 0 if template else shots,
        "prompt": "chat" if template else "examples",
        "seconds": round(seconds, 3),
        "questions_per_second": round(len(asked) / seconds, 2),
    }, rows


def _asked(problem: Problem) -> str:
    return TEXT_QUESTION[problem.lang].format(question=problem.question.strip())


def _fitting(
    problem: Problem, dev: Sequence[Problem], shots: int, tokenizer: Tokenizer, room: int
) -> tuple[list[int], int]:
    """(prompt ids, examples dropped from the front so that prompt and answer fit the model's positions)."""
    examples = [one for one in dev if one.lang == problem.lang][:shots]
    for dropped in range(len(examples) + 1):
        ids = [*tokenizer.start_ids, *tokenizer.encode(example_prompt(problem, examples[dropped:]))]
        if len(ids) <= room:
            break
    return ids, dropped


def _chat_prompt(problem: Problem, template: Template, tokenizer: Tokenizer) -> list[int]:
    ids, _ = encode_chat([Message("user", problem.question.strip())], template, tokenizer, add_generation_prompt=True)
    return list(ids)


def _row(problem: Problem, output: str, chat: bool) -> dict[str, object]:
    extracted = last_number(answer_part(output, chat))
    correct = same_number(extracted, last_number(problem.answer))
    return {
        "id": problem.id,
        "lang": problem.lang,
        "question": problem.question,
        "answer": problem.answer,
        "output": output,
        "extracted": extracted,
        "correct": correct,
    }
