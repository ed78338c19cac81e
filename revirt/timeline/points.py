"""Going to points as people name them: positions, times, shares of the way, events, checkpoints, either end."""

from __future__ import annotations

from typing import Protocol

from revirt.errors import UsageError
from revirt.position import (
    CheckpointNumber,
    Edge,
    EventNumber,
    GuestTime,
    InstructionCount,
    Position,
    Share,
    parse_point,
)
from revirt.recording import Recording


class Seekable(Protocol):
    """What can be put on a position; `revirt.timeline.Timeline` is one."""

    @property
    def recording(self) -> Recording: ...
    @property
    def start(self) -> Position: ...

    def seek(self, position: Position) -> Position: ...
    def seek_event(self, ordinal: int) -> Position: ...
    def seek_fraction(self, fraction: float) -> Position: ...
    def seek_time(self, guest_ns: int) -> Position: ...
    def seek_icount(self, instructions: int) -> Position: ...
    def seek_end(self) -> Position: ...


def seek_point(timeline: Seekable, text: str) -> Position:
    """Go to the point that *text* names, as `revirt.position.parse_point` knows it, and return its position.

    Raises UsageError for anything else, and for a point that the recording does not have.
    """
    try:
        point = parse_point(text)
    except ValueError as error:
        raise UsageError(str(error)) from error
    match point:
        case Position():
            return timeline.seek(point)
        case GuestTime(ns):
            return timeline.seek_time(ns)
        case Share(percent):
            return timeline.seek_fraction(percent / 100)
        case EventNumber(number):
            return timeline.seek_event(number)
        case CheckpointNumber(number):
            return timeline.seek(_checkpoint(timeline.recording, number))
        case InstructionCount(number):
            return timeline.seek_icount(number)
        case Edge.START:
            return timeline.seek(timeline.start)
        case Edge.END:
            return timeline.seek_end()


def _checkpoint(recording: Recording, number: int) -> Position:
    for info in recording.checkpoints:
        if info.number == number:
            return Position(info.branches)
    raise UsageError(f"the recording has no checkpoint {number}")
