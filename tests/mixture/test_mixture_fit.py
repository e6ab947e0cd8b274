"""The whole fit on a tiny corpus: its evidence, reuse of finished proxies, a kill in its middle, and its refusals."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkstone.errors import InputError
from inkstone.mixture import MixtureSettings, ProxySettings, comparison, fit_mixture
from inkstone.mixture.proxies import Bench, Trial, run_trials
from inkstone.mixture.stage import _best_measured
from inkstone.progress import Field, Silent
from inkstone.storage import write_manifest
from inkstone.tokenizer import open_shards
from inkstone.tokenizer.token_shards import ShardWriter, token_dtype
from inkstone.train import Mixture, TrainSettings, read_mixture
from inkstone.train.mesh import Mesh
from inkstone.train.stage import _source

SOURCES = {
    ("zh", "verse"): (3, 20, 60),
    ("zh", "verse2"): (3, 20, 2),
    ("en", "books"): (15, 40, 30),
    ("en", "web"): (30, 50, 20),
}
PROXY = {"count": 8, "checks": 3, "compare_seeds": 1, "hidden_size": 8, "num_layers": 1,
         "num_heads": 1, "sequence_length": 16,
         "batch_tokens": 64, "steps": 5, "heldout_rows": 4}  # fmt: skip


@pytest.fixture(scope="module")
def tokens_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources that use different parts of a vocabulary of 53 tokens."""
    folder, draw = tmp_path_factory.mktemp("tokens"), random.Random(1)
    splits = {}
    for split, share in (("train", 1.0), ("heldout", 0.4)):
        writer = ShardWriter(folder, split, token_dtype(53), 1000)
        for group, (low, high, documents) in SOURCES.items():
            for _ in range(int(documents * share) + 1):
                ids = [1, *(draw.randrange(low, high) for _ in range(draw.randint(20, 60))), 2]
                writer.add(np.array(ids, "<u2"), np.array([len(ids)]), [group])
        writer.close()
        splits[split] = {"shards": writer.shards}
    write_manifest(folder, {"tokenizer": "t", "vocab_size": 53, "splits": splits})
    return folder


def settings(**changes: object) -> MixtureSettings:
    values: dict[str, object] = {"min_domain_share": 0.05, "budget_tokens": 4000, "proxy": PROXY}
    return MixtureSettings.model_validate({**values, **changes})


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str, **fields: Field) -> None:
        self.notes.append(message)


def fit(
    tokens_dir: Path, folder: Path, name: str = "out", progress: Silent | None = None, **changes: object
) -> dict[str, Any]:
    output = folder / name
    output.mkdir()
    fit_mixture(settings(**changes), tokens_dir, None, folder / "proxies", output, progress or Silent())
    facts: dict[str, Any] = json.loads((output / "mixture.json").read_text())
    return facts


