"""The stretches of a recording, from one checkpoint to the next or to the end: each has an index of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from revirt.checkpoint import CheckpointInfo
from revirt.index.format import MAX_STRETCH, stretch_name
from revirt.recording import Recording, layout


@dataclass(frozen=True, slots=True)
class Stretch:
    """What follows the checkpoint ``info``: the events from ``first_event`` to before ``event_end``.

    ``end`` is the branch count at which the next checkpoint stands, or behind which nothing is known any more;
    ``is_last`` says which of the two.
    """

    info: CheckpointInfo
    event_end: int
    end: int
    is_last: bool

    @property
    def number(self) -> int:
        """That of the checkpoint it begins with."""
        return self.info.number

    @property
    def first_event(self) -> int:
        """The ordinal of its first event, that behind the CHECKPOINT."""
        return self.info.event + 1

    @property
    def begin(self) -> int:
        """Its first branch that a replay comes to: a CPU that is halted stands somewhere on the line before."""
        return self.info.branches + self.info.halted

    def directory(self, recording: Recording) -> Path:
        """Return where its index is kept."""
        return recording.path / layout.INDEX / stretch_name(self.number)


def stretches_of(recording: Recording) -> list[Stretch]:
    """Return the stretches of *recording* that can have an index, in order."""
    return [each for each in _all(recording) if each.number < MAX_STRETCH]


def _all(recording: Recording) -> Iterator[Stretch]:
    infos = recording.checkpoints
    for info, following in pairwise(infos):
        yield Stretch(info, following.event + 1, following.branches + following.halted, is_last=False)
    for info in infos[-1:]:
        yield Stretch(info, recording.event_end, recording.end_branches, is_last=True)
