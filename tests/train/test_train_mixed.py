"""Rows by the weights of a mixture: the right shares, every token in its turn, the same ones after any interruption."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_train_batches import shards
from test_train_ranks import free_port
from train_samples import SignalAt, same_bits, start, tiny_model, tiny_settings

from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.progress import Silent
from inkstone.train import MixedCorpus, Mixture, OnlineMixer, OnlineSettings, documents_of, read_mixture, train
from inkstone.train.mesh import ALONE, Mesh, join_mesh
from inkstone.train.mixed import quotas
from inkstone.train.online import exp3_weights, exploration_rate

LENGTHS = [5, 9, 13, 2, 30, 7, 4, 11, 6, 3, 17, 21]
DOMAINS = [np.array([0, 3, 5, 8]), np.array([1, 2, 4, 6]), np.array([7, 9, 10, 11])]


def mixed(weights: list[float], seed: int = 1, width: int = 8) -> MixedCorpus:
    return MixedCorpus(shards(LENGTHS), DOMAINS, weights, width, seed)


WEIGHTS = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda weights: max(weights) > 0.01)


@settings(max_examples=20, deadline=None)
@given(WEIGHTS, st.integers(0, 3), st.integers(1, 500))
def test_any_stretch_of_rows_has_each_domain_by_its_weight_to_within_two_rows(
    weights: list[float], seed: int, rows: int
) -> None:
    corpus = mixed(weights, seed)
    found = np.bincount(corpus.domains_of(range(65_400, 65_400 + rows)), minlength=3)  # across the end of a block
    assert np.abs(found - rows * np.array(weights) / sum(weights)).max() <= 2 + rows / 65536


def test_a_domain_gives_every_token_once_per_pass_and_only_its_own() -> None:
    corpus = mixed([0.5, 0.3, 0.2])
    tokens_of = [np.concatenate([np.arange(sum(LENGTHS[:d]), sum(LENGTHS[: d + 1])) for d in mine]) for mine in DOMAINS]
    seen: list[list[int]] = [[], [], []]
    for number in range(60):
        (domain,) = corpus.domains_of(range(number, number + 1))
        row = corpus.row(*divmod(number, corpus.rows_per_epoch))
        assert set(row.tokens) <= set(tokens_of[domain])
        seen[domain] += row.tokens.tolist()
    for domain, tokens in enumerate(seen):
        one_pass = len(tokens_of[domain]) // 8 * 8
        assert len(set(tokens[:one_pass])) == one_pass <= len(tokens)


def test_rows_are_a_function_of_their_number_and_of_nothing_that_ran_before() -> None:
    first = mixed([0.5, 0.3, 0.2])
    order = [first.row(2, index).tokens.tolist() for index in range(first.rows_per_epoch)]
    again = mixed([0.5, 0.3, 0.2])
    again.row(9, 3)
    assert [again.row(2, index).tokens.tolist() for index in reversed(range(len(order)))] == order[::-1]


@given(WEIGHTS, st.integers(1, 10_000))
def test_quotas_add_up_and_are_off_by_less_than_one(weights: list[float], total: int) -> None:
    whole = quotas(np.array(weights), total)
    assert whole.sum() == total and np.abs(whole - np.array(weights) / sum(weights) * total).max() < 1


def grouped() -> tuple[object, Mixture]:
    groups = [("en", "b"), ("zh", "a"), ("zh", "b")]
    told = replace(shards(LENGTHS), groups=groups, group_of=np.arange(12) % 3)
    return told, Mixture({"one": 0.5, "two": 0.5}, {"one": [("zh", "a")], "two": [("en", "b"), ("zh", "b")]})


def test_documents_of_a_domain_are_those_of_its_groups_and_none_is_forgotten_silently() -> None:
    told, mixture = grouped()
    assert [list(found) for found in documents_of(told, mixture)] == [[1, 4, 7, 10], [0, 2, 3, 5, 6, 8, 9, 11]]  # type: ignore[arg-type]
    fewer = Mixture({"one": 1.0, "gone": 1.0}, {"one": [("zh", "a")], "gone": [("en", "x")]})
    with pytest.raises(InputError) as error:
        documents_of(told, fewer)  # type: ignore[arg-type]
    assert "en/b belongs to no domain" in str(error.value) and 'domain "gone" has weight 1 but no' in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weights": {"a": -1}}', '{"weights": {}}', '{"weights": {"a": 1}}'])
def test_a_file_that_is_no_mixture_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "mixture.json").write_text(text)
    with pytest.raises(InputError, match=r"mixture\.json"):
        read_mixture(tmp_path / "mixture.json")


def test_a_mixture_written_by_hand_names_its_domains_by_language_and_source(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"weights": {"zh/a/b": 3, "en/c": 1}, "online": {"floor_weight": 0.1}}))
    mixture = read_mixture(tmp_path / "m.json")
    assert mixture.weights == {"zh/a/b": 0.75, "en/c": 0.25}
    assert mixture.groups == {"zh/a/b": [("zh", "a/b")], "en/c": [("en", "c")]}
    assert mixture.online and mixture.online.floor_weight == 0.1


# --- online ------------------------------------------------------------------------------------------------------

SETTINGS = tiny_settings(micro_batch_tokens=16)
NAMES = ["a", "b", "c"]


def online_run(scratch: Path, progress: Silent | None = None, mesh: Mesh = ALONE) -> tuple[Decoder, OnlineMixer]:
    rows = MixedCorpus(shards([4] * 12), DOMAINS, [0.5, 0.3, 0.2], 16, seed=1)
    mixer = OnlineMixer(rows, NAMES, OnlineSettings(warmup_steps=3, floor_weight=0.05, turn_rows=1))
    model = tiny_model()
    train(model, mixer, SETTINGS, scratch, progress or Silent(), mesh=mesh)
    return model, mixer


def online_rank(rank: int, port: int, folder: Path) -> None:
    """One of two ranks of the same run; leaves its weights and its mixer's state."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    model, mixer = online_run(folder / "scratch", mesh=join_mesh())
    save_file(dict(model.named_parameters()), folder / f"rank-{rank}.safetensors")
    (folder / f"rank-{rank}.json").write_text(json.dumps(mixer.state()))


