"""More kinds of input: what training leaves and continues from, what others quantised, benchmarks, and requests.

As in `kinds.py`: a kind writes damaged input and returns what a user would do with it.
"""

import atexit
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults.mutations import damaged_bytes, damaged_json, damaged_value
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from checkpoint_samples import CONFIGS, tensors_of, write
from model_samples import tiny_model
from serve_samples import chat_model
from test_model_packed import WRITERS, quantised

from inkstone.errors import InkstoneError
from inkstone.evaluate.tasks import load
from inkstone.model import Decoder, load_model, open_directory
from inkstone.model.decoder.lora import LoraShape, attach_lora
from inkstone.model.files.adapter import load_adapter, save_adapter
from inkstone.model.gguf import write_gguf
from inkstone.model.inspect import inspect_model
from inkstone.progress import Silent
from inkstone.serve.app import create_app
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models
from inkstone.storage import verify_manifest, write_manifest
from inkstone.tokenizer import TokenizerSettings
from inkstone.tokenizer.bpe.train import train
from inkstone.tokenizer.token_shards import ShardWriter, open_shards
from inkstone.train.checkpoint import Saves, TrainState, load_checkpoint
from inkstone.train.mesh import Mesh

Call = Callable[[], object]
_GOOD = 0.15  # share of cases without damage, where all that counts is checksums or strict fields

_EXAM = {"id": "x/1", "subject": "anatomy", "question": "1+1?", "choices": ["1", "2", "3", "4"], "answer": "B"}
_CSV = 'id,question,A,B,C,D,answer\n0,"1+1 是, 几?",1,2,3,4,B\n'
_TURNS = {"question_id": 1, "category": "math", "turns": ["1+1?", "2+2?"], "reference": ["2", "4"]}
_JUDGES = [
    {"name": name, "system_prompt": "s", "prompt_template": "{question_1} {answer_1} {ref_answer_1}"}
    for name in ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
]
_GAOKAO = {"keyword": "k", "question": "1+1?", "answer": ["B"], "score": 2, "id": "g1"}
BENCHMARKS: dict[str, dict[str, Any]] = {
    "cmmlu": {"cmmlu/test.jsonl": [{**_EXAM, "Question": "1+1?", "Answer": "B"}], "cmmlu/dev.jsonl": [_EXAM]},
    "mmlu": {"mmlu/test.jsonl": [_EXAM, _EXAM], "mmlu/dev.jsonl": [_EXAM]},
    "ceval": {"ceval/val/law_val.csv": _CSV, "ceval/dev/law_dev.csv": _CSV},
    "hellaswag": {"hellaswag/val.jsonl": [
        {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "ctx": "b c", "endings": ["1", "2", "3", "4"], "label": 1}
    ]},
    "piqa": {"piqa/piqa.jsonl": [{"goal": "a", "sol1": "b", "sol2": "c", "label": 1}]},
    "arc_easy": {"arc_easy/arc_easy.jsonl": [
        {"question": {"stem": "a", "choices": [{"text": "1", "label": "A"}]}, "answerKey": "A"}
    ]},
    "boolq": {"boolq/boolq.jsonl": [{"passage": "a", "question": "b", "answer": True}]},
    "winogrande": {"winogrande/winogrande.jsonl": [
        {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "1"}
    ]},
    "lambada": {"lambada/test.jsonl": [{"text": "one two three"}]},
    "gsm8k": {"gsm8k/test.jsonl": [{"question": "a", "answer": "b #### 2"}]},
    "cmrc": {"cmrc/dev.jsonl": [{"id": "a", "context": "b", "question": "c", "answers": ["b"]}]},
    "humaneval": {"humaneval/test.jsonl": [
        {"task_id": "a", "prompt": "b", "entry_point": "c", "canonical_solution": "d", "test": "e"}
    ]},
    "agieval": {"agieval/lsat-ar.jsonl": [
        {"passage": "p", "question": "q", "options": ["(A)1", "(B)2"], "label": "A"}
    ]},
    "gaokao": {"gaokao/Obj_Prompt.json": {"examples": [
        {"keyword": "k", "type": "single_choice", "prefix_prompt": "p"}
    ]}, "gaokao/objective.jsonl": [_GAOKAO]},
    "gaokao-subjective": {
        "gaokao/Sub_Prompt.json": {"examples": [{"keyword": "k", "prefix_prompt": ["p", "q"]}]},
        "gaokao/Sub_Grade_Prompt.json": {"examples": [{"keyword": "k", "prefix_prompt": "p"}]},
        "gaokao/subjective.jsonl": [{**_GAOKAO, "answer": "2"}],
    },
    "mt-bench": {"mt_bench/question.jsonl": [_TURNS], "mt_bench/judge_prompts.jsonl": _JUDGES},
    "safety": {"safety/prompts.jsonl": [{"prompt": "a", "domain_zh": "b"}]},
}  # fmt: skip


def benchmarks(folder: Path, draw: random.Random) -> Call:
    name = draw.choice(sorted(BENCHMARKS))
    files = BENCHMARKS[name]
    chosen = draw.choice(sorted(files))
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        whole = content.encode() if isinstance(content, str) else _json(path, content)
        if path == chosen:
            changed = isinstance(content, list | dict) and draw.random() < 0.7
            whole = _json(path, damaged_value(content, draw)) if changed else damaged_bytes(whole, draw)
        place.write_bytes(whole)
    return lambda: load(name, folder)


