"""The first event in which two recordings differ.

What a recorder wrote down for itself (digests, checkpoints, why it ended) tells nothing about the guest, and neither
does how output was cut into events.  So two series are compared: inputs and interrupts, each with its place, and the
bytes that the guests sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from revirt.log.events import Event, Kind
from revirt.recording import Recording

_COMPARED = frozenset(
    {Kind.CLOCK, Kind.RATE, Kind.RECEIVED, Kind.INTERRUPT, Kind.FRAME_IN, Kind.FRAME_OUT, Kind.STORED}
    | {Kind.DISK, Kind.ENTROPY, Kind.KEYS}
)


@dataclass(frozen=True, slots=True)
class Seen:
    """An event of a recording: its number there; ``guest_ns`` is when it came, where branches do not tell."""

    ordinal: int
    event: Event
    guest_ns: int = 0


@dataclass(frozen=True, slots=True)
class Parting:
    """What two recordings have in the same place: events that differ; None where there is nothing more."""

    a: Seen | None
    b: Seen | None

    @property
    def branches(self) -> int:
        """The branch count of the earlier one."""
        return self._place[0]

    @property
    def shows_at(self) -> int:
        """The first branch count at which a machine has the earlier one: what comes to a halted CPU comes behind it."""
        branches, halted = self._place
        return branches + halted

    @property
    def _place(self) -> tuple[int, bool]:
        return min((seen.event.branches, seen.event.halted) for seen in (self.a, self.b) if seen is not None)


class Stream:
    """The events of *recording* from number *first* on; *unsent* bytes of what it sends were sent before that."""

    def __init__(self, recording: Recording, first: int, unsent: int) -> None:
        self.end = recording.end_branches
        """The branch count up to which it tells what happened."""
        self._recording = recording
        self._first = first
        self._unsent = unsent

    def events(self) -> Iterator[Seen]:
        """Yield what reached the guest, and the interrupts that it took."""
        # By the virtual clock readings are no inputs: they say when something comes to a halted CPU.
        is_virtual = self._recording.manifest.clock == "virtual"
        reading_ns = 0
        for ordinal, event in enumerate(self._recording.events(after=self._first), self._first):
            if event.kind is Kind.CLOCK and is_virtual:
                reading_ns = event.number
            elif event.kind in _COMPARED:
                yield Seen(ordinal, event, reading_ns if is_virtual and event.halted else 0)

    def output(self) -> Iterator[tuple[Seen, bytes]]:
        """Yield what the guest sent, by events."""
        unsent = self._unsent
        for ordinal, event in enumerate(self._recording.events(after=self._first), self._first):
            if event.is_serial_output:
                data, unsent = event.data[unsent:], max(0, unsent - len(event.data))
                yield Seen(ordinal, event), data


def first_event(a: Stream, b: Stream) -> Parting | None:
    """Return the first events that differ, None if there are none as far as both recordings go."""
    for one, other in zip_longest(a.events(), b.events()):
        if one is None or other is None:
            over, more = (a, other) if one is None else (b, one)
            # At the branch where a recording ends, what the other has there may have come behind that.
            is_missing = more is not None and more.event.branches < over.end
            return Parting(one, other) if is_missing else None
        if (one.event, one.guest_ns) != (other.event, other.guest_ns):
            return Parting(one, other)
    return None


def first_output(a: Stream, b: Stream) -> Parting | None:
    """Return the events with the first bytes sent that differ; None for one that sent no more than the other."""
    left, right = _Bytes(a.output()), _Bytes(b.output())
    while True:
        is_left, is_right = left.fill(), right.fill()
        if not (is_left and is_right):
            return Parting(left.seen, right.seen) if is_left or is_right else None
        size = min(len(left.data), len(right.data))
        if left.data[:size] != right.data[:size]:
            return Parting(left.seen, right.seen)
        left.data, right.data = left.data[size:], right.data[size:]


class _Bytes:
    """Bytes in a row, and the event that the next ones are of."""

    def __init__(self, source: Iterable[tuple[Seen, bytes]]) -> None:
        self._next: Callable[[], tuple[Seen, bytes] | None] = lambda: next(events, None)
        events = iter(source)
        self.seen: Seen | None = None
        self.data = b""

    def fill(self) -> bool:
        """Have some bytes; return whether there are any."""
        while not self.data:
            found = self._next()
            if found is None:
                self.seen = None
                return False
            self.seen, self.data = found
        return True
