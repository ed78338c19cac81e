"""The guest's time at events, which a log by the virtual clock does not tell: by a replay."""

from __future__ import annotations

from collections.abc import Iterator

from revirt.log.events import Event
from revirt.position import Point
from revirt.recording import Recording
from revirt.replay.points import checkpoint_before
from revirt.replay.session import ReplaySession

_AT_ONCE = 1_000_000


def event_times(recording: Recording, start: Point) -> Iterator[tuple[int, int]]:
    """Yield the numbers of events and the guest's time at each, in nanoseconds, from the checkpoint before *start* on.

    Replays as far as it is asked.  Raises DivergenceError if the replay differs, and as `ReplaySession`.
    """
    passed: list[tuple[int, int]] = []

    def note(_event: Event) -> None:
        # It counts an event before it tells of it.
        passed.append((session.replayer.next_event - 1, session.machine.clock.now_ns))

    info = checkpoint_before(recording, start)
    session = ReplaySession(recording, checkpoint=info.number, on_event=note)
    is_running = True
    while is_running:
        stop = session.run(session.machine.core.branches + _AT_ONCE)
        is_running = stop.ended is None and stop.halted is None
        yield from passed
        passed.clear()
