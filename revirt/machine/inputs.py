"""The seam for nondeterminism: everything that a machine cannot compute from its own state.

A machine asks its `Inputs`; who answers decides what the run is.  The monitor answers from the host (and writes
the answer down), the replayer from a recording.  The machine cannot tell which, and runs the same code for both.

Rules:
- What is not an `Arrival` is computed from machine state.  docs/determinism.md lists every source by name.
- Arrivals land only where the core stands on a taken branch, or halted: a `Moment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from revirt.position import Position


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """A place where something from outside may reach the machine.

    ``branches`` transfers have been taken; the CPU stands at ``pc`` (its instruction pointer register), right after
    the last of them, or, when ``halted``, behind a HLT instruction in the straight line that followed it.
    """

    branches: int
    halted: bool
    pc: int

    @property
    def position(self) -> Position:
        """Position of the last taken branch (the steps up to a HLT are not counted in normal runs)."""
        return Position(self.branches)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The host's clock: the machine's clock jumps to ``ns`` (nanoseconds since the guest started)."""

    ns: int


@dataclass(frozen=True, slots=True)
class ClockRate:
    """How fast the host lets the guest go: from here the machine's clock runs at *ns_per_branch*."""

    ns_per_branch: int


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that arrived for a console: *port* 0 is the serial line, 1 the virtio console."""

    data: bytes
    port: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame, without its check sequence, that arrived for network card *nic* (from 0)."""

    nic: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DiskDone:
    """The host is done with request *ticket* of *disk* (from 0): it takes effect now."""

    disk: int
    ticket: int


@dataclass(frozen=True, slots=True)
class Entropy:
    """Random bytes, for whoever asked for them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Keys:
    """What a keyboard sends: scan codes of set 2."""

    scancodes: bytes


@dataclass(frozen=True, slots=True)
class Halt:
    """Not for the guest: whoever runs the machine wants `Machine.run` to return, and says why."""

    reason: str


Arrival = ClockReading | ClockRate | Received | Frame | DiskDone | Entropy | Keys | Halt


class Inputs(Protocol):
    """Where a machine gets what it cannot compute, and tells what an observer may check."""

    def horizon(self, branches: int) -> int:
        """Return the branch count (beyond *branches*) up to which the machine may run without asking again."""
        ...

    def arrivals(self, moment: Moment) -> Sequence[Arrival]:
        """Return what arrives at *moment*, in order; called whenever the machine stands at one."""
        ...

    def idle(self, moment: Moment, wake_ns: int | None) -> Sequence[Arrival]:
        """Return what ends a halt: called instead of running while nothing can happen inside the machine.

        *wake_ns* is the machine time of its next timer, None if no timer is armed.  An empty answer lets the clock
        jump to *wake_ns*.
        """
        ...

    def interrupted(self, moment: Moment, vector: int) -> None:
        """Told of every interrupt the CPU accepts, before its handler runs."""
        ...

    def transmitted(self, character: bytes) -> None:
        """Told of every character that the guest sends on the serial line."""
        ...

    def printed(self, moment: Moment, port: int, data: bytes, /) -> None:
        """Told of the bytes that the guest sends to a console other than the serial line."""
        ...

    def sent(self, moment: Moment, nic: int, frame: bytes, /) -> None:
        """Told of every frame that network card *nic* sends."""
        ...

    def stored(self, moment: Moment, disk: int, sector: int, data: bytes, /) -> None:
        """Told of every write to *disk* when it takes effect; *sector* is of 512 bytes."""
        ...
