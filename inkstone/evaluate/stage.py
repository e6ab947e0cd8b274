"""Evaluate models: each in turn is loaded, asked the quiz and the problems, measured on held-out text and sampled.

`evaluate_models` writes into a directory the pipeline gives it (scores.json, questions.jsonl, problems.jsonl,
samples.json); `evaluate_directory` does the same for one model directory. All inputs are read before the first model
is loaded, so what is wrong with them is said at once.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from inkstone.errors import InputError, gathering
from inkstone.evaluate import problems as word_problems
from inkstone.evaluate import quiz as four_choices
from inkstone.evaluate.items import Item, Problem, Questions, read_problems, read_quiz
from inkstone.evaluate.kept import Kept
from inkstone.evaluate.perplexity import Document, other_tokenizer, read_heldout, run_heldout
from inkstone.evaluate.protocols import Protocol
from inkstone.evaluate.run.benchmarks import load_all, run_benchmarks, wanted_protocols
from inkstone.evaluate.run.local import LocalModel
from inkstone.evaluate.run.sandbox import require_sandbox
from inkstone.evaluate.samples import Prompts, continue_texts, hold_conversation, read_prompts
from inkstone.evaluate.settings import EvaluateSettings
from inkstone.evaluate.table import table_entry
from inkstone.evaluate.tasks import on_hub
from inkstone.model import ModelSettings, Opened, open_directory, save_model
from inkstone.model.files.offload import Offload
from inkstone.model.files.weights import GGUF
from inkstone.model.opened import states_template
from inkstone.progress import Progress, Silent
from inkstone.stage import Job, Result, StageKind
from inkstone.storage import fingerprint, write_json, write_json_lines
from inkstone.tokenizer import Tokenizer
from inkstone.train import PRETRAIN, PretrainSettings, new_model

Rows = list[dict[str, object]]
Read = TypeVar("Read")


@dataclass(frozen=True)
class Given:
    """Where lies what models are asked: directories of questions, token shards, a file of prompts, benchmarks."""

    quiz: Path | None = None
    problems: Path | None = None
    tokens: Path | None = None
    prompts: Path | None = None
    data: Path | None = None


@dataclass(frozen=True)
class Inputs:
    """What every model is asked; None where a kind was not chosen."""

    quiz: Questions[Item] | None
    problems: Questions[Problem] | None
    prompts: Prompts | None
    heldout: list[Document]
    protocols: list[Protocol]
    data: Path | None


def evaluate_models(
    settings: EvaluateSettings,
    models: Mapping[str, Path],
    given: Given,
    output: Path,
    progress: Progress | None = None,
    scratch: Path | None = None,
) -> dict[str, object]:
    """Evaluate `models` (name to directory, in the order of the table) and return the contents of scores.json.

    What is answered is kept in `scratch` as it comes, and is not asked again after a kill.
    """
    progress = progress or Silent()
    given = given if settings.heldout else replace(given, tokens=None)
    inputs = _read_inputs(settings, models, given)
    if given.tokens and not inputs.heldout:
        progress.note(
            "there are no held-out documents, so no bits per byte: the corpus holds some out from 20 documents on"
        )
    results: dict[str, object] = {}
    samples: dict[str, object] = {}
    quiz_rows: Rows = []
    problem_rows: Rows = []
    for name, directory in models.items():
        progress.note(f"Evaluating {name}.", model=name)
        kept = Kept(scratch / "answers.jsonl" if scratch else None, name)
        folder = (scratch or output) / "benchmarks" / name
        result, said, asked, solved = _evaluate_model(settings, directory, inputs, progress, kept, folder)
        results[name], samples[name] = result, said
        quiz_rows += [{"model": name, **row} for row in asked]
        problem_rows += [{"model": name, **row} for row in solved]
    if scratch and (scratch / "benchmarks").is_dir():
        shutil.copytree(scratch / "benchmarks", output / "benchmarks", ignore=shutil.ignore_patterns(".lock"))
    scores: dict[str, object] = {"method": method(settings), "models": results}
    write_json(output / "scores.json", scores)
    write_json_lines(output / "questions.jsonl", quiz_rows)
    write_json_lines(output / "problems.jsonl", problem_rows)
    write_json(output / "samples.json", {"models": samples})
    return scores


def evaluate_directory(
    directory: Path,
    output: Path,
    settings: EvaluateSettings | None = None,
    quiz_dir: Path | None = None,
    problems_dir: Path | None = None,
    tokens_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Evaluate one model directory; the same work and the same files as `evaluate_models`."""
    given = Given(quiz_dir, problems_dir, tokens_dir)
    models = {directory.resolve().name: directory}
    return evaluate_models(settings or EvaluateSettings(), models, given, output, progress)


