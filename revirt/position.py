"""Points in the life of a guest.

A position is ``branches:steps``: the number of control transfers taken since the guest started, then the number of
instructions executed since the last of them.  Between two taken branches code is a straight line, so the pair
names one point and pairs are totally ordered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(\d{1,18})(?::(\d{1,18}))?")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A point in the life of a guest; prints and parses as ``branches:steps``."""

    branches: int
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.branches}:{self.steps}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position written as ``BRANCHES`` or ``BRANCHES:STEPS``.

        Raises ValueError for anything else.
        """
        match = _TEXT.fullmatch(text.replace(",", "").replace("_", "").strip())
        if match is None:
            raise ValueError(f"{text!r} is not a position; write BRANCHES or BRANCHES:STEPS")
        return cls(int(match[1]), int(match[2] or 0))
