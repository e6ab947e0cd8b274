"""Four-choice questions, asked in two ways of a model that only knows likelihoods.

By letter: header, worked examples, the question with its options A-D, and the likeliest next letter wins. By text: the
question alone, and the option whose own words are likeliest wins (`text`, or `text_norm` per UTF-8 byte). Small
models cannot map letters to options, so by-text shows knowledge that by-letter hides; both are always reported.
Chinese answers follow the colon directly, English ones after a space, as in the texts a model has read.
"""

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial

from inkstone.errors import InkstoneError
from inkstone.evaluate.items import LETTERS, Item, Questions
from inkstone.evaluate.kept import Kept
from inkstone.evaluate.requests import ChoiceRequest, Encoder, Sketch, plan
from inkstone.evaluate.tally import likeliest, summary
from inkstone.generate.score import common_prefix
from inkstone.generate.score_shared import Choices, score_choices
from inkstone.model import Decoder
from inkstone.progress import Progress

HEADER = {
    "zh": "以下是关于{subject}的单项选择题，请直接给出正确答案的选项。\n\n",
    "en": "The following are multiple choice questions (with answers) about {subject}.\n\n",
}
LETTER_QUESTION = {
    "zh": "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\n答案：",
    "en": "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:",
}
TEXT_QUESTION = {"zh": "问：{question}\n答：", "en": "Question: {question}\nAnswer:"}
SPACE = {"zh": "", "en": " "}
SEPARATOR = "\n\n"


def letter_sketch(item: Item, examples: Sequence[Item]) -> Sketch:
    """The prompt that ends just before the letter."""
    lang = item.lang
    endings = tuple(SPACE[lang] + letter for letter in LETTERS)
    worked = tuple(_letter_question(one) + endings[one.answer] + SEPARATOR for one in examples)
    header = HEADER[lang].format(subject=item.subject.replace("_", " "))
    return Sketch(header, worked, _letter_question(item), endings)


def text_sketch(item: Item, examples: Sequence[Item]) -> Sketch:
    """The prompt that ends just before the option's own words."""
    space, question = SPACE[item.lang], TEXT_QUESTION[item.lang]
    worked = tuple(
        question.format(question=one.question.strip()) + space + one.choices[one.answer].strip() + SEPARATOR
        for one in examples
    )
    endings = tuple(space + choice.strip() for choice in item.choices)
    return Sketch("", worked, question.format(question=item.question.strip()), endings)


def examples_for(item: Item, dev: Sequence[Item], shots: int) -> list[Item]:
    """The first `shots` worked examples of the item's language and subject, in file order."""
    return [one for one in dev if (one.lang, one.subject) == (item.lang, item.subject)][:shots]


def same_letter_in_examples(sketch: Sketch, request: ChoiceRequest, encoder: Encoder) -> bool:
    """Whether every worked example shows its letter as the very token that is scored.

    A tokenizer may join a letter with what follows it ("A" and a newline); the examples would then teach a token
    that is never asked for.
    """
    shown = sketch.examples[len(sketch.examples) - request.shots :]
    ends, text = [], sketch.header
    for example in shown:
        ends.append(text + example.removesuffix(SEPARATOR))
        text += example
    whole, *prefixes = encoder.encode_batch([text + sketch.question, *ends])
    letters = {tuple(continuation) for continuation in request.continuations}
    return all(
        common_prefix([prefix, whole]) == len(prefix) and any(tuple(prefix[-len(ids) :]) == ids for ids in letters)
        for prefix in prefixes
    )


def ask_choices(
    model: Decoder, requests: Sequence[ChoiceRequest], missing: Sequence[int] | None = None
) -> Iterator[tuple[int, list[float]]]:
    """(index, summed log-probability of each choice) of all that are computed with a `missing` one; default: of all."""
    choices = [Choices(request.context, request.continuations) for request in requests]
    scored = score_choices(model, choices, missing)
    return ((index, [one.logprob for one in found]) for index, found in scored)


def per_byte(values: Sequence[float], item: Item) -> list[float]:
    """Log-probabilities of the options divided by their UTF-8 lengths."""
    return [value / max(1, len(choice.strip().encode())) for value, choice in zip(values, item.choices, strict=True)]


