"""The kinds of input: for each a good sample, made once, what damages it, and what a user would do with it.

A kind is a function (folder, draw) that writes damaged input into the empty `folder` and returns what to call.
"""

import gzip
import io
import json
import pickle
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zstandard
from faults.mutations import damaged_bytes, damaged_json, damaged_value

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from checkpoint_samples import CONFIGS, tensors_of, write
from tiny_run import inkstone
from tiny_tokenizers import byte_level, sentencepiece_like

from inkstone.chat import CHATML, TEXTS, check_rows, read_chats, read_preferences, read_verdicts, save_template
from inkstone.corpus.read.files import find_files
from inkstone.corpus.read.readers import read_batches
from inkstone.errors import InkstoneError
from inkstone.evaluate import read_problems, read_prompts, read_quiz
from inkstone.model import load_model, open_directory
from inkstone.model.inspect import inspect_model
from inkstone.tokenizer import Tokenizer, TokenizerSettings
from inkstone.tokenizer.bpe.train import train

Call = Callable[[], object]
Kind = Callable[[Path, random.Random], Call]
KINDS: dict[str, Kind] = {}
_SAMPLES: dict[str, Path] = {}


def kind(function: Kind) -> Kind:
    KINDS[function.__name__] = function
    return function


def prepare(folder: Path) -> None:
    """Make the good samples below `folder`."""
    for name in CONFIGS:
        write(folder / name, CONFIGS[name], tensors_of(CONFIGS[name]))
        _SAMPLES[name] = folder / name
    for name, tokenizer in (("bytes", byte_level(CHATML.control_tokens)), ("pieces", sentencepiece_like())):
        tokenizer.save(folder / name)
        _SAMPLES[name] = folder / name
    trained, _ = train(TokenizerSettings(vocab_size=330), [(["你好，世界！Hello 12"] * 3, 1.0)])
    trained.save(folder / "model")
    _SAMPLES["model"] = folder / "model"
    config = CONFIGS["llama"] | {"vocab_size": byte_level(CHATML.control_tokens).vocab_size}
    chat = write(folder / "chat", config, tensors_of(config))
    byte_level(CHATML.control_tokens).save(chat)
    save_template(CHATML, chat)
    (chat / "generation_config.json").write_text('{"eos_token_id": [1], "do_sample": true, "temperature": 0.5}')
    (chat / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}, "pad_token": "</s>"}')
    (chat / "added_tokens.json").write_text("{}")
    _SAMPLES["chat"] = chat
    _SAMPLES["run"] = _finished_run(folder)


def _copy(sample: str, folder: Path) -> Path:
    return Path(shutil.copytree(_SAMPLES[sample], folder / sample))


def _damage_json(path: Path, draw: random.Random) -> None:
    path.write_bytes(damaged_json(json.loads(path.read_text()), draw))


@kind
def config(folder: Path, draw: random.Random) -> Call:
    directory = _copy(draw.choice(sorted(CONFIGS)), folder)
    _damage_json(directory / "config.json", draw)
    return lambda: (_both(inspect_model, directory), load_model(directory))


@kind
def companions(folder: Path, draw: random.Random) -> Call:
    directory = _copy("chat", folder)
    names = ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
    _damage_json(directory / draw.choice([*names, "chat_template.json"]), draw)
    return lambda: (_both(inspect_model, directory), open_directory(directory, chat=True))


@kind
def tokenizer(folder: Path, draw: random.Random) -> Call:
    directory = _copy(draw.choice(["bytes", "pieces"]), folder)
    _damage_json(directory / "tokenizer.json", draw)
    return lambda: Tokenizer.load(directory).encode("你好 hello 123\n")


@kind
def sentencepiece(folder: Path, draw: random.Random) -> Call:
    path = folder / "tokenizer.model"
    path.write_bytes(damaged_bytes((_SAMPLES["model"] / "tokenizer.model").read_bytes(), draw))
    return lambda: Tokenizer.load(path).encode("你好 hello")


@kind
def gguf(folder: Path, draw: random.Random) -> Call:
    spec = json.loads((_SAMPLES["pieces"] / "tokenizer.json").read_text())
    names = sorted(spec["model"]["vocab"], key=lambda name: spec["model"]["vocab"][name])
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": names, "tokenizer.ggml.scores": [-1.0] * len(names),
        "tokenizer.ggml.token_type": [_kind_of(name) for name in names], "tokenizer.ggml.bos_token_id": 1,
        "general.x": [["a"], ["b"]],
    }  # fmt: skip
    if draw.random() < 0.5:
        key = draw.choice(sorted(values))
        values[key] = draw.choice([0, 1.5, "x", [], [1, 2], ["x"], [1.0], [[1]], True, 2**63])
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + b"".join(_text(k) + _gguf(v) for k, v in values.items())
    path = folder / "v.gguf"
    path.write_bytes(head if draw.random() < 0.4 else damaged_bytes(head, draw))
    return lambda: Tokenizer.load(path).encode("你好")


