"""The server under load beside its own engine: many streams at once, a third of whose clients vanish in mid-stream.

    python benchmarks/serve.py                              # 200 streams for 60 seconds, a random model like primer's
    python benchmarks/serve.py --model runs/primer/sft --seconds 600
    python benchmarks/serve.py --streams 8 --seconds 5      # does it work?

The engine alone and the server take turns, twice each, with the same model, conversations, rows and threads; in both a
third of the requests is given up after a random number of tokens and another one takes the place. Tokens are counted by
the engine itself, so those of vanished clients count alike. Clients are sockets of this process: on a machine with
few cores they take CPU time from the server, as they would not from elsewhere; the cores that each uses are printed.
Times to the first token hold the time in the queue. Ends with 1 where the server leaves blocks in use or answers with
an error.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

WARM_S = 5.0
WORDS = ("静夜思是谁写的", "What", "is", "the", "capital", "of", "France", "水", "fire", "一加一等于几", "Who", "wrote")


def conversation(draw: random.Random) -> list[dict[str, str]]:
    return [{"role": "user", "content": " ".join(draw.choices(WORDS, k=draw.randint(2, 12)))}]


# ---- the engine alone, in a process without HTTP


def engine_alone(options: argparse.Namespace) -> dict[str, float]:
    """Tokens per second with as many requests running and waiting as the server has streams."""
    from inkstone.chat import Message, encode_chat
    from inkstone.generate import Engine, Request, SamplingSettings
    from inkstone.model import open_directory
    from inkstone.serve.runner import cache_tokens

    opened = open_directory(options.model, chat=True, prepack=True)
    engine = Engine(opened.model, cache_tokens(opened.model, options.rows, 2**30), options.rows)
    draw, left = random.Random(1), Counter[int]()

    def submit() -> None:
        said = [Message(turn["role"], turn["content"]) for turn in conversation(draw)]
        ids, _ = encode_chat(said, opened.template, opened.tokenizer, add_generation_prompt=True)
        how = SamplingSettings(temperature=0.8, max_new_tokens=options.tokens, seed=draw.getrandbits(32))
        number = engine.submit(Request(ids, how, opened.stop_ids))
        left[number] = draw.randint(1, options.tokens) if draw.random() < 1 / 3 else -1

    for _ in range(options.streams):
        submit()
    started = counted = 0.0
    begin = time.perf_counter()
    while (now := time.perf_counter()) < begin + WARM_S + options.seconds:
        if not started and now > begin + WARM_S:
            started, counted = now, engine.counts["new_tokens"]
        for delta in engine.step():
            left[delta.id] -= 1
            if not delta.finish and not left[delta.id]:
                engine.cancel(delta.id)
            if delta.finish or not left[delta.id]:
                del left[delta.id]
                submit()
    return {"tokens_per_second": (engine.counts["new_tokens"] - counted) / (time.perf_counter() - started)}


# ---- the clients


@dataclass
class Seen:
    """What the clients saw in the window that is measured."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    measuring: bool = False


async def client(port: int, seen: Seen, draw: random.Random, tokens: int, stop: asyncio.Event) -> None:
    """One person after another, each with a connection of its own."""
    while not stop.is_set():
        patience = draw.randint(1, tokens) if draw.random() < 1 / 3 else None
        try:
            how = await ask(port, seen, draw, tokens, patience, stop)
        except (OSError, asyncio.IncompleteReadError) as error:
            how = type(error).__name__
            await asyncio.sleep(0.1)
        if seen.measuring:
            seen.ended[how] += 1


async def ask(
    port: int, seen: Seen, draw: random.Random, tokens: int, patience: int | None, stop: asyncio.Event
) -> str:
    """One stream; a client with `patience` vanishes after so many pieces. How it ended."""
    body = {
        "model": "model", "messages": conversation(draw), "stream": True, "max_tokens": tokens, "temperature": 0.8,
        "seed": draw.getrandbits(32),
    }  # fmt: skip
    content = json.dumps(body).encode()
    begun = last = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        writer.write(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )
        status = (await reader.readline()).split()
        if status[1:2] != [b"200"]:
            await asyncio.sleep(0.1)
            return f"status {status[1].decode() if status else 'none'}"
        pieces = 0
        while line := await reader.readline():
            if stop.is_set():
                return "stopped"
            if line.startswith(b'data: {"error"'):
                return "error event"
            if line.startswith(b"data: [DONE]"):
                return "answered"
            if line.startswith(b"data: ") and b'"content": ""' not in line:
                now = time.perf_counter()
                if seen.measuring:
                    seen.between.append(now - last) if pieces else seen.first.append(now - begun)
                pieces, last = pieces + 1, now
                if pieces == patience:
                    return "vanished"
        return "cut off"
    finally:
        writer.transport.abort()


# ---- the server


