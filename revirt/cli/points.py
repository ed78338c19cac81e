"""Points that commands are given: those that only counting finds become positions."""

from __future__ import annotations

from revirt.position import InstructionCount, Point
from revirt.recording import Recording


def point_of(recording: Recording, point: Point | InstructionCount) -> Point:
    """Return *point*, as a position if it is an instruction count; raises UsageError if *recording* has none such."""
    if not isinstance(point, InstructionCount):
        return point
    # Imported here: all other points are found without a machine.
    from revirt.timeline import Timeline

    return Timeline(recording).seek_icount(point.number)
