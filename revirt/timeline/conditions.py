"""What a search on a timeline looks for, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from revirt.log.events import Kind
from revirt.position import Position


@dataclass(frozen=True, slots=True)
class Execute:
    """The instruction at linear *address* is about to be executed."""

    address: int


@dataclass(frozen=True, slots=True)
class Write:
    """One of *size* bytes from *address* on is written, also with what it holds already.

    The address is linear, and translated once, where the search begins; or *physical*.
    """

    address: int
    size: int
    physical: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """One of *size* bytes from *address* on is read by an instruction; addresses as of `Write`."""

    address: int
    size: int
    physical: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """One of *size* bytes from *address* on is read or written; addresses as of `Write`."""

    address: int
    size: int
    physical: bool = False


@dataclass(frozen=True, slots=True)
class EventKind:
    """An event of this *kind* has come."""

    kind: Kind


Condition = Execute | Write | Read | Access | EventKind


class StopReason(StrEnum):
    """Why a move on a timeline ended."""

    STEP = "step"
    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    EVENT = "event"
    UNTIL = "until"
    START = "start"
    END = "end"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where a move ended and why; ``condition`` is the one that held.

    ``address`` is what was executed (linear) or accessed (as the condition has it).
    """

    reason: StopReason
    position: Position
    condition: Condition | None = None
    address: int | None = None
