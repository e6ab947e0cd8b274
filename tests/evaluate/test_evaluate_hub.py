"""Benchmarks from the hub: a server of this machine has tiny data sets in the hub's layouts; nothing else is asked."""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_tokenizers import byte_level

from inkstone.chat import CHATML
from inkstone.errors import InkstoneError, InputError
from inkstone.evaluate.protocols import PROTOCOLS
from inkstone.evaluate.run.runner import ask_all
from inkstone.evaluate.tasks import load
from inkstone.evaluate.tasks.hub import DATA_SETS, HUB
from inkstone.model import Decoder, DecoderConfig, save_model
from inkstone.pipeline import check_inputs, run
from inkstone.recipe import read_recipe

constants = pytest.importorskip("huggingface_hub.constants")
LETTERS = dict(zip("ABCD", ("None", "1.0", " x ", "是"), strict=True))
CHOICES = {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}
ROWS: dict[str, dict[str, Any]] = {
    "mmlu": {"question": "q?", "subject": "anatomy", "choices": list(LETTERS.values()), "answer": 1},
    "hellaswag": {"ind": 1, "activity_label": "Run", "ctx_a": "A man", "ctx_b": "he", "ctx": "A man he",
                  "endings": list("abcd"), "source_id": "s", "split": "val", "split_type": "indomain", "label": "2"},
    "arc_easy": {"id": "1", "question": "q?", "choices": CHOICES, "answerKey": "C"},
    "arc_challenge": {"id": "2", "question": "q?", "choices": CHOICES, "answerKey": "C"},
    "piqa": {"goal": "g", "sol1": "a", "sol2": "b", "label": 1},
    "openbookqa": {"id": "1", "question_stem": "q", "choices": CHOICES, "answerKey": "C"},
    "boolq": {"question": "is it", "answer": True, "passage": "It is."},
    "winogrande": {"sentence": "Ann saw _ run.", "option1": "Bo", "option2": "Cy", "answer": "2"},
    "gsm8k": {"question": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
    "humaneval": {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "    return 1\n",
                  "test": "def check(f):\n    assert f() == 1\n", "entry_point": "f"},
    "cmrc": {"id": "D0", "context": "他在家。", "question": "在哪？",
             "answers": {"text": ["家", "在家"], "answer_start": [2, 1]}},
}  # fmt: skip
GOLD = {"mmlu": (1,), "hellaswag": (2,), "arc_easy": (2,), "arc_challenge": (2,), "piqa": (1,), "openbookqa": (2,)}
GOLD |= {"boolq": (1,), "winogrande": (1,), "ceval": (2,), "cmmlu": (2,)}


def publish(root: Path, task: str) -> None:
    """The files of a task, below `root` as the hub has them."""
    repository, _, *names = DATA_SETS[task]
    for name in names:
        path = root / repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROWS[task]] * 6), path)
        elif path.suffix == ".jsonl":
            path.write_text('{"text": "Here is a word"}\n', encoding="utf-8")
        else:
            small = task == "ceval"
            head = ["id", "question", *"ABCD", "answer"] if small else ["", "Question", *"ABCD", "Answer"]
            line = ",".join(["0", "问？", *LETTERS.values(), "C"])
            with zipfile.ZipFile(path, "w") as archive:
                for split in ("dev", "val", "test") if small else ("dev", "test"):
                    csv = "\n".join([",".join(head), *[line] * 5]) + "\n"
                    archive.writestr(f"{split}/law_{split}.csv" if small else f"{split}/anatomy.csv", csv)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths that were asked for. The server speaks as much of the hub's protocol as a download needs."""
    asked: list[str] = []
    revisions = {repository: revision for repository, revision, *_ in DATA_SETS.values()}
    for task in DATA_SETS:
        publish(tmp_path / "files", task)

    class Server(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            repository, _, rest = self.path.removeprefix("/datasets/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            path = tmp_path / "files" / repository / name
            found = path.is_file() and revision == revisions[repository]
            content = path.read_bytes() if found else b""
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", revision)
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    yield asked
    server.shutdown()
    server.server_close()


def test_every_data_set_is_downloaded_once_read_and_asked(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for task in DATA_SETS:
        loaded = load(task, HUB)
        item = loaded.items[0]
        assert item.gold == GOLD.get(task, ())
        for protocol in PROTOCOLS[task].values():
            assert ask_all(protocol, loaded, loaded.items[:1])
        if task in ("mmlu", "ceval", "cmmlu"):
            assert item.choices == tuple(LETTERS.values())
            assert len(loaded.examples_of(item.subject)) >= 5
            assert len({one.id for one in loaded.items}) == len(loaded.items)
    assert load("cmrc", HUB).items[0].answers == ("家", "在家")
    fetched = {path.rpartition("/")[2] for path in hub if "/resolve/" in path}
    assert fetched == {Path(name).name for _, _, *names in DATA_SETS.values() for name in names}
    hub.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert all(load(task, HUB).items for task in DATA_SETS)
    assert not hub


def test_without_the_hub_it_is_one_sentence(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="safety is not on the hub as its authors publish it: give a folder"):
        load("safety", HUB)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InkstoneError, match=r"dev-.* of cais/mmlu has not been downloaded, and the hub cannot be"):
        load("mmlu", HUB)
    Path("hub/mmlu").mkdir(parents=True)
    with pytest.raises(InputError, match="hub/mmlu holds no test questions"):
        load("mmlu", HUB)  # a folder of that name is a folder


RECIPE = """name = "r"
[tune.more]
base = "base"
inputs = ["chats.jsonl"]
template = "chatml"
sequence_length = 64
batch_tokens = 64
max_steps = 1
[evaluate]
heldout = false
"""


def test_a_recipe_of_benchmarks_alone_takes_them_from_the_hub(hub: list[str], tmp_path: Path) -> None:
    tokenizer = byte_level(CHATML.control_tokens)
    shape = DecoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2,
        num_kv_heads=1, head_dim=8, max_positions=512,
    )  # fmt: skip
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    save_model(Decoder(shape), Path("base"), **ids, stop_ids=tokenizer.end_ids)
    tokenizer.save(Path("base"))
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    Path("chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    Path("r.toml").write_text(RECIPE + 'tasks = ["cmmlu/0"]\ndata = "hub"\ntask_limit = 2\n')
    recipe = read_recipe(Path("r.toml"))
    run(recipe)
    scores = json.loads((recipe.run_dir / "evaluate" / "scores.json").read_text())
    assert scores["models"]["more"]["benchmarks"]["cmmlu@lm-eval-0shot"]["n"] == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ('tasks = ["cmlu"]', "there is no task 'cmlu'"),
        ('tasks = ["cmmlu"]', r"\[evaluate\] tasks needs data"),
        ('tasks = ["cmmlu"]\ndata = "nowhere"', "nowhere has no folder cmmlu"),
        ('tasks = ["mt-bench"]\ndata = "hub"', "need a judge"),
        ('tasks = ["safety"]\ndata = "hub"', "need a judge"),
        ('tasks = ["agieval"]\ndata = "hub"', "agieval is not on the hub"),
    ],
)
def test_benchmarks_that_cannot_be_asked_are_named_before_a_run_begins(asked: str, said: str, hub: list[str]) -> None:
    Path("r.toml").write_text(RECIPE + asked)
    [fault] = check_inputs(read_recipe(Path("r.toml")), {"evaluate"})["evaluate"]
    assert re.search(said, fault)


def test_files_that_were_downloaded_by_hand_are_read_from_a_folder(tmp_path: Path) -> None:
    for task in ("ceval", "mmlu", "piqa"):
        publish(tmp_path / "files", task)
        repository, _, *names = DATA_SETS[task]
        (tmp_path / "files" / repository / names[0]).parent.rename(tmp_path / task)
        assert load(task, tmp_path).items
    (tmp_path / "ceval" / "ceval-exam.zip").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match="ceval is damaged, or not ceval as published"):
        load("ceval", tmp_path)
