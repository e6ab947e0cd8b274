"""Proxy runs: a tiny model trained by our own trainer on a mixture, and its held-out loss in every domain.

Each finished run is a directory of its own, named by everything its losses depend on, so a killed fit continues and a
fit with other caps or targets reuses them. A proxy sees each domain cut down by proxy tokens / budget tokens: a domain
that the real run would repeat five times is repeated five times here too. Rows are taken from all over a domain: whole
documents would leave a small domain with two or three of them, and seeds would differ by which.
"""

import json
import math
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from inkstone.errors import InputError
from inkstone.mixture.law import Array
from inkstone.mixture.optimum import capped
from inkstone.mixture.settings import ProxySettings
from inkstone.model import ModelSettings
from inkstone.progress import Progress, Silent
from inkstone.storage import atomic_directory, fingerprint, read_manifest, settle, write_json
from inkstone.tasks import Workers, run_calls
from inkstone.tokenizer import open_shards
from inkstone.train import (
    InOrder,
    MixedCorpus,
    Mixture,
    OnlineMixer,
    OnlineSettings,
    PackedCorpus,
    TrainSettings,
    documents_of,
    heldout_loss,
    new_model,
    train,
)

_MEASURED = ("hidden_size", "num_layers", "num_heads", "sequence_length", "batch_tokens", "steps", "learning_rate",
             "heldout_rows", "dtype")  # fmt: skip
"""The settings that a proxy's losses depend on."""


@dataclass(frozen=True)
class Trial:
    """A mixture to try: what it is for, its weights in the order of the domains, the seed, and online reweighting."""

    name: str
    weights: tuple[float, ...]
    seed: int
    online: OnlineSettings | None = None


@dataclass(frozen=True)
class Bench:
    """What all trials share. `share` is the part of each domain that a proxy may see."""

    tokens_dir: Path
    domains: Mixture
    settings: ProxySettings
    share: float

    def key(self, trial: Trial) -> str:
        """Names the trial's result."""
        covers = {
            "tokens": fingerprint(read_manifest(self.tokens_dir)["files"]),
            "domains": self.domains.groups,
            "proxy": self.settings.model_dump(include=set(_MEASURED)),
            "share": self.share,
            "weights": trial.weights,
            "seed": trial.seed,
            **({"online": trial.online.model_dump()} if trial.online else {}),
        }
        return fingerprint(covers)[:20]


def draw_mixtures(natural_K: Array, caps_K: Array, count: int, seed: int) -> Array:
    """`count` mixtures [count, K] under the caps: natural, stratified, then Dirichlet draws around flatter ones."""
    draws = np.random.default_rng((seed, len(natural_K)))
    flat = natural_K**0.5 / (natural_K**0.5).sum()
    domains = len(natural_K)
    mixtures = [natural_K, np.full(domains, 1 / domains)]
    while len(mixtures) < count:
        strength = domains * math.exp(draws.uniform(math.log(0.5), math.log(4.0)))
        drawn = draws.dirichlet(strength * (0.5 * flat + 0.5 / domains))
        mixtures.append(np.maximum(drawn, 1e-3))
    return np.stack([capped(mixture, caps_K) for mixture in mixtures[:count]])


def check_heldout(bench: Bench) -> None:
    """Raises InputError naming the domains with less than one held-out row to measure on."""
    held = open_shards(bench.tokens_dir, "heldout")
    length = bench.settings.sequence_length
    short = [
        f'[mixture] domain "{name}" has {int(held.lengths[documents].sum())} held-out tokens, fewer than one row of '
        f"{length}: raise [corpus] heldout_fraction, or merge the domain (groups, min_domain_share)"
        for name, documents in zip(bench.domains.weights, documents_of(held, bench.domains, strict=False), strict=True)
        if held.lengths[documents].sum() < length
    ]
    if short:
        raise InputError(short)


def run_trials(bench: Bench, trials: list[Trial], folder: Path, progress: Progress, label: str) -> Array:
    """Losses [trials, domains]; those that `folder` already has are not run again."""
    paths = [folder / bench.key(trial) for trial in trials]
    waiting = {path: trial for path, trial in zip(paths, trials, strict=True) if _finished(path) is None}
    folder.mkdir(parents=True, exist_ok=True)
    done = len(trials) - len(waiting)
    progress.note(f"{label}: {len(trials)} proxies, {done} of them finished before", proxies=len(trials))
    calls = [(trial, path) for path, trial in waiting.items()]
    workers = Workers(bench.settings.workers)
    for number, seconds in run_calls(partial(run_trial, bench), calls, workers, fewer="fewer [mixture] workers"):
        done += 1
        name = calls[number][0].name
        progress.advance(done, len(trials), "proxies", mixture=name, seconds=round(seconds, 1))
    return np.array([_finished(path) for path in paths]).reshape(len(paths), len(bench.domains.weights))


def run_trial(bench: Bench, trial: Trial, path: Path) -> float:
    """Train one proxy, measure it and write `path`/proxy.json; returns the seconds it took."""
    started, settings = time.perf_counter(), bench.settings
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the result depends neither on the machine's cores nor on `workers`
    try:
        losses = _train_and_measure(bench, trial)
    finally:
        torch.set_num_threads(threads)
    seconds = time.perf_counter() - started
    record = {
        "mixture": trial.name,
        "weights": dict(zip(bench.domains.weights, trial.weights, strict=True)),
        "seed": trial.seed,
        "proxy": settings.model_dump(include=set(_MEASURED)),
        "losses": losses,
        "seconds": round(seconds, 2),
    }
    with atomic_directory(path) as draft:
        write_json(draft / "proxy.json", record)
    return seconds


def _train_and_measure(bench: Bench, trial: Trial) -> list[float]:
    settings, shards = bench.settings, open_shards(bench.tokens_dir, "train")
    length = settings.sequence_length
    training = TrainSettings(
        sequence_length=length, batch_tokens=settings.batch_tokens, max_steps=settings.steps,
        epochs=1e9, learning_rate=settings.learning_rate, seed=trial.seed, dtype=settings.dtype, compile="off",
        optimizer="muon", log_steps=settings.steps, checkpoint_steps=settings.steps,
    )  # fmt: skip
    shape = ModelSettings(
        hidden_size=settings.hidden_size, num_layers=settings.num_layers, num_heads=settings.num_heads,
        max_positions=length,
    )  # fmt: skip
    documents = documents_of(shards, bench.domains)
    rows = MixedCorpus(shards, documents, trial.weights, length, trial.seed, bench.share)
    names = list(bench.domains.weights)
    source = OnlineMixer(rows, names, trial.online) if trial.online else InOrder(rows)
    model = new_model(shape, shards.vocab_size, trial.seed)
    with tempfile.TemporaryDirectory(prefix="inkstone-proxy-") as scratch:
        train(model, source, training, Path(scratch), Silent())
    held, count = open_shards(bench.tokens_dir, "heldout"), settings.heldout_rows
    return [
        heldout_loss(model, PackedCorpus(held, length, 0, mine, count), training, limit=count)
        for mine in documents_of(held, bench.domains, strict=False)
    ]


def _finished(path: Path) -> list[float] | None:
    """The losses of a finished trial."""
    settle(path)
    try:
        losses = json.loads((path / "proxy.json").read_text(encoding="utf-8"))["losses"]
    except (OSError, ValueError, KeyError):
        return None
    return [float(loss) for loss in losses]
