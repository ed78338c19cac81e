"""What a search on a timeline looks for, and what it comes to.

Some conditions hold before an instruction, which is where a search for them ends, whichever way it goes.  Others are
about what an instruction does: a search going forwards ends behind it, one going backwards before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from revirt.log.events import Kind
from revirt.position import Position

if TYPE_CHECKING:
    from revirt.timeline.timeline import Timeline


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


@dataclass(frozen=True, slots=True)
class ConsoleText:
    """The guest transmits the byte with which *pattern*, a regular expression of bytes, is first found in a line.

    A line is looked at while it grows, so that a prompt is found.  It ends with a newline, or where the log cuts one
    that is longer than 1024 bytes.
    """

    pattern: bytes


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The CPU is about to take an interrupt or an exception of this *vector* (None: of any).

    It stands at the instruction that raises the exception, or at that before which it takes the interrupt.
    """

    vector: int | None = None


@dataclass(frozen=True, slots=True)
class SystemCall:
    """SYSCALL, SYSENTER or INT 0x80 is about to be executed, with *number* (None: any) in RAX."""

    number: int | None = None


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """CR3 changes, to *root* or (None) whatever: the guest turns to another set of page tables."""

    root: int | None = None


@dataclass(frozen=True, slots=True)
class Privilege:
    """The privilege level (CPL) changes, to *level* or (None) whatever."""

    level: int | None = None


@dataclass(frozen=True, slots=True)
class When:
    """*predicate*, called with the timeline, returns something true.

    It is called wherever a search for *at* would end going forwards, or, without that, at every branch whose
    number is a multiple of *every*: some 100,000 of these are looked at in a second.  It must not move the timeline.
    """

    predicate: Callable[[Timeline], object]
    at: Watched | None = None
    every: int = 1


Watched = Execute | Write | Read | Access | Interrupt | SystemCall | AddressSpace | Privilege
"""Conditions that the core looks for while the guest runs."""
Condition = Watched | EventKind | ConsoleText | When


class StopReason(StrEnum):
    """Why a move on a timeline ended."""

    STEP = "step"
    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    INTERRUPT = "interrupt"
    SYSTEM_CALL = "system call"
    ADDRESS_SPACE = "address space"
    PRIVILEGE = "privilege"
    CONSOLE = "console"
    PREDICATE = "predicate"
    EVENT = "event"
    CALL = "call"
    RETURN = "return"
    UNTIL = "until"
    START = "start"
    END = "end"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where a move ended and why; ``condition`` is the one that held.

    ``address`` is what was executed (linear) or accessed (as the condition has it), ``value`` the vector, the number of
    the system call, or what CR3 or the privilege level changed to.
    """

    reason: StopReason
    position: Position
    condition: Condition | None = None
    address: int | None = None
    value: int | None = None


def is_behind(condition: Condition) -> bool:
    """Return whether *condition* is about what an instruction does, and not about the place before it."""
    match condition:
        case When(_, at, _):
            return at is not None and is_behind(at)
        case Write() | Read() | Access() | AddressSpace() | Privilege() | ConsoleText():
            return True
    return False


def reason_of(condition: Condition) -> StopReason:
    """Return why a search ends that *condition* ends."""
    return _REASONS[type(condition)]


_REASONS: dict[type[Condition], StopReason] = {
    Execute: StopReason.BREAKPOINT,
    Write: StopReason.WATCHPOINT,
    Read: StopReason.WATCHPOINT,
    Access: StopReason.WATCHPOINT,
    Interrupt: StopReason.INTERRUPT,
    SystemCall: StopReason.SYSTEM_CALL,
    AddressSpace: StopReason.ADDRESS_SPACE,
    Privilege: StopReason.PRIVILEGE,
    ConsoleText: StopReason.CONSOLE,
    When: StopReason.PREDICATE,
    EventKind: StopReason.EVENT,
}
