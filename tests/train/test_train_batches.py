"""Which tokens a step sees: every one of them, once, as a pure function of seed and step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from train_samples import SampleRows, tiny_settings

from inkstone.errors import InputError
from inkstone.tokenizer import TokenShards
from inkstone.train import Batch, PackedCorpus
from inkstone.train.batches import next_rows


def shards(lengths: list[int], split: int = 1) -> TokenShards:
    """Documents of these lengths, in two shards; every token is another number, so that it can be followed."""
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    parts = [lengths[:split], lengths[split:]]
    border = sum(parts[0])
    return TokenShards(
        names=["a", "b"],
        tokens=[tokens[:border], tokens[border:]],
        offsets=[np.cumsum([0, *part]) for part in parts],
        lengths=np.array(lengths, dtype=np.int64),
        first_documents=np.array([0, len(parts[0]), len(lengths)]),
        vocab_size=len(tokens),
        tokenizer="",
    )


CORPORA = st.tuples(st.lists(st.integers(2, 40), min_size=2, max_size=25), st.integers(8, 24)).filter(
    lambda corpus: sum(corpus[0]) >= corpus[1]
)


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_holds_every_token_once_but_the_last_part_row(
    corpus: tuple[list[int], int], epoch: int, seed: int
) -> None:
    lengths, width = corpus
    rows = PackedCorpus(shards(lengths, len(lengths) // 2), width, seed)
    seen = np.concatenate([rows.row(epoch, index).tokens for index in range(rows.rows_per_epoch)])
    assert rows.rows_per_epoch == sum(lengths) // width
    assert len(seen) == rows.rows_per_epoch * width == len(set(seen.tolist()))
    assert sum(lengths) - len(seen) < width


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(0, 5))
def test_positions_restart_and_the_first_token_is_unsupervised_in_every_piece(
    corpus: tuple[list[int], int], seed: int
) -> None:
    lengths, width = corpus
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    rows = PackedCorpus(shards(lengths), width, seed)
    for index in range(rows.rows_per_epoch):
        tokens, positions, ids, weights, _ = rows.row(0, index)
        begins = np.concatenate(([True], document_of[tokens[1:]] != document_of[tokens[:-1]]))
        assert np.array_equal(positions == 0, begins)
        assert np.array_equal(weights, np.where(begins, 0, 1))
        assert np.array_equal(np.diff(positions)[~begins[1:]], np.ones((~begins[1:]).sum()))
        assert np.array_equal(ids, np.cumsum(begins) - 1)
        assert np.array_equal(np.diff(tokens)[~begins[1:]], np.ones((~begins[1:]).sum())), "pieces are in order"


def test_rows_of_a_long_document_are_spread_over_the_epoch() -> None:
    """In a row they would be all that a small batch sees for many steps."""
    rows = PackedCorpus(shards([4000] + [10] * 400), 10, seed=3)
    of_the_book = [bool(rows.row(0, index).tokens[0] < 4000) for index in range(rows.rows_per_epoch)]
    parts = [sum(of_the_book[start : start + 200]) for start in range(0, len(of_the_book), 200)]
    assert all(60 < part < 140 for part in parts), parts


def epoch_tokens(rows: PackedCorpus, epoch: int) -> list[int]:
    return [int(token) for index in range(rows.rows_per_epoch) for token in rows.row(epoch, index).tokens]


def test_order_is_a_function_of_seed_and_epoch_and_of_nothing_that_ran_before() -> None:
    lengths = [5, 9, 13, 2, 30, 7, 4, 11, 6, 3]
    rows = PackedCorpus(shards(lengths), 8, seed=1)
    first, second = epoch_tokens(rows, 0), epoch_tokens(rows, 1)
    assert first != second
    assert epoch_tokens(rows, 0) == first
    assert epoch_tokens(PackedCorpus(shards(lengths), 8, seed=1), 1) == second
    assert epoch_tokens(PackedCorpus(shards(lengths), 8, seed=2), 0) != first


def test_a_cut_down_corpus_gives_rows_from_all_over_it_and_the_same_ones_in_every_epoch() -> None:
    lengths = [5, 9, 13, 2, 30, 7, 4, 11, 6, 3] * 20
    whole = {tuple(PackedCorpus(shards(lengths), 8, 1).row(0, index).tokens) for index in range(sum(lengths) // 8)}
    part = PackedCorpus(shards(lengths), 8, 1, rows=30)
    rows = [tuple(part.row(0, index).tokens) for index in range(part.rows_per_epoch)]
    assert len(set(rows)) == part.rows_per_epoch == 30 and set(rows) <= whole
    assert rows == [tuple(part.row(3, index).tokens) for index in range(30)]
    assert len({max(row) * 4 // sum(lengths) for row in rows}) == 4, "rows of every quarter"
    assert PackedCorpus(shards(lengths), 8, 1, rows=10**6).rows_per_epoch == sum(lengths) // 8


def test_how_documents_lie_in_shards_does_not_matter() -> None:
    lengths = [5, 9, 13, 2, 30]
    rows = [PackedCorpus(shards(lengths, split), 8, seed=1) for split in range(5)]
    assert all(epoch_tokens(one, 0) == epoch_tokens(rows[0], 0) for one in rows)


def test_a_corpus_shorter_than_one_row_is_refused() -> None:
    with pytest.raises(InputError, match="the corpus has 7 tokens, fewer than one row of sequence_length = 8"):
        PackedCorpus(shards([3, 4]), 8, seed=1)


@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 12))
def test_steps_walk_through_the_rows_of_each_epoch_in_order_without_gaps(
    per_epoch: int, per_step: int, steps: int
) -> None:
    class Rows(SampleRows):
        rows_per_epoch = per_epoch

    walked = [divmod(number, per_epoch) for step in range(steps) for number in next_rows(step * per_step, per_step)]
    endless = [(epoch, index) for epoch in range(per_step * steps + 1) for index in range(per_epoch)]
    assert walked == endless[: per_step * steps]


@given(
    st.integers(0, 60),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 9)), max_size=3),
)
def test_skipped_rows_are_passed_over_as_if_they_were_not_there(
    behind: int, count: int, ranges: list[tuple[int, int]]
) -> None:
    skipped = [(first, first + length) for first, length in ranges]
    gone = {number for first, end in skipped for number in range(first, end)}
    assert next_rows(behind, count, skipped) == [n for n in range(behind, 200) if n not in gone][:count]


def test_supervised_adds_up_the_weights_of_predicted_tokens_only() -> None:
    row = SampleRows().row(0, 1)
    first_weight = row._replace(weights=np.array([1, 0, 0.5, *[0] * 13], np.float32))
    assert Batch.stack([first_weight, first_weight]).supervised == 1


def test_a_batch_numbers_its_documents_and_says_where_each_begins() -> None:
    rows = [SampleRows().row(0, index) for index in range(6)]
    rows = [
        row._replace(document_ids=row.document_ids + 100, columns={"reward": np.unique(row.document_ids) + 10.0 * at})
        for at, row in enumerate(rows)
    ]
    batch = Batch.stack(rows)
    begins = np.flatnonzero(np.concatenate([row.positions for row in rows]) == 0)
    assert batch.starts.dtype == torch.int32 and batch.starts.tolist() == [*begins, 6 * 16]
    assert batch.longest == max(np.diff(batch.starts.numpy()))
    ids = batch.document_ids.flatten()
    assert torch.equal(ids.unique(), torch.arange(len(begins))) and (ids.diff() >= 0).all()
    assert len(batch.columns["reward"]) == len(begins)
    for number, start in enumerate(begins):
        row = rows[start // 16]
        document = int(row.document_ids[start % 16]) - 100
        assert batch.columns["reward"][number] == document + 10.0 * (start // 16)


@pytest.mark.parametrize(
    ("changes", "steps"), [({"epochs": 1}, 25), ({"epochs": 2.5}, 62), ({"epochs": 0.001}, 1), ({"max_steps": 9}, 9)]
)
def test_steps_follow_from_epochs_and_max_steps(changes: dict[str, float], steps: int) -> None:
    assert tiny_settings(**{"max_steps": None, **changes}).steps(rows_per_epoch=100) == steps


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_tokens": 72}, "batch_tokens = 72 is not a multiple of sequence_length = 16"),
        ({"micro_batch_tokens": 48}, "batch_tokens = 64 is not a multiple of micro_batch_tokens = 48"),
        ({"micro_batch_tokens": 8}, "micro_batch_tokens = 8 is not a multiple of sequence_length = 16"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"dtype": "float16"}, "'auto', 'float32' or 'bfloat16'"),
        ({"lr": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        tiny_settings(**changes)