def method(settings: EvaluateSettings) -> dict[str, object]:
    """How the scores were made; scores with different fingerprints must not be compared."""
    labels: dict[str, object] = {
        "letter": f"{settings.shots}-shot, log-probability of the option letter, plain prompt with BOS",
        "text": f"{settings.shots}-shot, summed log-probability of the option's text, plain prompt with BOS",
        "text_norm": f"{settings.shots}-shot, the same sum divided by the option's UTF-8 bytes",
        "problems": f"greedy, last number, exact match; base models {settings.shots}-shot, chat models 0-shot with "
        f"their template; at most {settings.max_new_tokens} new tokens",
        "heldout": "bits per UTF-8 byte over all tokens and the end token, given BOS; long documents in consecutive "
        "windows that each start from BOS",
    }
    templates = [four_choices.HEADER, four_choices.LETTER_QUESTION, four_choices.TEXT_QUESTION, four_choices.SPACE]
    labels["dtype"] = settings.dtype + (f", weights {settings.quantize}" if settings.quantize else "")
    labels["fingerprint"] = fingerprint([labels, templates, four_choices.SEPARATOR])[:16]
    return labels


def read_benchmarks(tasks: list[str], data: Path | None) -> list[Protocol]:
    """The protocols of a recipe's `tasks`, whose questions are there. Raises InputError where they cannot be asked."""
    protocols = wanted_protocols(tasks) if tasks else []
    if protocols and data is None:
        raise InputError(
            "[evaluate] tasks needs data: the directory with the benchmarks' files, one folder each, or hub"
        )
    if judged := [one.label for one in protocols if one.score == "judge"]:
        raise InputError(
            f"[evaluate] tasks: {', '.join(judged)} need a judge: ask them with inkstone evaluate --judge URL"
        )
    if any(one.read.startswith("code") for one in protocols):
        require_sandbox(allow_unsandboxed=False)
    if data:
        load_all(protocols, data, "")
    return protocols


def _read_inputs(settings: EvaluateSettings, models: Mapping[str, Path], given: Given) -> Inputs:
    """Read every input; all that is wrong is reported in one error."""
    wrong: list[str] = []

    def attempt(read: Callable[[Path], Read], path: Path | None) -> Read | None:
        with gathering(wrong):
            return read(path) if path else None
        return None

    for directory in models.values():
        if not (directory / "config.json").is_file() and directory.suffix != GGUF:
            wrong.append(f"{directory} is no model directory (it has no config.json): give one that training wrote.")
        elif given.tokens and other_tokenizer(given.tokens, Tokenizer.load(directory)):
            wrong.append(
                f"{given.tokens} was encoded with another tokenizer than that of {directory}: encode the corpus with "
                "the model's tokenizer, or set heldout = false."
            )
    inputs = Inputs(
        protocols=attempt(lambda _: read_benchmarks(settings.tasks, given.data), Path()) or [],
        data=given.data,
        quiz=attempt(read_quiz, given.quiz),
        problems=attempt(read_problems, given.problems),
        prompts=attempt(read_prompts, given.prompts),
        heldout=attempt(lambda path: read_heldout(path, settings.heldout_tokens), given.tokens) or [],
    )
    if wrong:
        raise InputError(wrong)
    return inputs


