"""Benchmark questions per second, and the same answers: ours, a plain loop, and lm-eval's own run of its own tasks.

    python benchmarks/evaluate.py --lm-eval VENV/bin/python --data DATA --tokenizer DIR          speed
    python benchmarks/evaluate.py --lm-eval VENV/bin/python --data DATA --check                  agreement

Speed: a random llama; of each subject the first questions, 5-shot, systems in turns. The plain loop is one forward per
question with transformers and the letters' logits at its end, as the benchmarks' authors write it. lm-eval runs its own
task files (only the place of the data is changed) in a Python of its own. Agreement: the tiny recorded model on CMMLU,
MMLU, HellaSwag, ARC and PIQA: chosen answers and log-probabilities.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from inkstone.allocator import keep_memory
from inkstone.evaluate.protocols import find
from inkstone.evaluate.run.local import LocalModel
from inkstone.evaluate.run.runner import ask_all
from inkstone.evaluate.tasks import Item, Loaded, load

PEER = r"""
import json, sys, time, pathlib
import lm_eval
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
model, folder, dtype, batch = sys.argv[1:]
torch = __import__("torch")
lm = HFLM(pretrained=model, dtype=dtype, batch_size=int(batch), device="cpu")
plain, spent = lm.loglikelihood, []
def timed(requests, **more):
    before = time.perf_counter()
    result = plain(requests, **more)
    spent.append(time.perf_counter() - before)
    return result
lm.loglikelihood = timed
manager = TaskManager(include_path=folder, include_defaults=False)
print("ready", pathlib.Path(lm_eval.__file__).parent, flush=True)
for line in sys.stdin:
    job = json.loads(line)
    lm.batch_size_per_gpu = job.get("batch", int(batch))
    spent.clear()
    found = simple_evaluate(model=lm, tasks=[job["task"]], task_manager=manager, num_fewshot=job["shots"],
                            limit=job["limit"], bootstrap_iters=0, log_samples=True)
    rows = sorted(found["samples"][job["task"]], key=lambda row: row["doc_id"])
    values = [[float(one[0][0]) for one in row["resps"]] for row in rows]
    print("result " + json.dumps({"seconds": sum(spent), "values": values}), flush=True)
