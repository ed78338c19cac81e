"""What is to be different in a fork: bytes of memory where it begins, and inputs that reach it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from revirt.core import PAGE_SIZE
from revirt.errors import UsageError
from revirt.log.events import Kind
from revirt.machine.machine import Machine
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay.session import find_checkpoint

CHANGEABLE = (Kind.RECEIVED, Kind.FRAME_IN, Kind.KEYS, Kind.ENTROPY)
"""What can be dropped or replaced: what the outside world chose."""


@dataclass(frozen=True, slots=True)
class Patch:
    """*data* is to stand at *address*: a linear one, as it is mapped where the fork begins, or a *physical* one."""

    address: int
    data: bytes
    physical: bool = False

    def resolve(self, machine: Machine) -> list[tuple[int, bytes]]:
        """Return pieces of it with their physical addresses, each within a page, where *machine* stands.

        Raises UsageError for an address that is not mapped, or where there is no memory.
        """
        pieces, address, data = [], self.address, self.data
        while data:
            size = PAGE_SIZE - address % PAGE_SIZE
            physical = address if self.physical else _translate(machine, address)
            if physical is None or not 0 <= physical <= len(machine.core.ram) - len(data[:size]):
                what = "is not mapped" if physical is None else "is not in the guest's memory"
                raise UsageError(
                    f"{address:#x} {what} at {machine.moment().position}",
                    hint="go on from where it is, or patch a physical address: phys:ADDRESS=BYTES",
                )
            pieces.append((physical, data[:size]))
            address, data = address + size, data[size:]
        return pieces

    def to_plain(self) -> dict[str, Any]:
        """Return the patch as it stands in a manifest."""
        return {"address": self.address, "bytes": self.data.hex(), "physical": self.physical}


def _translate(machine: Machine, address: int) -> int | None:
    """Return the physical address of the linear *address*, None if it is not mapped, or none such."""
    return machine.core.translate(address) if 0 <= address < 1 << 64 else None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different: *patches*, and of the events of the parent, by their number, which are not to come
    (*drops*), and what is to come instead (*replacements*).  These have to be bytes that were received.
    """

    patches: tuple[Patch, ...] = ()
    drops: frozenset[int] = frozenset()
    replacements: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def events(self) -> frozenset[int]:
        """The events that do not come as they did."""
        return self.drops | self.replacements.keys()

    def check(self, recording: Recording) -> None:
        """Raise UsageError for an event that *recording* does not have, or that was not received.

        Raises RecordingError if there are events to change, and nothing of it can be replayed.
        """
        if not self.events:
            return
        received = received_between(recording, min(self.events), max(self.events))
        for number in sorted(self.events.difference(received)):
            received_between(recording, number, number)  # which tells what it is instead
        both = sorted(self.drops & self.replacements.keys())
        if both:
            raise UsageError(f"event {both[0]} cannot be dropped and be replaced")

    def position_before(self, recording: Recording) -> Position:
        """Return the last taken branch before the first of the events, or that at which *recording* begins."""
        first = next(recording.events(after=min(self.events)))
        # What came to a halted CPU came behind the branch.
        branches = first.branches - (0 if first.halted else 1)
        return Position(max(branches, find_checkpoint(recording, None).branches))


def received_between(recording: Recording, first: int, last: int) -> list[int]:
    """Return the numbers of the events from *first* to *last* in which *recording* received something.

    Raises UsageError if there are none, RecordingError if nothing of *recording* can be replayed.
    """
    find_checkpoint(recording, None)
    start, end = recording.manifest.start.event, recording.event_end
    if not start <= first <= last < end:
        raise UsageError(
            f"{recording.path.name} has no event {first if not start <= first < end else last}",
            hint=f"it has {start} to {end - 1}",
        )
    events = enumerate(islice(recording.events(after=first), last + 1 - first), first)
    found = {number: event.kind for number, event in events}
    received = [number for number, kind in found.items() if kind in CHANGEABLE]
    if not received:
        what = (
            f"event {first} is {found[first].label}"
            if first == last
            else f"none of {first}-{last} came from outside"
        )
        kinds = " ".join(f"--kind {kind.label}" for kind in CHANGEABLE)
        raise UsageError(
            f"{what}: only what came from outside can be dropped or replaced",
            hint=f"revirt events {recording.path.name} {kinds}",
        )
    return received
