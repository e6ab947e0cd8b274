"""Guesses what a text goes on with: what followed the last time its last tokens stood there (prompt lookup decoding).

    lookup = Lookup(tokens)          # a list that grows
    lookup.guess(4)                  # up to four tokens, or none

A guess costs a row of the next forward, which decoding at the memory's speed hardly notices; what turns out right is
taken, so greedy answers stay what they are. Summaries, corrections, code and tables repeat themselves; talk does not.
"""

_SIZES = (3, 2)
"""Last tokens that must have stood there; the longest that did decides."""


class Lookup:
    """Where each short run of a text's tokens ended last."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.ends: dict[tuple[int, ...], int] = {}
        self.known = 0

    def guess(self, count: int) -> list[int]:
        """What followed, at most `count` tokens."""
        tokens, length = self.tokens, len(self.tokens)
        for end in range(self.known + 1, length):  # the last run itself has nothing behind it
            for size in _SIZES:
                if end >= size:
                    self.ends[tuple(tokens[end - size : end])] = end
        self.known = max(self.known, length - 1)
        for size in _SIZES:
            place = self.ends.get(tuple(tokens[-size:])) if length >= size else None
            if place is not None:
                return tokens[place : place + count]
        return []
