"""A hash table of 64-bit keys whose look-ups and insertions take whole arrays at once."""

import numpy as np


class Slots:
    """Gives every key a slot; what belongs to a key is kept by the caller in arrays indexed by slot.

    Open addressing with linear probing: all keys walk together until each stands at its own slot or at an empty one.
    Keys are odd or otherwise well mixed and never 0.
    """

    def __init__(self, capacity_bits: int) -> None:
        self.capacity = 1 << capacity_bits
        self.used = 0
        self.keys = np.zeros(self.capacity, dtype=np.uint64)
        self._shift = np.uint64(64 - capacity_bits)
        self._mask = np.uint64(self.capacity - 1)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64: the slot of each key, or the empty slot where its search ended."""
        slots = (keys * np.uint64(0x9E3779B97F4A7C15)) >> self._shift
        found = self.keys[slots]
        astray = np.flatnonzero((found != keys) & (found != 0))
        while len(astray):
            slots[astray] = (slots[astray] + np.uint64(1)) & self._mask
            found = self.keys[slots[astray]]
            astray = astray[(found != keys[astray]) & (found != 0)]
        return slots.view(np.int64)

    def insert(self, keys: np.ndarray) -> np.ndarray:
        """int64: the new slot of each of these keys, which are different and not in the table."""
        if 2 * (self.used + len(keys)) > self.capacity:
            raise ValueError(f"{self.used + len(keys)} keys fill more than half of {self.capacity} slots")
        slots = np.zeros(len(keys), dtype=np.int64)
        waiting = np.arange(len(keys))
        while len(waiting):
            free = self.find(keys[waiting])
            self.keys[free] = keys[waiting]  # of several that meet at one empty slot the last one stays
            settled = self.keys[free] == keys[waiting]
            slots[waiting[settled]] = free[settled]
            waiting = waiting[~settled]
        self.used += len(keys)
        return slots
