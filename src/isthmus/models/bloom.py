"""A Bloom filter over items that are hashes already: three bytes an item instead of eight."""

from __future__ import annotations

import numpy as np

BYTES, PLACES = 3, 10  # an item: of others three in 100,000 pass for one that was put in
AT_ONCE = 2**16  # items
REGION = 2**28  # bits that are filled at once, a byte each


class BloomFilter:
    """Says of any item whether it was put in: yes for all that were, and for about 3 in 100,000 of those that were not.

    bits: uint8 [3 n], of n items. Source: Bloom 1970; two hashes stand for all (Kirsch and Mitzenmacher 2006).
    """

    def __init__(self, bits: np.ndarray) -> None:
        self.bits = bits

    @classmethod
    def of(cls, items: np.ndarray) -> BloomFilter:
        """A filter of distinct items, uint64 [n], n > 0."""
        found = cls(np.zeros(BYTES * len(items), np.uint8))
        for low in range(0, 8 * len(found.bits), REGION):
            flags = np.zeros(min(REGION, 8 * len(found.bits) - low), bool)
            for start in range(0, len(items), AT_ONCE):
                place = found._places(items[start : start + AT_ONCE]) - low
                flags[place[(place >= 0) & (place < len(flags))]] = True
            found.bits[low // 8 : (low + len(flags)) // 8] = np.packbits(flags, bitorder="little")
        return found

    def __len__(self) -> int:
        """How many items were put in."""
        return len(self.bits) // BYTES

    def holds(self, items: np.ndarray) -> np.ndarray:
        """bool [m] of items, uint64 [m]."""
        found = np.ones(len(items), bool)
        for start in range(0, len(items), AT_ONCE):
            place = self._places(items[start : start + AT_ONCE])
            found[start : start + AT_ONCE] = ((self.bits[place >> 3] >> (place & 7).astype(np.uint8)) & 1).all(axis=1)
        return found

    def _places(self, items: np.ndarray) -> np.ndarray:
        """The bits that stand for each item, int64 [m, 10]."""
        step = items[:, None] * np.uint64(0x9E3779B97F4A7C15)  # another hash of the same
        step = (step ^ (step >> np.uint64(31))) | np.uint64(1)
        places = (items[:, None] + step * np.arange(PLACES, dtype=np.uint64)) % np.uint64(8 * len(self.bits))
        return places.astype(np.int64)
