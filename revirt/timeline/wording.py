"""Conditions and stops as people write and read them.

    execute ADDRESS
    write ADDRESS [SIZE]      read, access likewise; linear addresses
    console REGEX
    event KIND
    interrupt [VECTOR]
    syscall [NUMBER]
    cr3 [ROOT]
    cpl [LEVEL]

Numbers are decimal, or hexadecimal with 0x.  A range is 8 bytes long unless its size is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from revirt.errors import UsageError
from revirt.log.events import Kind
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
_WORD_SIZE = 8
_LARGEST_RANGE = 1 << 16
_LONGEST_NUMBER = 20


def parse_condition(words: Sequence[str]) -> Condition:
    """Return the condition that *words* describe; raises UsageError for what is none."""
    match list(words):
        case ["console", *pattern] if pattern:
            return ConsoleText(" ".join(pattern).encode())
        case ["event", kind] if kind.upper() in Kind.__members__:
            return EventKind(Kind[kind.upper()])
        case ["execute", address]:
            return Execute(parse_number(address))
        case [("write" | "read" | "access") as word, address]:
            return _MEMORY[word](parse_number(address), _WORD_SIZE)
        case [("write" | "read" | "access") as word, address, size]:
            if not 1 <= parse_number(size) <= _LARGEST_RANGE:
                raise UsageError(f"a range of {size} bytes is not looked for; 1 to {_LARGEST_RANGE} are")
            return _MEMORY[word](parse_number(address), parse_number(size))
        case [("interrupt" | "syscall" | "cr3" | "cpl") as word]:
            return _SYSTEM[word]()
        case [("interrupt" | "syscall" | "cr3" | "cpl") as word, value]:
            return _SYSTEM[word](parse_number(value))
    raise UsageError(f"{' '.join(words)!r} is no condition", hint=f"write {CONDITIONS}")


def parse_number(text: str) -> int:
    """Return the number written in *text*, decimal or with 0x; raises UsageError if it is none below 2**64."""
    try:
        number = int(text, 0) if len(text) <= _LONGEST_NUMBER and text[:1].isdigit() else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise UsageError(f"{text!r} is not a number")
    return number


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
