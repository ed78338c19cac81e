"""Chance that is a string of bytes: what is made with it is told by them, and whoever changes them makes another."""

from __future__ import annotations

from random import Random
from typing import Self


class Chances(Random):
    """A source of chance that deals out *data*; behind its end everything is 0."""

    def __new__(cls, _data: bytes) -> Self:
        return super().__new__(cls)

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._place = 0

    @property
    def is_spent(self) -> bool:
        """Whether all of the bytes were dealt out."""
        return self._place >= len(self._data)

    def getrandbits(self, count: int, /) -> int:
        """Return the next *count* bits, whole bytes of which are used up."""
        size = (count + 7) // 8
        dealt = self._data[self._place : self._place + size]
        self._place += size
        return int.from_bytes(dealt, "little") & (1 << count) - 1

    def random(self) -> float:
        """Return a number from 0 to below 1, in steps of 1/65536."""
        return self.getrandbits(16) / 65536
