"""Four-choice questions, asked in two ways of a model that only knows likelihoods.

By letter: header, worked examples, the question with its options A-D, and the likeliest next letter wins. By text: the
question alone, and the option whose own words are likeliest wins (`text`, or `text_norm` per UTF-8 byte). Small
models cannot map letters to options, so by-text shows knowledge that by-letter hides; both are always reported.
Chinese answers follow the colon directly, English ones after a space, as in the texts a model has read.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from inkstone.errors import InkstoneError
from inkstone.evaluate.items import LETTERS, Item, Questions
from inkstone.evaluate.requests import ChoiceRequest, Encoder, Sketch, common_prefix, plan
from inkstone.evaluate.tally import likeliest, summary
from inkstone.generate import next_token_logprobs, score
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
_PROMPTS_AT_ONCE = 256  # each row of next-token log-probabilities is as wide as the vocabulary


@dataclass(frozen=True)
class Answer:
    """What a model answered to one item: an index into its choices, and the log-probabilities behind it."""

    prediction: int
    logprobs: list[float]


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


def ask_by_letter(model: Decoder, requests: Sequence[ChoiceRequest]) -> list[Answer]:
    """One look at the next token where every letter is one token; otherwise the letters' tokens are summed."""
    answers: dict[int, Answer] = {}
    for alike in alike_prompts(requests):
        rows = [index for index in alike if requests[index].single_token]
        if rows:
            logprobs = next_token_logprobs(model, [requests[index].context for index in rows])
            letters = torch.tensor([[ids[0] for ids in requests[index].continuations] for index in rows])
            for index, values in zip(rows, logprobs.cpu().gather(1, letters).tolist(), strict=True):
                answers[index] = Answer(likeliest(values), values)
    other = [index for index in range(len(requests)) if index not in answers]
    answers |= dict(zip(other, ask_by_text(model, [requests[index] for index in other]), strict=True))
    return [answers[index] for index in range(len(requests))]


def ask_by_text(model: Decoder, requests: Sequence[ChoiceRequest]) -> list[Answer]:
    """The continuation with the largest summed log-probability."""
    answers: dict[int, Answer] = {}
    for alike in alike_prompts(requests):
        pairs = [(requests[index].context, ids) for index in alike for ids in requests[index].continuations]
        scored = iter(score(model, pairs))
        for index in alike:
            values = [next(scored).logprob for _ in requests[index].continuations]
            answers[index] = Answer(likeliest(values), values)
    return [answers[index] for index in range(len(requests))]


def alike_prompts(requests: Sequence[ChoiceRequest]) -> list[list[int]]:
    """Indices of requests whose contexts share most of their tokens, i.e. their worked examples.

    Asked together, the shared part is computed once; a batch that mixed two subjects would compute it for every row.
    """
    runs: list[list[int]] = []
    for index in sorted(range(len(requests)), key=lambda index: (requests[index].context, index)):
        context = requests[index].context
        last = requests[runs[-1][-1]].context if runs else []
        if not runs or len(runs[-1]) == _PROMPTS_AT_ONCE or 2 * common_prefix([last, context]) < len(context):
            runs.append([])
        runs[-1].append(index)
    return runs


def per_byte(answer: Answer, item: Item) -> Answer:
    """The same log-probabilities divided by the UTF-8 length of each option."""
    values = [
        value / max(1, len(choice.strip().encode()))
        for value, choice in zip(answer.logprobs, item.choices, strict=True)
    ]
    return Answer(likeliest(values), values)


def run_quiz(
    model: Decoder, encoder: Encoder, quiz: Questions[Item], shots: int, progress: Progress
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """(scores, one row per question)."""
    items = quiz.test
    examples = [examples_for(item, quiz.dev, shots) for item in items]
    positions = model.config.max_positions
    result: dict[str, object] = {}

    started = time.perf_counter()
    sketches = [letter_sketch(item, given) for item, given in zip(items, examples, strict=True)]
    by_letter = plan(sketches, encoder, positions, share=True)
    letter = ask_by_letter(model, by_letter)
    letter_seconds = time.perf_counter() - started
    progress.advance(1, 2, "scorings", questions_per_second=round(len(items) / letter_seconds, 1))
    same = _same_letters(sketches, by_letter, items, encoder)
    if not same:
        progress.note("The tokenizer joins option letters with their surroundings in the worked examples.")
    one_token = sum(request.single_token for request in by_letter)
    result["letter"] = _scores(items, letter, by_letter, letter_seconds) | {
        "single_token_letters": one_token,
        "same_letter_in_examples": same,
    }

    started = time.perf_counter()
    by_text = plan([text_sketch(*pair) for pair in zip(items, examples, strict=True)], encoder, positions)
    text = ask_by_text(model, by_text)
    norm = [per_byte(answer, item) for answer, item in zip(text, items, strict=True)]
    text_seconds = time.perf_counter() - started
    progress.advance(2, 2, "scorings", questions_per_second=round(len(items) / text_seconds, 1))
    result["text"] = _scores(items, text, by_text, text_seconds)
    result["text_norm"] = _scores(items, norm, by_text, text_seconds)

    answers = {"letter": letter, "text": text, "text_norm": norm}
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
    items: list[Item], answers: list[Answer], requests: list[ChoiceRequest], seconds: float
) -> dict[str, object]:
    outcomes = [answer.prediction == item.answer for answer, item in zip(answers, items, strict=True)]
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


def _refuse_nan(items: list[Item], answers: dict[str, list[Answer]]) -> None:
    for given in answers.values():
        for item, answer in zip(items, given, strict=True):
            if any(math.isnan(value) for value in answer.logprobs):
                raise InkstoneError(
                    f"The model gives NaN for question {item.id!r}: its weights are damaged or its training diverged."
                )


def _row(item: Item, answers: dict[str, Answer]) -> dict[str, object]:
    row: dict[str, object] = {"id": item.id, "subject": item.subject, "lang": item.lang, "phrasing": item.phrasing}
    row["answer"] = item.answer
    for name, answer in answers.items():
        row[name] = {
            "prediction": answer.prediction,
            "correct": answer.prediction == item.answer,
            "logprobs": [round(value, 5) for value in answer.logprobs],
        }
    return row