def _json(path: str, content: Any) -> bytes:
    rows = content if path.endswith("l") and isinstance(content, list) else [content]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def adapters(folder: Path, draw: random.Random) -> Call:
    model = _tiny()
    attach_lora(model, LoraShape(2, 4, dora=draw.random() < 0.3), torch.Generator().manual_seed(1))
    save_adapter(model, folder / "a", "base")
    _damage(folder / "a", draw, "adapter_config.json", "adapter_model.safetensors")
    return lambda: load_adapter(_tiny(), folder / "a")


def packed(folder: Path, draw: random.Random) -> Call:
    directory = quantised(folder / "q", "llama", draw.choice(sorted(WRITERS)))
    _damage(directory, draw, "config.json", "model.safetensors")
    return lambda: load_model(directory)


def gguf_weights(folder: Path, draw: random.Random) -> Call:
    path = _gguf_sample()
    content = path.read_bytes()
    head = int(len(content) * 0.35) if draw.random() < 0.7 else len(content)
    damaged = content[:head] if draw.random() < _GOOD else damaged_bytes(content[:head], draw)
    (folder / "m.gguf").write_bytes(damaged + content[head:])
    return lambda: (open_directory(folder / "m.gguf"), inspect_model(folder / "m.gguf"))


@cache
def _gguf_sample() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    tokenizer, _ = train(TokenizerSettings(vocab_size=330), [(["你好，世界！Hello 12"] * 3, 1.0)])
    config = {**CONFIGS["llama"], "vocab_size": tokenizer.vocab_size}
    tokenizer.save(write(folder / "m", config, tensors_of(config)))
    write_gguf(folder / "m", folder / "m.gguf", "q8_0", Silent())
    return folder / "m.gguf"


def tokens(folder: Path, draw: random.Random) -> Call:
    """A damaged file under a manifest that still says what it was, or a damaged manifest."""
    directory = folder / "tokens"
    directory.mkdir()
    writer = ShardWriter(directory, "train", np.dtype("<u2"), 100)
    writer.add(np.arange(60, dtype="<u2"), np.array([20, 40]), [("zh", "a"), ("en", "b")])
    writer.close()
    splits = {"train": {"shards": writer.shards, "documents": 2, "tokens": 60}}
    write_manifest(directory, {"tokenizer": "x", "vocab_size": 61, "splits": splits})
    _damage(directory, draw, *sorted(path.name for path in directory.iterdir()))

    def read() -> object:
        verify_manifest(directory, contents=True)
        shards = open_shards(directory, "train")
        return [shards.document(index) for index in range(len(shards))]

    return read


def checkpoints(folder: Path, draw: random.Random) -> Call:
    model = _tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    mesh = Mesh()
    Saves(folder / "c", mesh, beside=False).save(TrainState(step=3), model, optimizer)
    saved = folder / "c" / "step-00000003"
    _damage(saved, draw, "manifest.json", "state.json", next(saved.glob("*.safetensors")).name)

    def resume() -> None:
        state, damage = load_checkpoint(folder / "c", model, optimizer, mesh)
        if state is None:
            raise InkstoneError(damage or "nothing there")

    return resume


_MESSAGES = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "a"},
]
_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "chat", "messages": _MESSAGES, "max_tokens": 3, "temperature": 0.5, "stop": ["x"], "seed": 1, "n": 2,
        "logit_bias": {"5": 1.0}, "logprobs": True, "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}},
    },
    "/v1/completions": {"model": "chat", "prompt": ["a", "b"], "max_tokens": 3, "echo": True, "logprobs": 2},
    "/v1/embeddings": {"model": "chat", "input": ["a", "b"], "encoding_format": "float"},
    "/tokenize": {"model": "chat", "messages": _MESSAGES},
    "/detokenize": {"model": "chat", "tokens": [5, 6]},
}  # fmt: skip


def requests(folder: Path, draw: random.Random) -> Call:
    """The server answers, or refuses with an error object; it never breaks, whatever came before."""
    path = draw.choice(sorted(_BODIES))
    good = draw.random() < _GOOD
    body = json.dumps(_BODIES[path]).encode() if good else damaged_json(_BODIES[path], draw)

    def ask() -> None:
        answer = _client().post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (path, body[:500], answer.text)
        assert answer.status_code == 200 or not good, (path, answer.text)
        if answer.status_code != 200:
            raise InkstoneError(answer.json()["error"]["message"])

    return ask


@cache
def _client() -> TestClient:
    """A server in this process, with one tiny model; it lives as long as the process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    chat_model(folder / "chat", chat=True)
    client = TestClient(
        create_app(Library(find_models([folder]), ServeSettings(rows=4)), Guard([])), base_url="http://localhost"
    )
    client.__enter__()
    return client


def _damage(directory: Path, draw: random.Random, *names: str) -> None:
    if draw.random() < _GOOD:
        return
    path = directory / draw.choice(names)
    content = path.read_bytes()
    path.write_bytes(
        damaged_bytes(content, draw) if path.suffix != ".json" else damaged_json(json.loads(content), draw)
    )


def _tiny() -> Decoder:
    return tiny_model()


LATER: dict[str, Callable[[Path, random.Random], Call]] = {
    "benchmarks": benchmarks, "gguf_weights": gguf_weights, "adapters": adapters, "packed": packed, "tokens": tokens,
    "checkpoints": checkpoints, "requests": requests,
}  # fmt: skip
