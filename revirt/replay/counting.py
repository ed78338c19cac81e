"""Instruction counts of events, which normal runs do not take: derived by a replay that counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from revirt.log.events import Event
from revirt.recording import Recording
from revirt.replay.session import ReplaySession


def count_instructions(recording: Recording) -> Iterator[tuple[Event, int]]:
    """Yield every event from the first checkpoint on, with the instructions executed before it.

    Each iteration of a repeated string instruction counts as one.  Raises DivergenceError if the replay differs.
    """
    passed: list[tuple[Event, int]] = []
    session = ReplaySession(
        recording, on_event=lambda event: passed.append((event, session.machine.core.instructions))
    )
    session.machine.core.counting = True
    is_running = True
    while is_running:
        stop = session.run(session.machine.core.branches + 1_000_000)
        is_running = stop.ended is None and stop.halted is None
        yield from passed
        passed.clear()


def total_instructions(recording: Recording) -> int:
    """Return how many instructions were executed from the first checkpoint to the last event.

    Raises DivergenceError if the replay differs.
    """
    last = deque(count_instructions(recording), maxlen=1)
    return last[0][1] if last else 0