def _kind_of(name: str) -> int:
    return 6 if name.startswith("<0x") else {"<unk>": 2, "<s>": 3, "</s>": 3}.get(name, 1)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _gguf(value: Any, inside: bool = False) -> bytes:
    codes = {bool: (7, "<?"), int: (10, "<Q"), float: (6, "<f")}
    if isinstance(value, list):
        first = _gguf(value[0], inside=False)[:4] if value else struct.pack("<I", 4)
        return struct.pack("<I", 9) + first + struct.pack("<Q", len(value)) + b"".join(_gguf(v)[4:] for v in value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    code, form = codes[type(value)]
    return struct.pack("<I", code) + struct.pack(form, value)


@kind
def safetensors(folder: Path, draw: random.Random) -> Call:
    directory = _copy(draw.choice(sorted(CONFIGS)), folder)
    path = directory / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if draw.random() < 0.7:
        header = damaged_json(json.loads(content[8 : 8 + size]), draw)
        if draw.random() < 0.1:
            header = draw.choice([b"\xef\xbb\xbf" + header, header.decode("utf-8", "replace").encode("utf-16")])
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    else:
        path.write_bytes(damaged_bytes(content, draw))
    return lambda: load_model(directory)


@kind
def shards(folder: Path, draw: random.Random) -> Call:
    directory = write(folder / "m", CONFIGS["llama"], tensors_of(CONFIGS["llama"]), shards=3)
    _damage_json(directory / "model.safetensors.index.json", draw)
    return lambda: load_model(directory)


@kind
def pickles(folder: Path, draw: random.Random) -> Call:
    directory = _copy("llama", folder)
    (directory / "model.safetensors").unlink()
    tensors: Any = tensors_of(CONFIGS["llama"])
    name = draw.choice(sorted(tensors))
    odd = [
        tensors[name].to_sparse(), tensors[name].to("meta"), tensors[name].to(torch.complex64), tensors[name].int(),
        torch.quantize_per_tensor(tensors[name], 0.1, 0, torch.qint8), 3, "x", None, [tensors[name]], {"a": 1},
        torch.zeros(0), torch.tensor(1.0), tensors[name].to(torch.float8_e4m3fn), torch.nn.Parameter(tensors[name]),
    ]  # fmt: skip
    match draw.randrange(4):
        case 0:
            tensors[name] = draw.choice(odd)
        case 1:
            tensors = draw.choice([{3: tensors[name]}, [tensors], tensors[name], {None: tensors}, {}, 5])
        case 2:
            (directory / "pytorch_model.bin").write_bytes(pickle.dumps(damaged_value({"a": [1]}, draw), 2))
            return lambda: load_model(directory)
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=draw.random() < 0.6)
    content = buffer.getvalue()
    (directory / "pytorch_model.bin").write_bytes(content if draw.random() < 0.4 else damaged_bytes(content, draw))
    return lambda: load_model(directory)