def run_quiz(
    model: Decoder, encoder: Encoder, quiz: Questions[Item], shots: int, progress: Progress, kept: Kept
) -> tuple[dict[str, dict[str, object]], list[dict[str, object]]]:
    """(scores, one row per question)."""
    items, result = quiz.test, dict[str, dict[str, object]]()
    examples = [examples_for(item, quiz.dev, shots) for item in items]
    answers: dict[str, list[list[float]]] = {}
    for number, (name, sketch) in enumerate((("letter", letter_sketch), ("text", text_sketch)), 1):
        started = time.perf_counter()
        sketches = [sketch(item, given) for item, given in zip(items, examples, strict=True)]
        requests = plan(sketches, encoder, model.max_positions, share=name == "letter")
        planned = time.perf_counter() - started
        answers[name], seconds = kept.ask(name, [item.id for item in items], partial(ask_choices, model, requests))
        seconds += planned
        progress.advance(number, 2, "scorings", questions_per_second=round(len(items) / seconds, 1))
        result[name] = _scores(items, answers[name], requests, seconds)
        if name == "letter":
            same = _same_letters(sketches, requests, items, encoder)
            if not same:
                progress.note("The tokenizer joins option letters with their surroundings in the worked examples.")
            one_token = sum(request.single_token for request in requests)
            result[name] |= {"single_token_letters": one_token, "same_letter_in_examples": same}
    answers["text_norm"] = [per_byte(values, item) for values, item in zip(answers["text"], items, strict=True)]
    result["text_norm"] = _scores(items, answers["text_norm"], requests, seconds)
    _refuse_nan(items, answers)
    rows = [_row(item, {name: given[index] for name, given in answers.items()}) for index, item in enumerate(items)]
    return result, rows


def _letter_question(item: Item) -> str:
    options = dict(zip(LETTERS, (choice.strip() for choice in item.choices), strict=True))
    return LETTER_QUESTION[item.lang].format(question=item.question.strip(), **options)


def _same_letters(sketches: list[Sketch], requests: list[ChoiceRequest], items: list[Item], encoder: Encoder) -> bool:
    """Checked once per language and subject: their questions share their examples."""
    first = {(item.lang, item.subject): index for index, item in reversed(list(enumerate(items)))}
    return all(same_letter_in_examples(sketches[index], requests[index], encoder) for index in first.values())


def _scores(
    items: list[Item], answers: list[list[float]], requests: list[ChoiceRequest], seconds: float
) -> dict[str, object]:
    outcomes = [likeliest(values) == item.answer for values, item in zip(answers, items, strict=True)]
    groups: dict[str, Sequence[str]] = {
        "phrasing": [item.phrasing for item in items],
        "lang": [item.lang for item in items],
        "subject": [f"{item.lang}/{item.subject}" for item in items],
    }
    return summary(outcomes, groups) | {
        "shots": max(request.shots + request.dropped for request in requests),
        "questions_with_dropped_examples": sum(request.dropped > 0 for request in requests),
        "dropped_examples": sum(request.dropped for request in requests),
        "questions_cut": sum(request.cut > 0 for request in requests),
        "seconds": round(seconds, 3),
        "questions_per_second": round(len(items) / seconds, 2),
    }


def _refuse_nan(items: list[Item], answers: dict[str, list[list[float]]]) -> None:
    for given in answers.values():
        for item, values in zip(items, given, strict=True):
            if any(map(math.isnan, values)):
                raise InkstoneError(
                    f"The model gives NaN for question {item.id!r}: its weights are damaged or its training diverged."
                )


def _row(item: Item, answers: dict[str, list[float]]) -> dict[str, object]:
    row: dict[str, object] = {"id": item.id, "subject": item.subject, "lang": item.lang, "phrasing": item.phrasing}
    row |= {"question": item.question, "choices": item.choices, "answer": item.answer}
    for name, values in answers.items():
        chosen = likeliest(values)
        logprobs = [round(value, 5) for value in values]
        row[name] = {"prediction": chosen, "correct": chosen == item.answer, "logprobs": logprobs}
    return row
