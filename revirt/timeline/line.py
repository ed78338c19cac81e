"""The straight line that is gone along, with marks on it: a line of millions of instructions takes seconds.

A mark stands where a block begins.  Whoever runs on from inside a block begins another one there; a guest that then
writes to the part left out is not seen to change its own block, and misses a taken branch.
"""

from __future__ import annotations

from bisect import bisect_right, insort

from revirt.timeline.snapshots import Snapshot, spread

LONGEST_BLOCK = 1024
"""Instructions: more than any block has."""
MARKS_APART = 50_000
"""Instructions between two marks, far from where one goes: half a second at worst."""


class Line:
    """The line that begins at *begin*."""

    def __init__(self, begin: Snapshot) -> None:
        self.begin = begin
        self._marks = [(0, begin)]

    def before(self, steps: int) -> tuple[int, Snapshot]:
        """Return the last mark, its steps and its snapshot, that is not behind *steps*."""
        return self._marks[bisect_right(self._marks, steps, key=lambda mark: mark[0]) - 1]

    def add(self, steps: int, snapshot: Snapshot) -> None:
        """Mark *steps*, and let go of marks that are too many around it."""
        if self.before(steps)[0] < steps:
            insort(self._marks, (steps, snapshot), key=lambda mark: mark[0])
            first, *others = self._marks
            self._marks = [first, *spread(others, lambda mark: mark[0] - steps)]

    @staticmethod
    def next_mark(steps: int, target: int) -> int:
        """Return where to leave a mark next, on the way from *steps* to *target*, 0 if it is not far any more."""
        left = target - steps
        return steps + min(left // 2, MARKS_APART) if left >= 2 * LONGEST_BLOCK else 0
