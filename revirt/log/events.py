"""The vocabulary of the log: what is written down, and what each kind carries.  Imports nothing of revirt.

An event stands where it happened: ``branches`` transfers had been taken, the CPU stood at ``pc``,
``halted`` tells a HLT in the straight line after that branch from the branch itself.  ``check`` is a 16-bit
hash of the general registers there (0 for kinds that have none).

    kind         number            data                                      replay
    CLOCK        nanoseconds       -                                         gives it to the machine
    RECEIVED     port              the bytes                                 gives it to the machine
    TRANSMITTED  port              the bytes                                 compares with what the guest does
    INTERRUPT    vector            -                                         compares with what the CPU does
    DIGEST       hash of events    three 16-byte digests: CPU, RAM, devices  compares with the machine
    CHECKPOINT   its number        16-byte digest of its machine state       a place to start from
    END          hash of events    why, UTF-8                                stops there
    RATE         ns per branch     -                                         gives it to the machine
    FRAME_IN     network card      an Ethernet frame                         gives it to the machine
    FRAME_OUT    network card      an Ethernet frame                         compares with what the guest does
    DISK         ticket            which disk, 1 byte                        lets the request take effect
    STORED       sector            disk, length, hash: see `STORED_DATA`     compares with what the guest does
    ENTROPY      -                 random bytes                              gives them to the machine
    KEYS         -                 scan codes of set 2                       gives them to the machine

A console's port is 0 for the serial line, 1 for the virtio console.  Network cards and disks count from 0.

Digests are BLAKE2b-128; that of RAM is made from the 64-bit hashes of all pages in a row.  The hash of events is
`revirt.log.chain`'s.  A CHECKPOINT comes right after the DIGEST of the same moment, and flushes
the CPU's TLB: whoever starts from the checkpoint has an empty one, too.

Output is cut into events by the guest alone: at a newline, at `LINE_LIMIT` bytes, and before an event whose
order against it matters.  So two runs with the same inputs have the same events.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum, unique
from typing import NamedTuple

LINE_LIMIT = 1024
"""Most bytes in one TRANSMITTED event."""


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
    RATE = 8
    FRAME_IN = 9
    FRAME_OUT = 10
    DISK = 11
    STORED = 12
    ENTROPY = 13
    KEYS = 14

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

    @property
    def is_serial_output(self) -> bool:
        """Whether this is what the guest sent on its serial line."""
        return self.kind is Kind.TRANSMITTED and not self.number


DIGEST_SIZE = 16
"""Bytes of each of the three digests in a DIGEST."""

STORED_DATA = struct.Struct("<BI8s")
"""What a STORED carries: the number of the disk, how many bytes were written, and their BLAKE2b-64."""


def stored_data(disk: int, data: bytes) -> bytes:
    """Return what a STORED carries for *data* that was written to *disk*."""
    return STORED_DATA.pack(disk, len(data), hashlib.blake2b(data, digest_size=8).digest())
