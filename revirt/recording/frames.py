"""The network frames of a recording, as its log has them, and the guest's time at events as far as the log tells.

By the host's clock it tells all: the clock's rate, where it was set, and how far it ran between, in branches.  By the
virtual clock it does not: an idle guest's clock goes from timer to timer without an event, so only a replay knows.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import msgpack

from revirt.errors import CorruptError
from revirt.log.events import Event, Kind
from revirt.machine.clock import ClockState
from revirt.machine.state import from_plain
from revirt.recording.reader import Recording

_DIRECTIONS = {Kind.FRAME_IN: True, Kind.FRAME_OUT: False}


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """An Ethernet frame that network *card* took (*is_inbound*) or sent: event number *ordinal*.

    ``guest_ns`` is the guest's time, None if the log does not tell.
    """

    ordinal: int
    branches: int
    halted: bool
    guest_ns: int | None
    is_inbound: bool
    card: int
    data: bytes


def recorded_frames(recording: Recording) -> Iterator[RecordedFrame]:
    """Yield the frames of *recording*, in order; raises as `Recording.events`."""
    for ordinal, event, guest_ns in timed_events(recording, _DIRECTIONS):
        is_inbound = _DIRECTIONS[event.kind]
        yield RecordedFrame(
            ordinal, event.branches, event.halted, guest_ns, is_inbound, event.number, event.data
        )


def timed_events(recording: Recording, kinds: Container[Kind]) -> Iterator[tuple[int, Event, int | None]]:
    """Yield the events of *kinds* with their ordinals and the guest's time at each, None where the log does not tell.

    Raises as `Recording.events`.
    """
    clock: LogClock | None = None
    is_told = recording.manifest.clock == "host"
    checkpoints = {info.event: info.number for info in recording.checkpoints} if is_told else {}
    for ordinal, event in enumerate(recording.events(), recording.manifest.start.event):
        if clock is not None:
            clock.follow(event)
        elif ordinal in checkpoints:
            clock = LogClock.at_checkpoint(recording, checkpoints[ordinal])
        if event.kind in kinds:
            yield ordinal, event, clock.ns_at(event.branches) if clock is not None else None


class LogClock:
    """The clock of a guest that goes by the host's, from the events of its log: see `revirt.machine.clock`."""

    def __init__(self, state: ClockState) -> None:
        self._base_ns = state.base_ns
        self._base_branches = state.base_branches
        self._ns_per_branch = state.ns_per_branch

    @classmethod
    def at_checkpoint(cls, recording: Recording, number: int) -> LogClock:
        """Return the clock as checkpoint *number* has it; raises CorruptError if that has none."""
        try:
            plain = msgpack.unpackb(recording.load_checkpoint(number).state)
            return cls(from_plain(ClockState, plain["clock"]))
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise CorruptError(recording.checkpoint_path(number), f"tells no time: {error}") from error

    def ns_at(self, branches: int) -> int:
        """Return the time at that branch count, if nothing has set the clock since."""
        return self._base_ns + (branches - self._base_branches) * self._ns_per_branch

    def follow(self, event: Event) -> None:
        """Take in what *event* does to the clock."""
        if event.kind is Kind.CLOCK:
            self._set(max(event.number, self.ns_at(event.branches)), event.branches)
        elif event.kind is Kind.RATE:
            self._set(self.ns_at(event.branches), event.branches)
            self._ns_per_branch = event.number

    def _set(self, ns: int, branches: int) -> None:
        self._base_ns, self._base_branches = ns, branches