def _evaluate_model(
    settings: EvaluateSettings, directory: Path, inputs: Inputs, progress: Progress, kept: Kept, folder: Path
) -> tuple[dict[str, object], dict[str, object], Rows, Rows]:
    """(scores, samples, quiz rows, problem rows) of one model."""
    started = time.perf_counter()
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and not settings.offload else "cpu"
    stays = Offload(settings.offload, settings.gpu_memory_gib)
    dtype = getattr(torch, settings.dtype)
    opened = open_directory(directory, dtype, device, quantize=settings.quantize, offload=stays)
    if not states_template(directory):
        opened = replace(opened, template=None)
    model, tokenizer = opened.model, opened.tokenizer
    result: dict[str, object] = {
        "kind": "chat" if opened.template else "base",
        "parameters": model.config.num_parameters(),
        "device": model.device.type,
    }
    asked: Rows = []
    solved: Rows = []
    said: dict[str, object] = {}
    with torch.inference_mode():
        if inputs.quiz:
            result["quiz"], asked = four_choices.run_quiz(model, tokenizer, inputs.quiz, settings.shots, progress, kept)
        if inputs.problems and settings.max_problems:
            limits = (settings.shots, settings.max_problems, settings.max_new_tokens)
            result["problems"], solved = word_problems.run_problems(opened, inputs.problems, *limits, progress, kept)
        if inputs.heldout:
            result["heldout"] = run_heldout(model, tokenizer.first_id, inputs.heldout, progress, kept)
        if inputs.prompts:
            sample = partial(_sample, opened, inputs.prompts, settings.sample_tokens)
            [said], _ = kept.ask("samples", ["all"], lambda missing: ((index, sample()) for index in missing))
        if inputs.protocols and inputs.data:
            dtype = getattr(torch, settings.dtype)
            asked_model = LocalModel(directory, dtype, device, opened=opened, quantize=settings.quantize)
            found = run_benchmarks(asked_model, inputs.protocols, inputs.data, folder, progress, settings.task_limit)
            result["benchmarks"] = {name: table_entry(one) for name, one in found["tasks"].items()}
    result["seconds"] = round(time.perf_counter() - started, 3)
    return result, said, asked, solved


def _sample(opened: Opened, prompts: Prompts, max_new_tokens: int) -> dict[str, object]:
    if opened.template is None:
        return {"continue": continue_texts(opened, prompts.continuations, max_new_tokens)}
    talk = partial(hold_conversation, opened, opened.template, max_new_tokens=max_new_tokens)
    return {"chat": {lang: talk(turns) for lang, turns in prompts.chat.items()}}


def _run(job: Job) -> Result:
    """Score an untrained model of the same shape, and every model of the run, so that each stage's gain shows."""
    settings, run = job.of(EvaluateSettings), job.run_dir
    models = {name: run / name for name, kind in job.earlier.items() if kind.makes_model}
    untrained = job.output / "untrained"
    base = job.of(PretrainSettings, PRETRAIN.name).base if PRETRAIN.name in models else None
    if base and Tokenizer.load(Path(base)).fingerprint == Tokenizer.load(run / "tokenizer").fingerprint:
        models = {"base": Path(base), **models}
    if PRETRAIN.name in models and not base:
        tokenizer = Tokenizer.load(run / "tokenizer")
        seed = job.of(PretrainSettings, PRETRAIN.name).seed
        model = new_model(job.of(ModelSettings, "model"), tokenizer.vocab_size, seed)
        bos_id, eos_id, pad_id = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
        save_model(model, untrained, bos_id=bos_id, eos_id=eos_id, pad_id=pad_id, stop_ids=tokenizer.end_ids)
        tokenizer.save(untrained)
        models = {"untrained": untrained, **models}
    named = _patterns(settings).items()
    places = {name: Path(one) if on_hub(Path(one)) else job.paths([one])[0] for name, one in named}
    given = Given(**places, tokens=run / "tokens" if "tokens" in job.earlier else None)
    scores = evaluate_models(settings, models, given, job.output, job.progress, job.scratch)
    shutil.rmtree(untrained, ignore_errors=True)
    return scores


def _patterns(settings: EvaluateSettings) -> dict[str, str]:
    """The files that a recipe names."""
    names = ("quiz", "problems", "prompts", "data")
    return {name: pattern for name in names if (pattern := getattr(settings, name))}


EVALUATE = StageKind(
    "evaluate",
    ("evaluate",),
    _run,
    needs=lambda _, earlier: [name for name, kind in earlier.items() if name == "tokens" or kind.makes_model],
    inputs=lambda settings, _: [one for one in _patterns(settings).values() if not on_hub(Path(one))],
)
