"""What a circular recording keeps.

Rules:
- Every event that is kept is preceded by a checkpoint that is kept: what goes, goes from one checkpoint to the next.
- A checkpoint goes only when the next one has its event on disk: at every moment there is one to replay from.
- The newest whole checkpoint always stays.  Where it and the events behind it take more than the limit, the limit is
  passed: a recorder does not lose what it is for.
- A frozen ring keeps everything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from revirt.recording.manifest import Kept


@dataclass(frozen=True, slots=True)
class RingLimits:
    """How much to keep: ``size`` bytes at most (log, checkpoints and pages), and of ``keep_ns`` of guest time no more
    than it takes to replay them from a checkpoint.  None: no limit of this kind.
    """

    size: int | None = None
    keep_ns: int | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the limits as they stand in a manifest."""
        return {"size": self.size, "keep_ns": self.keep_ns}


class Ring:
    """The checkpoints that are kept, oldest first, each with where its part of the log begins."""

    def __init__(self, limits: RingLimits) -> None:
        self.limits = limits
        self.is_frozen = False
        self._kept: deque[Kept] = deque()

    def add(self, kept: Kept) -> None:
        """Take in the newest checkpoint, which is on disk."""
        self._kept.append(kept)

    @property
    def oldest(self) -> int:
        """Number of the oldest checkpoint that is kept."""
        return self._kept[0].checkpoint if self._kept else 0

    def is_over(self, used: int) -> bool:
        """Whether *used* bytes are more than there should be."""
        return self.limits.size is not None and used > self.limits.size and not self.is_frozen

    def turn(self, used: int, written: int) -> Kept | None:
        """Drop the oldest checkpoint if it may go and should; return where the next begins, None if all stays.

        *used* bytes are taken, and *written* is the ordinal behind the last event on disk.
        """
        if self.is_frozen or len(self._kept) < 2 or written < self._kept[1].event + 2:
            return None
        if not (self.is_over(used) or self._is_too_old()):
            return None
        self._kept.popleft()
        return self._kept[0]

    def _is_too_old(self) -> bool:
        keep_ns = self.limits.keep_ns
        return keep_ns is not None and self._kept[1].guest_ns + keep_ns <= self._kept[-1].guest_ns
