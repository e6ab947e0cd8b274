"""Preference pairs as training rows: the chosen and the rejected answer of a pair lie side by side in one row.

So one forward sees both, whatever the micro-batch, and packing keeps rows full. Columns of a document say which side it
is (`side`: 1 chosen, -1 rejected, 0 padding), what the reference model thinks of it (`reference`) and, for KTO, whether
the pair's first answer is good (`label`: 1 or -1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inkstone.chat import PREFERENCES, Message, Preference, Template, encode_chat, without_rounds
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.train import Row
from inkstone.tune.encoded import EncodedChat, EncodedChats, told_of
from inkstone.tune.ends import Work, check_roles, heldout_numbers, roles_of
from inkstone.tune.packing import best_fit_decreasing

Side = tuple[Sequence[int] | NDArray[Any], Sequence[float] | NDArray[Any]]


@dataclass(frozen=True)
class EncodedPair:
    """Ids and loss weights of both answers with their prompt: weights are 1 for the answers' tokens, else 0."""

    chosen: Side
    rejected: Side

    @property
    def length(self) -> int:
        return len(self.chosen[0]) + len(self.rejected[0])


class KeptPairs(Sequence[EncodedPair]):
    """Pairs on disk: two sequences are one. `lengths` [pairs, 2] are of the chosen and the rejected."""

    def __init__(self, chats: EncodedChats) -> None:
        self.chats, self.lengths = chats, chats.lengths.reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> EncodedPair:  # type: ignore[override]
        sides = [self.chats[2 * number], self.chats[2 * number + 1]]
        return EncodedPair(*((side.ids, side.weights) for side in sides))

    def of(self, numbers: NDArray[np.int64]) -> "KeptPairs":
        """Some of them, in this order."""
        return KeptPairs(EncodedChats(self.chats.files, (2 * numbers[:, None] + np.arange(2)).flatten()))


def encode_pair(pair: Preference, template: Template, tokenizer: Tokenizer, length: int) -> EncodedPair | None:
    """Both answers in at most `length` tokens together, oldest rounds left out; None where the last is too long."""
    rounds = sum(message.role == "user" for message in pair.prompt)
    for dropped in range(rounds):
        prompt = without_rounds(pair.prompt, dropped)
        sides = [
            encode_chat([*prompt, Message("assistant", answer)], template, tokenizer)
            for answer in (pair.chosen, pair.rejected)
        ]
        if sum(len(ids) for ids, _ in sides) <= length:
            return EncodedPair(*(_answer_only(side) for side in sides))
    return None


def read_pairs(
    work: Work, template: Template, tokenizer: Tokenizer
) -> tuple[KeptPairs, NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    """All pairs that fit, the numbers of those to train on and of those held out, and what became of the rows."""
    settings, kept = work.settings, work.kept(tokenizer)

    def encode(pairs: list[Preference]) -> tuple[list[list[EncodedChat]], Mapping[str, int]]:
        told = roles_of([pair.prompt for pair in pairs])
        fits = [all(one.role in template.turns for one in pair.prompt) for pair in pairs]
        found = [
            encode_pair(pair, template, tokenizer, settings.sequence_length) if fit else None
            for pair, fit in zip(pairs, fits, strict=True)
        ]
        told["too_long"] = found.count(None)
        return [[EncodedChat(*one.chosen), EncodedChat(*one.rejected)] if one else [] for one in found], told

    how = [asdict(template), settings.sequence_length]
    inputs, tests = (
        kept.files(paths, PREFERENCES, how, encode, settings.on_problem) if paths else []
        for paths in (work.inputs, work.tests)
    )
    told = told_of([*inputs, *tests])
    check_roles(told, template)
    kept.forget_others([*inputs, *tests])
    pairs = KeptPairs(EncodedChats([*inputs, *tests]))
    held = heldout_numbers(len(pairs), settings.heldout_fraction)
    if tests:
        held = np.arange(sum(file.chats for file in inputs), len(pairs))
    training = np.setdiff1d(np.arange(len(pairs)), held)
    skipped = sum(file.facts["faults"]["malformed"] for file in inputs)
    return pairs, training, held, {"pairs": len(training), "too_long_pairs": told["too_long"], "skipped_rows": skipped}


def _answer_only(side: tuple[list[int], list[float]]) -> tuple[list[int], list[float]]:
    """Weights of the last answer alone: those of the history say nothing about the pair."""
    ids, weights = side
    last = len(weights)
    while last and weights[last - 1] == 0:
        last -= 1
    first = last
    while first and weights[first - 1] > 0:
        first -= 1
    return ids, [1.0 if first <= place < last else 0.0 for place in range(len(ids))]


class PackedPairs:
    """Rows of whole pairs, shuffled in each epoch. `reference` [pairs, 2] are the answers' log-probabilities."""

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        sequence_length: int,
        seed: int,
        pad_id: int,
        reference: NDArray[np.float32] | None = None,
        labels: Sequence[float] | None = None,
    ) -> None:
        if not pairs:
            raise InputError("no preference pair is left to train on: give more, or a longer sequence_length")
        self.pairs, self.sequence_length, self.seed, self.pad_id = pairs, sequence_length, seed, pad_id
        self.reference = np.zeros((len(pairs), 2), np.float32) if reference is None else reference
        self.labels = [0.0] * len(pairs) if labels is None else labels
        lengths = pairs.lengths.sum(1) if isinstance(pairs, KeptPairs) else [pair.length for pair in pairs]
        self.bins = best_fit_decreasing(lengths, sequence_length)
        self.rows_per_epoch = len(self.bins)

    def members(self, epoch: int, index: int) -> list[int]:
        """The pairs of a row."""
        return self.bins[int(np.random.default_rng((self.seed, epoch)).permutation(len(self.bins))[index])]

    def row(self, epoch: int, index: int) -> Row:
        return self.row_of(self.members(epoch, index))

    def row_of(self, members: Sequence[int]) -> Row:
        """A row of these pairs."""
        length = self.sequence_length
        tokens, positions = np.full(length, self.pad_id, np.int64), np.arange(length)
        ids, weights = np.full(length, 2 * len(members), np.int64), np.zeros(length, np.float32)
        sides, reference, labels = [], [], []
        filled = 0
        for place, number in enumerate(members):
            pair = self.pairs[number]
            for side, (answer_ids, answer_weights) in enumerate((pair.chosen, pair.rejected)):
                span = slice(filled, filled + len(answer_ids))
                tokens[span], weights[span], ids[span] = answer_ids, answer_weights, 2 * place + side
                positions[span] = np.arange(len(answer_ids))
                weights[filled] = 0.0
                filled += len(answer_ids)
            sides += [1.0, -1.0]
            reference += self.reference[number].tolist()
            labels += [self.labels[number]] * 2
        told = {"side": sides, "reference": reference, "label": labels}
        if filled < length:
            told = {name: [*values, 0.0] for name, values in told.items()}
        columns = {name: np.array(values, np.float32) for name, values in told.items()}
        return Row(tokens, positions, ids, weights, columns)
