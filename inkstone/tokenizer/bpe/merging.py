"""Byte-pair merging of many words at once: in every round each word makes its best merge.

The result is the one that `tokenizers` gives: the merge of the lowest rank first, of equal ones the leftmost. The words
lie one after the other in flat arrays, so a round costs a few array operations however many words there are; a word
leaves as soon as nothing in it can be merged.
"""

from collections.abc import Sequence

import numpy as np

from inkstone.tokenizer.bpe.pattern import UNICODE
from inkstone.tokenizer.bpe.table import Slots

LONGEST = 64  # symbols; a word makes one merge a round, so long ones are cheaper one by one, with a queue
_NEVER = np.iinfo(np.int64).max
_MADE = (1 << 32) - 1


class Merger:
    """The merges of a vocabulary as a table from two ids to a rank and the id of the piece they make."""

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> None:
        left = np.array([vocabulary[merge[0]] for merge in merges], dtype=np.int64)
        right = np.array([vocabulary[merge[1]] for merge in merges], dtype=np.int64)
        made = np.array([vocabulary[merge[0] + merge[1]] for merge in merges], dtype=np.int64)
        keys, last = np.unique(_key(left[::-1], right[::-1]), return_index=True)  # of equal pairs the last counts
        ranks = len(merges) - 1 - last
        self._slots = Slots(max(4, (4 * len(keys)).bit_length()))
        self._merges = np.full(self._slots.capacity, _NEVER, dtype=np.int64)  # rank and new id in one number
        self._merges[self._slots.insert(keys)] = (ranks << 32) | made[ranks]
        self.single = np.full(UNICODE, -1, dtype=np.int32)  # id of every character that is a piece, or -1
        pieces = [piece for piece in vocabulary if len(piece) == 1]
        self.single[np.array([ord(piece) for piece in pieces], dtype=np.int64)] = [vocabulary[one] for one in pieces]
        self._bytes = np.array([vocabulary.get(f"<0x{value:02X}>", -1) for value in range(256)], dtype=np.int32)

    def symbols(self, points: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What merging begins with: an id for every character, or else for its bytes; and how many each word has."""
        ids = self.single[points]
        unknown = ids < 0
        if not unknown.any():
            return ids, lengths
        sizes = np.where(unknown, 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000), 1)
        ids = np.repeat(ids, sizes)
        text = points[unknown].astype("<u4").tobytes().decode("utf-32-le")
        ids[ids < 0] = self._bytes[np.frombuffer(text.encode("utf-8"), dtype=np.uint8)]
        return ids, np.add.reduceat(sizes, np.cumsum(lengths) - lengths)

    def merge(
        self, symbols: np.ndarray, lengths: np.ndarray, dropout: float = 0.0, draws: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all words, flat, and how many each word has.

        `symbols` holds the words' first ids, one after the other; no word is empty. With `dropout` every possible merge
        is passed over with that chance in each round (BPE-dropout); a word for which all are passed over is finished.
        """
        words, counts, ids = np.arange(len(lengths)), lengths.copy(), symbols.copy()
        merges = np.full(len(ids), _NEVER, dtype=np.int64)  # of every symbol with the one that follows in its word
        merges[:-1] = self._of(ids[:-1], ids[1:])
        merges[np.cumsum(counts) - 1] = _NEVER
        finished: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while len(words):
            offered = merges if draws is None else np.where(draws.random(len(merges)) < dropout, _NEVER, merges)
            best = np.minimum.reduceat(offered, np.cumsum(counts) - counts)
            done = best == _NEVER
            if done.any():
                out = np.repeat(done, counts)
                finished.append((words[done], counts[done], ids[out]))
                words, counts, best = words[~done], counts[~done], best[~done]
                ids, merges, offered = ids[~out], merges[~out], offered[~out]
            at = _leftmost(offered, best, counts)
            ids[at] = best & _MADE
            left = np.ones(len(ids), dtype=bool)
            left[at + 1] = False
            ids, merges, counts = ids[left], merges[left], counts - 1
            self._renew(merges, ids, counts, at - np.arange(len(at)))
        return _in_order(finished, len(lengths))

    def _renew(self, merges: np.ndarray, ids: np.ndarray, counts: np.ndarray, at: np.ndarray) -> None:
        """Look up anew what the symbols at `at`, one of every word, can merge with on both sides."""
        ends = np.cumsum(counts)
        after, before = at[at < ends - 1], at[at > ends - counts] - 1
        merges[at] = _NEVER
        merges[after] = self._of(ids[after], ids[after + 1])
        merges[before] = self._of(ids[before], ids[before + 1])

    def _of(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self._merges[self._slots.find(_key(left, right))]


def _leftmost(offered: np.ndarray, best: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where each word offers its best merge for the first time."""
    places = np.flatnonzero(offered == np.repeat(best, counts))
    owners = np.repeat(np.arange(len(counts)), counts)[places]
    return places[np.diff(owners, prepend=-1) != 0]


def _in_order(finished: list[tuple[np.ndarray, np.ndarray, np.ndarray]], words: int) -> tuple[np.ndarray, np.ndarray]:
    """Words that were finished round by round as one array of ids, in the order of their numbers, and their counts."""
    counts = np.zeros(words, dtype=np.int64)
    for numbers, own, _ in finished:
        counts[numbers] = own
    starts = np.cumsum(counts) - counts
    flat = np.zeros(int(counts.sum()), dtype=np.int32)
    for numbers, own, ids in finished:
        flat[np.repeat(starts[numbers] - (np.cumsum(own) - own), own) + np.arange(len(ids))] = ids
    return flat, counts


def _key(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """An odd 64-bit key for two ids."""
    return (left.astype(np.uint64) << np.uint64(32)) | (right.astype(np.uint64) << np.uint64(1)) | np.uint64(1)