@pytest.fixture(scope="module")
def fitted(tokens_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished fit (out/, proxies/) and its mixture.json."""
    folder = tmp_path_factory.mktemp("fitted")
    return folder, fit(tokens_dir, folder)


def test_a_learned_mixture_brings_its_evidence_and_is_read_by_the_trainer(
    tokens_dir: Path, fitted: tuple[Path, dict[str, Any]]
) -> None:
    folder, facts = fitted
    domains = ["en/books", "en/web", "zh/rest", "zh/verse"]
    assert list(facts["weights"]) == domains and sum(facts["weights"].values()) == pytest.approx(1)
    assert facts["domains"]["zh/rest"]["groups"] == [["zh", "verse2"]]
    assert set(facts["mixes"]) == {"natural", "stratified", "learned"} == set(facts["compared"])
    tokens = {name: domain["tokens"] for name, domain in facts["domains"].items()}
    assert facts["mixes"]["natural"] == pytest.approx({name: n / sum(tokens.values()) for name, n in tokens.items()})
    for mix in facts["mixes"].values():
        assert all(mix[name] <= facts["domains"][name]["cap"] * (1 + 1e-9) for name in domains)
    cap = facts["domains"]["zh/rest"]["cap"]
    assert cap == pytest.approx(4 * tokens["zh/rest"] / 4000) and cap < 0.25
    assert len(facts["trials"]) == 11 and len(facts["check"]["measured"]) == 3
    assert all(facts["law"][name]["transfer"][name] == pytest.approx(1) for name in domains)
    assert comparison(facts)[0].startswith("natural: measured ")
    source = _source(
        open_shards(tokens_dir, "train"), folder / "out" / "mixture.json", TrainSettings(sequence_length=16)
    )
    assert source.draw([0], 1, Mesh())[0].tokens.shape == (1, 16)


def test_online_reweighting_is_compared_from_the_weights_it_would_start_with(
    tokens_dir: Path, fitted: tuple[Path, dict[str, Any]]
) -> None:
    folder, first = fitted
    facts = fit(tokens_dir, folder, "online", online={"floor_weight": 0.05, "warmup_steps": 1})
    assert list(facts["compared"])[3:] == ["online from natural", "online from learned"]
    assert facts["compared"]["online from learned"]["measured"] != facts["compared"]["learned"]["measured"]
    assert {name: facts["compared"][name] for name in first["compared"]} == first["compared"]
    mixture = read_mixture(folder / "online" / "mixture.json")
    assert mixture.online and mixture.online.floor_weight == 0.05


def test_other_caps_or_targets_reuse_the_finished_proxies_and_the_same_settings_give_the_same_file(
    tokens_dir: Path, fitted: tuple[Path, dict[str, Any]]
) -> None:
    tmp_path, first = fitted
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "proxies").glob("*/proxy.json")}
    assert len(kept) >= 8 + 3 + 3
    progress = Notes()
    assert fit(tokens_dir, tmp_path, "again", progress) == first
    assert progress.notes[0] == "fit: 11 proxies, 11 of them finished before"
    heavier = fit(tokens_dir, tmp_path, "targets", targets={"en/web": 50.0})
    assert heavier["mixes"]["learned"]["en/web"] > first["mixes"]["learned"]["en/web"]
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept)
    # Natural and stratified are fitted on and compared; only the new learned mix is trained.
    assert len(list((tmp_path / "proxies").iterdir())) == len(kept) + 1


def test_training_gets_the_mix_that_measured_best_unless_the_learned_one_is_asked_for(
    tokens_dir: Path, fitted: tuple[Path, dict[str, Any]]
) -> None:
    folder, facts = fitted
    losses = {name: one["measured"][0] for name, one in facts["compared"].items()}
    assert facts["chosen"] == min(losses, key=lambda name: losses[name])
    assert facts["weights"] == facts["mixes"][facts["chosen"]]
    learned = fit(tokens_dir, folder, "learned", keep="learned")
    assert learned["chosen"] == "learned" and learned["weights"] == facts["mixes"]["learned"]
    unmeasured = fit(tokens_dir, folder, "unmeasured", proxy={**PROXY, "compare_seeds": 0})
    assert unmeasured["chosen"] == "learned" and comparison(unmeasured) == []


def test_a_learned_mix_that_loses_is_said_to_lose() -> None:
    compared = {"natural": [5.0, 5.2], "stratified": [4.9, 5.4], "learned": [5.1, 5.3]}
    mixes = {name: {"measured": found, "predicted": 5.0} for name, found in compared.items()}
    assert _best_measured(mixes, list(mixes)) == "natural"
    online = {"online from natural": {"measured": [5.2], "predicted": None}}
    facts = {"compared": mixes | online, "mixes": dict.fromkeys(mixes), "chosen": "natural", "check": {}}
    assert comparison(facts)[-2:] == [
        "the learned mix does not win here: natural measured better; kept are the weights of the natural mix",
        "online reweighting from the natural mix measured worse than that mix kept as it is",
    ]


def test_two_workers_measure_the_same_losses_as_one(tokens_dir: Path, tmp_path: Path) -> None:
    trials = [Trial("a", (0.5, 0.5), 1), Trial("b", (0.2, 0.8), 1), Trial("c", (0.9, 0.1), 2)]
    groups = {"en": [("en", "books"), ("en", "web")], "zh": [("zh", "verse"), ("zh", "verse2")]}
    losses = []
    for workers in (1, 2):
        proxy = ProxySettings.model_validate({**PROXY, "workers": workers})
        bench = Bench(tokens_dir, Mixture({"en": 1.0, "zh": 1.0}, groups), proxy, 0.5)
        losses.append(run_trials(bench, trials, tmp_path / str(workers), Silent(), "test"))
    assert (losses[0] == losses[1]).all() and losses[0].shape == (3, 2)


def _fit_in_child(tokens_dir: Path, folder: Path) -> None:
    fit(tokens_dir, folder, "killed")


def test_a_fit_that_was_killed_continues_with_the_next_proxy(
    tokens_dir: Path, tmp_path: Path, fitted: tuple[Path, dict[str, Any]]
) -> None:
    child = multiprocessing.get_context("forkserver").Process(target=_fit_in_child, args=(tokens_dir, tmp_path))
    child.start()
    finished = tmp_path / "proxies"
    while len(list(finished.glob("[!.]*/proxy.json"))) < 2:
        assert child.is_alive()
        time.sleep(0.02)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    kept = {path: path.stat().st_mtime_ns for path in finished.glob("[!.]*/proxy.json")}
    assert 2 <= len(kept) < 14
    facts = fit(tokens_dir, tmp_path)
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept)
    assert facts == fitted[1]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"kind": "stratified"}, 1 / 3),
        ({"kind": "fixed", "weights": {"zh": 3, "en books": 0, "en/web": 1}}, 0.25),
        ({"kind": "temperature", "temperature": 0.0001}, 1 / 3),
    ],
)
def test_mixtures_that_are_not_learned_train_no_proxy(
    tokens_dir: Path, tmp_path: Path, kind: dict[str, object], expected: float
) -> None:
    groups = {"zh": ["zh/*"], "en books": ["en/books"]}
    facts = fit(tokens_dir, tmp_path, groups=groups, **kind)
    assert facts["weights"]["en/web"] == pytest.approx(expected, abs=1e-3)
    assert not (tmp_path / "proxies").exists() and comparison(facts) == []
    assert set(read_mixture(tmp_path / "out" / "mixture.json").groups["zh"]) == {("zh", "verse"), ("zh", "verse2")}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"groups": {"fr": ["fr/*"]}},
            '"fr" matches no document: patterns are matched with "lang/source", e.g. "en/books"',
        ),
        ({"targets": {"zh/prose": 1}}, "targets: there is no domain zh/prose; known: en/books, en/web, zh/rest"),
        ({"kind": "fixed", "weights": {"zh/verse": 1}}, "weights: en/books, en/web, zh/rest missing; give 0"),
        ({"groups": {"all": ["*"]}}, "only one domain, all: there is nothing to weigh"),
        ({"budget_tokens": 10**9}, "do not fill the budget of 1,000,000,000: raise it to"),
        ({"proxy": {**PROXY, "sequence_length": 512}}, "held-out tokens, fewer than one row of 512: raise"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_any_proxy(
    tokens_dir: Path, tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError) as error:
        fit(tokens_dir, tmp_path, **changes)
    assert sentence in str(error.value)
    assert not (tmp_path / "proxies").exists()
