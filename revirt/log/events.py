"""The vocabulary of the log: what is written down, and what each kind carries.  Imports nothing of revirt.

An event stands where it happened: ``branches`` transfers had been taken, the CPU stood at ``pc``, ``halted`` tells
a HLT in the straight line after that branch from the branch itself.  ``check`` is a 16-bit hash of the general
registers there (0 for kinds that have none).

    kind         number            data                                      replay
    CLOCK        nanoseconds       -                                         gives it to the machine
    RECEIVED     -                 the bytes                                 gives it to the machine
    TRANSMITTED  -                 the bytes                                 compares with what the guest sends
    INTERRUPT    vector            -                                         compares with what the CPU accepts
    DIGEST       -                 three 16-byte digests: CPU, RAM, devices  compares with the machine
    CHECKPOINT   its number        -                                         a place to start from
    END          -                 why, UTF-8                                stops there
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import NamedTuple


@unique
class Kind(IntEnum):
    """Kinds of event.  Numbers are part of the format: they are never reused."""

    CLOCK = 1
    RECEIVED = 2
    TRANSMITTED = 3
    INTERRUPT = 4
    DIGEST = 5
    CHECKPOINT = 6
    END = 7

    @property
    def label(self) -> str:
        """The kind's name as people type it."""
        return self.name.lower()


class Event(NamedTuple):
    """One event of a log."""

    kind: Kind
    branches: int
    halted: bool
    pc: int
    check: int = 0
    number: int = 0
    data: bytes = b""
