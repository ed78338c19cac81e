"""Finding the points of a recording that people name: the checkpoint before one, and the branch count at it.

Of most the log or a checkpoint tells.  Of a time it does not: an idle guest's clock goes from timer to timer without
an event, so the stretch behind the checkpoint before it is replayed, and the machine's clock is asked.
"""

from __future__ import annotations

from revirt.errors import UsageError
from revirt.log.events import Event, Kind
from revirt.position import CheckpointNumber, Edge, EventNumber, GuestTime, Point, Position, Share
from revirt.recording import CheckpointInfo, Recording
from revirt.replay.session import ReplaySession, find_checkpoint, how_lost


def checkpoint_before(recording: Recording, point: Point) -> CheckpointInfo:
    """Return the newest checkpoint of *recording* at or before *point*.

    Raises UsageError if *point* is not in the recording, RecordingError if that has no checkpoint.
    """
    oldest = find_checkpoint(recording, None)
    infos = recording.checkpoints
    match point:
        case Edge.START:
            return oldest
        case Edge.END:
            return infos[-1]
        case CheckpointNumber(number):
            return find_checkpoint(recording, number)
        case EventNumber(number):
            _check_event(recording, number)
            # A checkpoint begins with its DIGEST.
            before = [info for info in infos if info.event - 1 <= number]
        case GuestTime(ns):
            before = [info for info in infos if info.guest_ns <= ns]
        case Share():
            return checkpoint_before(recording, Position(branches_at(recording, point)))
        case Position():
            _check_position(recording, point)
            # Where the CPU was halted, it had gone on from the branch; but the oldest is as early as it gets.
            here = (point.branches, False)
            before = [info for info in infos if info is oldest or (info.branches, info.halted) <= here]
    if not before:
        raise _lost(recording, point)
    return before[-1]


def branches_at(recording: Recording, point: Point) -> int:
    """Return the branch count at *point* of *recording*: that of the last taken branch at or before it.

    For a time that is the last one at which nothing has happened later than that.  Raises UsageError if *point* is not
    in the recording, RecordingError if that has no checkpoint, DivergenceError if the replay for a time goes wrong.
    """
    match point:
        case Edge.START | CheckpointNumber():
            return checkpoint_before(recording, point).branches
        case Edge.END:
            return recording.end_branches
        case EventNumber(number):
            _check_event(recording, number)
            return next(recording.events(after=number)).branches
        case GuestTime():
            return _branches_at_time(recording, point)
        case Share():
            return point.between(find_checkpoint(recording, None).branches, recording.end_branches)
        case Position():
            _check_position(recording, point)
            return point.branches


def _branches_at_time(recording: Recording, time: GuestTime) -> int:
    """Replay from the checkpoint before *time* to the first event that is later."""
    found: list[int] = []

    def look(event: Event) -> None:
        clock = session.machine.clock
        now_ns = max(clock.now_ns, event.number if event.kind is Kind.CLOCK else 0)
        # More may be passed before the machine stops.
        if now_ns > time.ns and not found:
            found.append(min(event.branches, clock.branches_at(time.ns + 1)) - 1)
            session.replayer.stop("the time asked for has passed")

    start = checkpoint_before(recording, time)
    session = ReplaySession(recording, checkpoint=start.number, on_event=look)
    session.run()
    clock = session.machine.clock
    if not found:
        if clock.now_ns < time.ns:
            hint = f"it ends at {GuestTime(clock.now_ns)}"
            raise UsageError(f"{recording.path.name} ends before {time}", hint=hint)
        found.append(min(recording.end_branches, clock.branches_at(time.ns + 1) - 1))
    # Where the CPU was halted at the checkpoint, and for long, something later may stand at its very branch.
    return max(start.branches, found[0])


def _check_position(recording: Recording, position: Position) -> None:
    if position.branches < find_checkpoint(recording, None).branches:
        raise _lost(recording, position)
    if position.branches > recording.end_branches:
        raise UsageError(
            f"{recording.path.name} ends before {position}", hint=f"it ends at {recording.end_branches}:0"
        )


def _check_event(recording: Recording, number: int) -> None:
    if number < recording.manifest.start.event:
        raise _lost(recording, EventNumber(number))
    if number >= recording.event_end:
        raise UsageError(
            f"{recording.path.name} has no event {number}", hint=f"its last is {recording.event_end - 1}"
        )


def _lost(recording: Recording, point: Point) -> UsageError:
    oldest = find_checkpoint(recording, None)
    where = f"{oldest.branches}:0, {GuestTime(oldest.guest_ns)}"
    return UsageError(
        f"{point} of {recording.path.name} {how_lost(recording)}",
        hint=f"the oldest left is checkpoint {oldest.number}, at {where} and event {oldest.event - 1}",
    )
