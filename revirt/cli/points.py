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


def branches_between(
    recording: Recording, first: Point | InstructionCount | None, last: Point | InstructionCount | None
) -> tuple[int, int | None]:
    """Return the branch counts of the two points, 0 and None for those that are not given."""
    if first is None and last is None:
        return 0, None
    # Imported here: listing what is on disk needs no CPU core.
    from revirt.replay import branches_at

    ends = [
        branches_at(recording, point_of(recording, each)) if each is not None else None
        for each in (first, last)
    ]
    return ends[0] or 0, ends[1]