_CHATS: list[Any] = [
    {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！", "weight": 1}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]},
]
_ALPACA: list[Any] = [{"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "f"}]
_PAIRS: list[Any] = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
_VERDICTS: list[Any] = [
    {"prompt": "a", "completion": "b", "label": True},
    {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
        "label": False,
    },
]
_MOSS: list[Any] = [
    {"meta_instruction": "a", "chat": {"turn_1": {"Human": "<|Human|>: b<eoh>", "Commands": "c", "MOSS": "d"}}}
]
_PLAIN: list[Any] = [{"text": "a"}, {"text": "你好"}]


def _read_plain(paths: list[Path], on_problem: str = "refuse") -> object:
    return check_rows(TEXTS, paths)


@kind
def conversations(folder: Path, draw: random.Random) -> Call:
    rows = draw.choice([_CHATS, _ALPACA, _PAIRS, _VERDICTS, _MOSS, _PLAIN])
    name = draw.choice(["c.jsonl", "c.json", "c.jsonl.gz", "c.json.zst"])
    path = folder / name
    content = _lines(rows, draw) if draw.random() < 0.7 else damaged_json(rows, draw)
    path.write_bytes(_packed(name, content, draw))
    readers: list[tuple[Any, Any]] = [(_PAIRS, read_preferences), (_VERDICTS, read_verdicts), (_PLAIN, _read_plain)]
    read = next((reader for known, reader in readers if rows is known), read_chats)
    return lambda: (_both(read, [path]), read([path], on_problem="skip"))


@kind
def texts(folder: Path, draw: random.Random) -> Call:
    """The good file beside the damaged one must always be read."""
    (folder / "good.txt").write_text("这是一个好文件。", encoding="utf-8")
    rows = [{"text": "你好", "source": "a", "n": 1}, {"text": "hello", "date": "2024-01-01"}]
    name = draw.choice(
        ["d.jsonl", "d.json", "d.csv", "d.txt", "d.html", "d.parquet", "d.warc", "d.jsonl.gz", "d.csv.zst", "d.warc.gz"]
    )
    plain: dict[str, Any] = {
        "jsonl": lambda: _lines(rows, draw),
        "json": lambda: damaged_json(rows, draw),
        "csv": lambda: damaged_bytes(b'text,source\n"a ""b""",c\nhello,d\n', draw),
        "txt": lambda: damaged_bytes(
            "第一行。\nsecond line\n".encode(draw.choice(["utf-8", "gb18030", "utf-16"])), draw
        ),
        "html": lambda: damaged_bytes(b'<html><meta charset="utf-8"><body><p>hello</p></body></html>', draw),
        "parquet": lambda: _parquet(draw),
        "warc": lambda: damaged_bytes(_warc(draw), draw),
    }
    path = folder / name
    path.write_bytes(_packed(name, plain[name.split(".")[1]](), draw))
    files = find_files([folder])

    def read() -> None:
        texts = [text for batch in read_batches(files, ["text"], 1.0) for text in batch.texts]
        assert "这是一个好文件。" in texts, "the good file was lost"

    return read


def _parquet(draw: random.Random) -> bytes:
    columns: dict[str, Any] = {"text": pa.array(["你好", "hello"])}
    kinds = [pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns"), pa.time64("ns"), pa.duration("ns")]
    chosen = draw.choice(kinds)
    storage = pa.int32() if chosen == pa.date32() else pa.int64()
    numbers = [draw.choice([0, 1, 2**30, -(2**30)]), 1]
    columns["when"] = pa.array(numbers, storage).view(chosen)
    raw = [b"hello", b"\xff\xfe"]
    columns["raw"] = pa.Array.from_buffers(pa.string(), 2, pa.array(raw, pa.binary()).buffers())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue() if draw.random() < 0.4 else damaged_bytes(buffer.getvalue(), draw)


def _warc(draw: random.Random) -> bytes:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=undefined\r\n\r\n<html><p>hello</p></html>"
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head.encode() + body + b"\r\n\r\n") * 2


@kind
def recipe(folder: Path, draw: random.Random) -> Call:
    (folder / "my").mkdir()
    (folder / "my" / "a.txt").write_text("一")
    text = (Path(__file__).parents[2] / "recipes" / draw.choice(["own-text.toml", "primer.toml"])).read_text("utf-8")
    path, options = folder / "r.toml", []
    content = (f'runs_dir = "{folder}/runs"\n' + text.replace('"my"', f'"{folder}/my"')).encode()
    if draw.random() < 0.5:
        key = draw.choice(["corpus.inputs", "runs_dir", "name", "pretrain.epochs", "model.num_layers", "tokenizer.x"])
        odd = ["[" * 100_000, '["~nobody_x/*"]', '["/"]', '"a\\u0000b"', "1e400", "-1", "2026-01-01", "{a={b=[]}}"]
        options = ["--set", f"{key}={draw.choice(odd)}"]
    else:
        deep = b"x = " + b"[" * 100_000
        content = draw.choice([*(damaged_bytes(content, draw) for _ in range(2)), deep, content + deep, content])
    path.write_bytes(content)
    return lambda: _commands(("run", path, *options, "--dry-run"))


def _finished_run(folder: Path) -> Path:
    """A run with a curated corpus, and what training and evaluation leave, written by hand."""
    text = 'name = "run"\n[primer]\nsize_mb = 0.3\n[corpus]\ninputs = ["primer:raw"]\nworkers = 1\n'
    (folder / "r.toml").write_text(f'runs_dir = "{folder}"\n{text}')
    ended = inkstone("run", folder / "r.toml")
    assert ended.code == 0, ended.err
    run = folder / "run"
    for name, files in _LEFT.items():
        (run / name).mkdir()
        for file, value in files.items():
            rows = value if isinstance(value, list) else [value]
            (run / name / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


_STAGE = {"stage": "x", "seconds": 1.0, "covers": {"version": 1, "settings": {}, "inputs": {}, "needs": {}}}
_LEFT: dict[str, dict[str, Any]] = {
    "pretrain": {
        "stage.json": {**_STAGE, "stage": "pretrain", "fingerprint": "a", "settings": {}, "versions": {"a": "b"}},
        "metrics.jsonl": [{"step": 1, "loss": 2.0, "tokens": 10, "tokens_per_second": 3.0, "heldout_loss": 2.0}] * 3,
    },
    "evaluate": {
        "stage.json": {**_STAGE, "stage": "evaluate", "fingerprint": "b"},
        "scores.json": {
            "method": {"dtype": "float32"},
            "models": {"pretrain": {"quiz": {"letter": {"accuracy": 0.5, "stderr": 0.1,
                                                        "by_subject": {"a": {"accuracy": 0.5, "stderr": 0.1}}}},
                                    "heldout": {"bits_per_byte": 1.0, "documents": 3}}},
        },
        "samples.json": {"models": {"pretrain": {"continue": [{"prompt": "a", "text": "b"}],
                                                 "chat": {"zh": [{"role": "user", "content": "a"}]}}}},
    },
    "mixture": {"mixture.json": {"mixes": {"natural": {"a": 1.0}}, "domains": {"a": {"tokens": 1, "cap": 1.0}},
                                 "chosen": "natural", "compared": {}}},
    "tokenizer": {"measure.json": {"languages": {"zh": {"bytes_per_token": 3.0}}}},
}  # fmt: skip


@kind
def finished(folder: Path, draw: random.Random) -> Call:
    run = _copy("run", folder)
    files = [path for path in run.rglob("*.json*") if path.stat().st_size and "raw" not in path.parts]
    path = draw.choice(sorted(files))
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        path.write_bytes(_lines([json.loads(line) for line in content.split("\n") if line], draw))
    else:
        path.write_bytes(damaged_json(json.loads(content), draw))
    recipe = _SAMPLES["run"].parent / "r.toml"
    again = ("run", recipe, "--set", f"runs_dir={folder}", "--dry-run")
    audit = ("curate", "audit", run, "--reason", "near_duplicate")
    return lambda: _commands(("report", run), again, audit)


_ITEM = {"id": "a", "subject": "b", "lang": "zh", "question": "c", "choices": ["1", "2", "3", "4"], "answer": 0}
_PROBLEM = {"id": "a", "lang": "zh", "question": "b", "solution": "c 1", "answer": "1"}


@kind
def questions(folder: Path, draw: random.Random) -> Call:
    read, good = draw.choice([(read_quiz, _ITEM), (read_problems, _PROBLEM)])
    for name, damaged in (("dev", draw.random() < 0.3), ("test", draw.random() < 0.5)):
        rows = [good | {"id": f"{name} {number}"} for number in range(2)]
        lines = _lines(rows, draw) if damaged else "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / f"{name}.jsonl").write_bytes(lines)
    prompts = folder / "prompts.json"
    prompts.write_bytes(damaged_json({"continue": ["a"], "chat": {"zh": ["b"]}}, draw))
    return lambda: (_both(read_prompts, prompts), read(folder))


def _lines(rows: list[Any], draw: random.Random) -> bytes:
    """JSON lines, one of them damaged."""
    lines = [json.dumps(row).encode() for row in rows]
    at = draw.randrange(len(lines))
    lines[at] = damaged_json(rows[at], draw).replace(b"\n", b" ")
    content = b"\n".join(lines) + b"\n"
    return damaged_bytes(content, draw) if draw.random() < 0.2 else content


def _packed(name: str, content: bytes, draw: random.Random) -> bytes:
    """Compressed as the name says; sometimes the compressed bytes are what is damaged, or a bomb."""
    pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rsplit(".", 1)[-1])
    if pack is None:
        return content
    if draw.random() < 0.05:
        content += b" " * 300_000_000
    packed = pack(content)
    return damaged_bytes(packed, draw) if draw.random() < 0.3 else packed


def _commands(*commands: tuple[Any, ...]) -> None:
    """Each ends with a sentence or without a fault; a traceback would come through."""
    sentences = []
    for arguments in commands:
        ended = inkstone(*arguments)
        assert ended.code in (0, 1, 2), ended
        assert ended.code == 0 or ended.said, "it ended without a word"
        sentences += [ended.said] if ended.code else []
    if sentences:
        raise InkstoneError("; ".join(sentences))


def _both(first: Callable[[Any], object], argument: Any) -> None:
    """Call it; a sentence is as good as a result."""
    try:
        first(argument)
    except InkstoneError as error:
        assert str(error)
