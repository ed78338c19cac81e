"""QEMU's firmware configuration device: where a firmware learns what it runs on.

QEMU, docs/specs/fw_cfg.rst: *items* of bytes, each with a 16-bit key.  A write to the selector chooses one; reading the
data register gives it byte by byte, and zeros behind its end.  Of the transports only the two ports are here: the
feature item says so, and firmware does without DMA.

    offset   port    register
    0        0x510   selector: 16-bit writes
    1        0x511   data: 8-bit reads; writes are lost (as in QEMU since 2.4)

Rules:
- What the items hold follows from how the machine is built and from its flash memory, which no guest can write.  The
  state is only which is selected, and how far it is read.
- Numbers in the items that are known by their keys are little-endian; the directory of files is big-endian.
"""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass

from revirt.image.firmware import COUNT, DIRECTORY_SIZE, ENTRY, FIRST_KEY, MOST_FILES
from revirt.machine.state import U16, U32, State

SELECTOR = 0
DATA = 1

SIGNATURE = 0x0000
FEATURES = 0x0001
RAM_SIZE = 0x0003
NO_GRAPHIC = 0x0004
"""Not 0: what is shown on a screen, if there is one, is also sent on the serial line, and keys come from there."""
CPU_COUNT = 0x0005
MOST_CPUS = 0x000F
FILE_DIRECTORY = 0x0019

FEATURE_PORTS = 0x01
"""The traditional interface; bit 1 would be DMA."""


@dataclass
class FwCfgState(State):
    """The item that is selected, and how many of its bytes are read."""

    key: U16 = 0
    offset: U32 = 0


class FwCfg:
    """The device of a PC with one CPU and *memory_size* bytes of RAM; its files are in *flash*."""

    name = "fw_cfg"

    def __init__(self, flash: memoryview, *, memory_size: int) -> None:
        self._flash = flash
        self._items = {
            SIGNATURE: b"QEMU",
            FEATURES: struct.pack("<I", FEATURE_PORTS),
            RAM_SIZE: struct.pack("<Q", memory_size),
            NO_GRAPHIC: struct.pack("<H", 1),
            CPU_COUNT: struct.pack("<H", 1),
            MOST_CPUS: struct.pack("<H", 1),
        }
        self._state = FwCfgState()
        self._item: bytes | memoryview | None = None

    def read(self, offset: int, _size: int) -> int:
        """Return the next byte of the selected item."""
        if offset != DATA:
            return 0xFF
        s = self._state
        if self._item is None:
            self._item = self._find(s.key)
        if s.offset >= len(self._item):
            return 0
        s.offset += 1
        return self._item[s.offset - 1]

    def write(self, offset: int, size: int, value: int) -> None:
        """Select the item whose key is *value*."""
        if offset == SELECTOR and size == 2:
            self.restore(FwCfgState(key=value))

    def save(self) -> FwCfgState:
        """Return a copy of the state."""
        return copy.copy(self._state)

    def restore(self, state: FwCfgState) -> None:
        """Replace the state."""
        self._state = copy.copy(state)
        # Looked up when it is read: the flash may be restored after this.
        self._item = None

    def _find(self, key: int) -> bytes | memoryview:
        if key < FIRST_KEY:
            return self._flash[:DIRECTORY_SIZE] if key == FILE_DIRECTORY else self._items.get(key, b"")
        (count,) = COUNT.unpack_from(self._flash)
        start = DIRECTORY_SIZE
        for place in range(min(count, MOST_FILES)):
            size, its_key, _, _ = ENTRY.unpack_from(self._flash, COUNT.size + place * ENTRY.size)
            if its_key == key:
                return self._flash[start : start + size]
            start += size
        return b""