def test_two_ranks_draw_the_same_rows_and_learn_the_same_weights_as_one(tmp_path: Path) -> None:
    port = free_port()
    ranks = [start(online_rank, rank, port, tmp_path) for rank in range(2)]
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    one, mixer = online_run(tmp_path / "one")
    states = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert states[0] == states[1] and states[0]["given"] == mixer.weights.given
    assert states[0]["weights"] == pytest.approx(mixer.weights.weights, abs=1e-5)
    weights = load_file(tmp_path / "rank-0.safetensors")
    for name, weight in one.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), atol=2e-5, rtol=1e-4)


def test_a_reweighted_run_that_was_stopped_ends_with_the_bits_and_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole, steady = online_run(tmp_path / "whole")
    for step in (2, 5, 13):
        with pytest.raises(KeyboardInterrupt):
            online_run(tmp_path / "parts", SignalAt(step, signal.SIGINT))
    parts, resumed = online_run(tmp_path / "parts")
    assert same_bits(whole, parts) and resumed.state() == steady.state()
    assert steady.weights.weights != [0.5, 0.3, 0.2] and sum(steady.weights.weights) == pytest.approx(1)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [rows[-1][f"weight {name}"] for name in NAMES] == pytest.approx(steady.weights.weights, abs=1e-5)
    assert sum(steady.weights.given) == 20 * 4


@given(st.lists(st.floats(0, 50), min_size=2, max_size=12), st.integers(1, 10_000), st.floats(0, 0.99))
def test_weights_add_up_favour_high_rewards_and_stay_above_the_floor(
    rewards: list[float], update: int, floor_share: float
) -> None:
    count = len(rewards)
    floor = floor_share / count
    weights = exp3_weights(rewards, exploration_rate(count, update), exploration_rate(count, update + 1), floor)
    assert sum(weights) == pytest.approx(1) and min(weights) >= floor - 1e-12
    assert np.all(np.diff(np.array(weights)[np.argsort(rewards)]) >= -1e-12)


def test_the_domain_whose_loss_stays_high_gains_weight_and_turns_follow_the_weights() -> None:
    mixer = OnlineMixer(mixed([1, 1, 1]), NAMES, OnlineSettings(warmup_steps=0, floor_weight=0.01, smoothing=0.0))
    for _ in range(60):
        mixer.reweight([2.0, 2.0, 6.0])
    assert mixer.weights.weights[2] > max(mixer.weights.weights[:2])
    mixer.weights.weights = [0.5, 0.3, 0.2]
    drawn = [mixer._choose(2)[0] for _ in range(100)]
    assert np.abs(np.bincount(drawn) - [50, 30, 20]).max() <= 2


def test_a_floor_that_leaves_nothing_to_choose_is_refused() -> None:
    with pytest.raises(InputError, match=r"floor_weight = 0\.4 leaves nothing to choose for 3 domains"):
        OnlineMixer(mixed([1, 1, 1]), NAMES, OnlineSettings(floor_weight=0.4))