def serve(options: argparse.Namespace) -> dict[str, Any]:
    """Start `inkstone serve`, drive it, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "inkstone", "serve", str(options.model), "--port", str(port), "--rows", str(options.rows),
        "--waiting", str(max(256, options.streams)), "--no-console",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"the server does not start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.2)
            return asyncio.run(drive(port, psutil.Process(process.pid), options))
        finally:
            process.terminate()
            process.wait(30)


def answers(port: int) -> bool:
    try:
        return bool(figures(port) is not None)
    except OSError:
        return False


def figures(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        return {
            name: float(value)
            for name, value in re.findall(r"inkstone_engine_(\w+)\{.*?\} (\S+)", page.read().decode())
        }


async def drive(port: int, process: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    seen, stop, draw = Seen(), asyncio.Event(), random.Random(2)
    clients = [
        asyncio.ensure_future(client(port, seen, random.Random(draw.random()), options.tokens, stop))
        for _ in range(options.streams)
    ]
    await asyncio.sleep(WARM_S)
    before, started, seen.measuring = await asyncio.to_thread(figures, port), time.perf_counter(), True
    used, own, http = sum(process.cpu_times()[:2]), time.process_time(), of_main_thread(process)
    memory = []
    while time.perf_counter() < started + options.seconds:
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(min(1.0, options.seconds / 20))
    seen.measuring = False
    after, seconds = await asyncio.to_thread(figures, port), time.perf_counter() - started
    used, own = sum(process.cpu_times()[:2]) - used, time.process_time() - own
    http = (of_main_thread(process) - http) / max(1, after["new_tokens"] - before["new_tokens"])
    stop.set()
    await asyncio.gather(*clients)
    for _ in range(100):
        end = await asyncio.to_thread(figures, port)
        if not end["held"] and not end["running"] and not end["waiting"]:
            break
        await asyncio.sleep(0.1)
    third = max(1, len(memory) // 3)
    return {
        "tokens_per_second": (after["new_tokens"] - before["new_tokens"]) / seconds,
        "first": percentiles(seen.first), "between": percentiles(seen.between), "requests": dict(seen.ended),
        "memory": [statistics.mean(memory[:third]), statistics.mean(memory[-third:])], "held": end["held"],
        "failures": end["failures"], "cpu": [used / seconds, own / seconds], "http": http,
    }  # fmt: skip


def of_main_thread(process: psutil.Process) -> float:
    """CPU seconds of the thread that speaks HTTP; the engine has one of its own."""
    return next(one.user_time + one.system_time for one in process.threads() if one.id == process.pid)


def percentiles(values: Iterable[float]) -> list[float]:
    """p50 and p99."""
    ordered = sorted(values) or [float("nan")]
    return [ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]]


# ---- the table


def prepare(directory: Path) -> Path:
    """A random chat model like primer's, with a head of its own or it would repeat one token: 8 M parameters."""
    import torch

    from inkstone.chat import CHATML, attach_template
    from inkstone.model import ModelSettings, save_model
    from inkstone.tokenizer import TokenizerSettings
    from inkstone.tokenizer.bpe.train import train
    from inkstone.train import new_model

    root = Path(__file__).parents[1]
    texts = [path.read_text() for path in sorted(root.glob("*.md")) + sorted(root.glob("docs/*.md"))]
    tokenizer = train(TokenizerSettings(vocab_size=6144), [(texts, 1.0)])[0]
    shape = ModelSettings(hidden_size=256, num_layers=6, num_heads=4, max_positions=512, tie_embeddings=False)
    model = new_model(shape, tokenizer.vocab_size, 1)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)  # some tokens are likelier than others
    stops = sorted(CHATML.stop_ids(tokenizer))
    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    save_model(model, directory, **ends, stop_ids=stops)
    tokenizer.save(directory)
    attach_template(CHATML, tokenizer, directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer at most")
    parser.add_argument("--rows", type=int, default=32, help="as inkstone serve has by default")
    parser.add_argument("--threads", type=int, default=1, help="of torch, of both")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.worker:
        print(json.dumps(engine_alone(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / "model"  # its name is the model's
        if options.model:
            link.symlink_to(options.model.resolve())
        options.model = link if options.model else prepare(link)
        cores, load = psutil.cpu_count(), os.getloadavg()[0]
        print(f"{platform.processor() or platform.machine()}, {cores} cores; load before {load:.1f}", flush=True)
        engine, server = [], []
        for _ in range(options.rounds):
            command = [sys.executable, __file__, "--worker", *(f"--{k}={getattr(options, k)}" for k in SHARED)]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
            engine.append(json.loads(ended.stdout.splitlines()[-1])["tokens_per_second"])
            print(f"engine alone: {engine[-1]:,.0f} tokens/s", flush=True)
            server.append(serve(options))
            show(server[-1])
    ratio = statistics.median(one["tokens_per_second"] for one in server) / statistics.median(engine)
    print(f"the server has {ratio:.1%} of its engine's throughput")
    bad = [how for one in server for how in one["requests"] if how not in ("answered", "vanished", "stopped")]
    sys.exit(1 if bad or any(one["held"] for one in server) else 0)


SHARED = ("model", "streams", "seconds", "tokens", "rows", "threads")


def show(found: dict[str, Any]) -> None:
    first, between = ([f"{1000 * value:,.0f}" for value in found[name]] for name in ("first", "between"))
    print(f"server: {found['tokens_per_second']:,.0f} tokens/s; requests {found['requests']}")
    print(f"  first token {first[0]} ms (p99 {first[1]}), between tokens {between[0]} ms (p99 {between[1]})")
    print(f"  memory {found['memory'][0]:,.1f} MiB in the first third, {found['memory'][1]:,.1f} in the last")
    held, (used, own) = found["held"], found["cpu"]
    print(f"  cores: server {used:.2f}, clients {own:.2f}; HTTP takes {1e6 * found['http']:.0f} us of CPU a token")
    print(f"  blocks held {held:.0f}, failures {found['failures']:.0f}", flush=True)


if __name__ == "__main__":
    main()
