"""Word problems with a checkable answer: the model writes, the last number it wrote is compared with the answer.

A base model continues worked examples (`问：…\\n答：…`); a chat model gets the question as a user turn. Decoding is
greedy. Extraction is strict and never guesses: no number means a wrong answer, counted as `without_number`.
"""

from collections.abc import Iterator, Sequence

from inkstone.chat import Message, Template, encode_chat
from inkstone.chat.numbers import last_number, same_number
from inkstone.evaluate.items import Problem, Questions
from inkstone.evaluate.kept import Kept
from inkstone.evaluate.quiz import SEPARATOR, SPACE, TEXT_QUESTION
from inkstone.evaluate.tally import evenly, summary
from inkstone.generate import SamplingSettings, generate_each
from inkstone.generate.score import common_prefix
from inkstone.model import Opened
from inkstone.progress import Progress
from inkstone.tokenizer import Tokenizer


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
    opened: Opened,
    problems: Questions[Problem],
    shots: int,
    limit: int,
    max_new_tokens: int,
    progress: Progress,
    kept: Kept,
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """(scores, one row per problem). With a chat template the problems are asked as conversations."""
    tokenizer, template = opened.tokenizer, opened.template
    asked = [problems.test[index] for index in evenly(len(problems.test), limit)]
    room = opened.model.max_positions - max_new_tokens
    stop_ids = opened.stop_ids
    if template is None:
        prompts = [_fitting(problem, problems.dev, shots, tokenizer, room) for problem in asked]
        stop_ids = stop_ids | example_end_ids(tokenizer, problems.dev)
    else:
        prompts = [(_chat_prompt(problem, template, tokenizer), 0) for problem in asked]
    fits = [index for index, (prompt, _) in enumerate(prompts) if len(prompt) <= room]
    sampling = SamplingSettings(temperature=0.0, max_new_tokens=max_new_tokens)

    def answer(missing: list[int]) -> Iterator[tuple[int, str]]:
        given = [prompts[fits[place]][0] for place in missing]
        for number, ids in generate_each(opened.model, given, sampling, stop_ids):
            yield missing[number], tokenizer.decode(ids, skip_control=True)

    written, seconds = kept.ask("problems", [asked[index].id for index in fits], answer)
    outputs = dict(zip(fits, written, strict=True))
    rows = [_row(one, outputs.get(index, ""), template is not None) for index, one in enumerate(asked)]
    seconds = max(seconds, 1e-6)  # there may be none that fits
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