"""


class Peer:
    """lm-eval in its own process, with a model open."""

    def __init__(self, python: str, model: Path, folder: Path, dtype: str, batch: int) -> None:
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [python, "-c", PEER, str(model), str(folder), dtype, str(batch)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean | offline,
        )  # fmt: skip
        self._line("ready")

    def run(self, task: str, shots: int, limit: int, batch: int) -> dict[str, Any]:
        assert self.process.stdin
        job = {"task": task, "shots": shots, "limit": limit, "batch": batch}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self._line("result")))

    def _line(self, word: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(word):
                return line[len(word) :].strip()
        raise SystemExit(f"lm-eval ended with {self.process.wait()}")


def write_task(folder: Path, source: Path, name: str, splits: dict[str, list[dict[str, Any]]]) -> str:
    """lm-eval's own task file with its data in JSON lines of ours; the name it is run by."""
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{name}-{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    listed = "".join(f"    {split}: {path}\n" for split, path in files.items())
    text = f"include: {source}\ntask: our_{name}\ndataset_path: json\ndataset_name: null\ntag: null\n"
    (folder / f"our_{name}.yaml").write_text(text + f"dataset_kwargs:\n  data_files:\n{listed}")
    return f"our_{name}"


def exam_rows(task: str, items: Sequence[Item]) -> list[dict[str, Any]]:
    if task == "mmlu":
        return [{"question": one.texts["question"], "choices": one.choices, "answer": one.gold[0]} for one in items]
    return [{"Question": one.texts["question"], **dict(zip("ABCD", one.choices, strict=True)),
             "Answer": one.texts["answer"]} for one in items]  # fmt: skip


def write_exam(
    folder: Path, tasks: Path, task: str, subject: str, loaded: Loaded, limit: int
) -> tuple[str, list[Item]]:
    items = [item for item in loaded.items if item.subject == subject][:limit]
    source = tasks / ("mmlu/default" if task == "mmlu" else task) / f"{task}_{subject}.yaml"
    splits = {"test": exam_rows(task, items), "dev": exam_rows(task, loaded.examples[subject])}
    return write_task(folder, source, f"{task}_{subject}", splits), items


def write_words(folder: Path, tasks: Path, task: str, items: Sequence[Item], raw: Sequence[dict[str, Any]]) -> str:
    """ARC, PIQA and HellaSwag as their files on the hub are laid out."""
    if task == "hellaswag":
        rows = [{key: row[key] for key in ("activity_label", "ctx_a", "ctx_b", "endings", "label")} for row in raw]
        return write_task(folder, tasks / "hellaswag/hellaswag.yaml", task, {"validation": rows, "train": rows})
    ask = [item.texts["query"].removeprefix("Question: ") for item in items]
    if task == "piqa":
        rows = [{"goal": query, "sol1": one.choices[0], "sol2": one.choices[1], "label": one.gold[0]}
                for query, one in zip(ask, items, strict=True)]  # fmt: skip
        return write_task(folder, tasks / "piqa/piqa.yaml", task, {"validation": rows, "train": rows})
    rows = [{"question": query, "choices": {"text": list(one.choices), "label": list("ABCDE"[: len(one.choices)])},
             "answerKey": "ABCDE"[one.gold[0]]} for query, one in zip(ask, items, strict=True)]  # fmt: skip
    return write_task(folder, tasks / f"arc/{task}.yaml", task, dict.fromkeys(("test", "train", "validation"), rows))


def make_model(directory: Path, tokenizer: Path, hidden: int, layers: int) -> Path:
    """A random llama with the tokenizer's vocabulary."""
    import transformers

    loaded = transformers.AutoTokenizer.from_pretrained(tokenizer)
    loaded.save_pretrained(directory)
    config = transformers.LlamaConfig(
        vocab_size=len(loaded), hidden_size=hidden, intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers, num_attention_heads=hidden // 64, max_position_embeddings=4096,
        tie_word_embeddings=True, initializer_range=0.05,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def plain_loop(model: Any, tokenizer: Any, prompts: Sequence[str], letters: Sequence[int]) -> list[list[float]]:
    """One question at a time: the logits of the four letters after its prompt."""
    values = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        values.append(logits[list(letters)].float().tolist())
    return values


def best(values: Sequence[Sequence[float]]) -> list[int]:
    return [max(range(len(row)), key=lambda index: (row[index], -index)) for row in values]


def speed(options: argparse.Namespace, folder: Path, tasks: Path) -> None:
    import transformers

    directory = make_model(folder / "model", options.tokenizer, options.hidden, options.layers)
    dtype = getattr(torch, options.dtype)
    ours = LocalModel(directory, dtype)
    size = sum(weight.numel() for weight in ours.opened.model.parameters())
    print(
        f"{size / 1e6:.0f} M parameters, {options.dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    plain_model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    plain_tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    letters = [plain_tokenizer(f" {letter}", add_special_tokens=False).input_ids[-1] for letter in "ABCD"]
    jobs = []
    for task in ("cmmlu", "mmlu"):
        loaded = load(task, options.data)
        subjects = sorted({item.subject for item in loaded.items})
        for subject in subjects[:: len(subjects) // options.subjects][: options.subjects]:
            name, items = write_exam(folder, tasks, task, subject, loaded, options.questions)
            jobs.append((task, name, items, loaded))
    peer = Peer(options.lm_eval, directory, folder, options.dtype, 1)
    warm = jobs[0]
    rates = {batch: peer.run(warm[1], 5, 16, batch)["seconds"] for batch in (4, 16, 32)}
    batch = min(rates, key=lambda one: rates[one])
    print(f"lm-eval, 16 questions by batch size: { {key: round(value, 1) for key, value in rates.items()} }: {batch}")
    spent: dict[tuple[str, str], float] = {}
    count: dict[str, int] = {}
    differ: dict[tuple[str, str], int] = {}
    worst = 0.0
    for task, name, items, loaded in jobs:
        protocol = find(f"{task}@lm-eval")
        before = time.perf_counter()
        asks = ask_all(protocol, loaded, items)
        said = dict(ours.answer(protocol, asks, range(len(asks))))
        values = {"ours": [list(said[index].values) for index in range(len(asks))]}
        taken = {"ours": time.perf_counter() - before}
        before = time.perf_counter()
        values["plain loop"] = plain_loop(plain_model, plain_tokenizer, [ask.prompt() for ask in asks], letters)
        taken["plain loop"] = time.perf_counter() - before
        found = peer.run(name, 5, options.questions, batch)
        values["lm-eval"], taken["lm-eval"] = found["values"], found["seconds"]
        count[task] = count.get(task, 0) + len(items)
        for system, seconds in taken.items():
            spent[task, system] = spent.get((task, system), 0.0) + seconds
            wrong = sum(one != other for one, other in zip(best(values[system]), best(values["ours"]), strict=True))
            differ[task, system] = differ.get((task, system), 0) + wrong
        worst = max(worst, *(abs(one - other) for row, theirs in zip(values["ours"], values["lm-eval"], strict=True)
                             for one, other in zip(row, theirs, strict=True)))  # fmt: skip
        print(f"{name}: " + ", ".join(f"{key} {len(items) / value:.2f}/s" for key, value in taken.items()), flush=True)
    peer.process.terminate()
    for (task, system), seconds in spent.items():
        rate, own = count[task] / seconds, count[task] / spent[task, "ours"]
        print(f"{task:6} {system:11} {count[task]} questions  {rate:7.2f}/s  ours is {own / rate:5.2f}x  "
              f"other answers: {differ[task, system]}")  # fmt: skip
    print(f"log-probabilities beside lm-eval's: at most {worst:.2g} apart")


def check(options: argparse.Namespace, folder: Path, tasks: Path) -> None:
    directory = options.data / "oracle" / "tiny_llama"
    ours = LocalModel(directory)
    plan: list[tuple[str, str, list[Item], Loaded]] = []
    for task in ("cmmlu", "mmlu"):
        loaded = load(task, options.data)
        for subject in sorted({item.subject for item in loaded.items})[:: 10 if task == "mmlu" else 4]:
            plan.append((task, *write_exam(folder, tasks, task, subject, loaded, 30), loaded))  # type: ignore[arg-type]
    from inkstone.evaluate.tasks.read import json_rows, need_file

    for task in ("hellaswag", "arc_easy", "piqa"):
        loaded = load(task, options.data)
        raw = [row for _, row in json_rows(need_file(options.data / "hellaswag", "val_even.jsonl"))][:400]
        plan.append((task, write_words(folder, tasks, task, loaded.items[:400], raw), loaded.items[:400], loaded))
    peer = Peer(options.lm_eval, directory, folder, "float32", 8)
    totals: dict[str, list[float]] = {}
    for task, name, items, loaded in plan:
        protocol = find(f"{task}@lm-eval")
        asks = ask_all(protocol, loaded, items)
        said = dict(ours.answer(protocol, asks, range(len(asks))))
        theirs = peer.run(name, protocol.shots, len(items), 8)["values"]
        total = totals.setdefault(task, [0, 0, 0.0])
        for index, row in enumerate(theirs):
            own = list(said[index].values)
            total[0] += 1
            total[1] += best([own]) != best([row])
            total[2] = max(total[2], *(abs(one - other) for one, other in zip(own, row, strict=True)))
    peer.process.terminate()
    for task, (count, wrong, worst) in totals.items():
        print(
            f"{task:10} {count:5.0f} questions  other answers: {wrong:.0f}  log-probability at most {worst:.2g} apart"
        )
    print(f"all        {sum(one[0] for one in totals.values()):5.0f} questions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm-eval", required=True, help="a Python that has lm-eval")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/eval"))
    parser.add_argument("--tokenizer", type=Path, help="directory of the tokenizer of the random model")
    parser.add_argument("--questions", type=int, default=50, help="of each subject")
    parser.add_argument("--subjects", type=int, default=2, help="of each benchmark")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--check", action="store_true", help="agreement instead of speed")
    options = parser.parse_args()
    keep_memory()  # as our command line does; the plain loop has it too
    where = "import importlib.util as i; print(i.find_spec('lm_eval').submodule_search_locations[0])"
    found = subprocess.run([options.lm_eval, "-c", where], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        (check if options.check else speed)(options, Path(folder), Path(found.stdout.strip()) / "tasks")


if __name__ == "__main__":
    main()
