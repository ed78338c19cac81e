"""Conditions and stops as people write and read them.

    execute ADDRESS
    write ADDRESS [SIZE]      read, access likewise; linear addresses
    console REGEX
    event KIND
    interrupt [VECTOR]
    syscall [NUMBER]
    cr3 [ROOT]
    cpl [LEVEL]

Numbers are decimal, or hexadecimal with 0x; whoever asks may know more, such as symbols.  A range is as long as a word
unless its size is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from revirt.errors import UsageError
from revirt.log.events import Kind
from revirt.position import Position
from revirt.recording import Recording
from revirt.render import size
from revirt.timeline.conditions import (
    Access,
    AddressSpace,
    Condition,
    ConsoleText,
    EventKind,
    Execute,
    Interrupt,
    Privilege,
    Read,
    Stopped,
    StopReason,
    SystemCall,
    Write,
)

CONDITIONS: Final = (
    "execute ADDRESS, write|read|access ADDRESS [SIZE], console REGEX, event KIND, interrupt [VECTOR], "
    "syscall [NUMBER], cr3 [ROOT], cpl [LEVEL]"
)
"""All of them, for help texts."""
KINDS: Final = (
    "execute",
    "write",
    "read",
    "access",
    "console",
    "event",
    "interrupt",
    "syscall",
    "cr3",
    "cpl",
)
"""The words that they begin with."""

_MEMORY: Final[Mapping[str, Callable[[int, int], Condition]]] = {
    "write": Write,
    "read": Read,
    "access": Access,
}
_SYSTEM: Final[Mapping[str, Callable[..., Condition]]] = {
    "interrupt": Interrupt,
    "syscall": SystemCall,
    "cr3": AddressSpace,
    "cpl": Privilege,
}
_LARGEST_RANGE = 1 << 16
_LONGEST_NUMBER = 20


def parse_number(text: str) -> int:
    """Return the number written in *text*, decimal or with 0x; raises UsageError if it is none below 2**64."""
    try:
        number = int(text, 0) if len(text) <= _LONGEST_NUMBER and text[:1].isdigit() else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise UsageError(f"{text!r} is not a number")
    return number


def parse_condition(
    words: Sequence[str],
    evaluate: Callable[[str], int] = parse_number,
    word_size: int = 8,
) -> Condition:
    """Return the condition that *words* describe; raises UsageError for what is none.

    *evaluate* returns what a number or an address comes to, and raises UsageError; *word_size* is in bytes.
    """
    match list(words):
        case ["console", *pattern] if pattern:
            return ConsoleText(" ".join(pattern).encode())
        case ["event", kind] if kind.upper() in Kind.__members__:
            return EventKind(Kind[kind.upper()])
        case ["execute", address]:
            return Execute(evaluate(address))
        case [("write" | "read" | "access") as word, address, *size] if len(size) <= 1:
            return _MEMORY[word](*_range(evaluate(address), evaluate(size[0]) if size else word_size))
        case [("interrupt" | "syscall" | "cr3" | "cpl") as word, *value] if len(value) <= 1:
            return _SYSTEM[word](*map(evaluate, value))
    raise UsageError(f"{' '.join(words)!r} is no condition", hint=f"write {CONDITIONS}")


def _range(address: int, size: int) -> tuple[int, int]:
    if not 1 <= size <= min(_LARGEST_RANGE, (1 << 64) - address):
        raise UsageError(f"a range of {size} bytes is not looked for there; 1 to {_LARGEST_RANGE} are")
    return address, size


def facts(recording: Recording, start: Position, end: Position) -> dict[str, object]:
    """Return what *recording* is, and that it can be looked at from *start* to *end*, each thing by its name."""
    return {
        "path": recording.path,
        "uuid": recording.manifest.uuid,
        "state": recording.state,
        "guest": recording.manifest.guest.get("name"),
        "clock": recording.manifest.clock,
        "memory": size(recording.manifest.machine["memory"]),
        "kept": f"{start} to {end}",
        "events": f"{recording.event_end - recording.event_count} to {recording.event_end - 1}",
        "created": recording.manifest.created,
    }


def describe(stopped: Stopped) -> str:
    """Return in a few words why a move ended."""
    match stopped.reason:
        case StopReason.INTERRUPT:
            return f"interrupt {stopped.value:#04x}"
        case StopReason.SYSTEM_CALL:
            return f"system call {stopped.value}"
        case StopReason.ADDRESS_SPACE:
            return f"cr3 {stopped.value:#x}"
        case StopReason.PRIVILEGE:
            return f"privilege level {stopped.value}"
        case StopReason.WATCHPOINT | StopReason.BREAKPOINT if stopped.address is not None:
            return f"{stopped.reason} {stopped.address:#x}"
    return str(stopped.reason)
