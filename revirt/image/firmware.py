"""A PC's firmware, and the flash memory that it comes in.

The machine keeps its flash where the guest cannot write: in the store behind RAM (see `revirt.core.Core`), from its
beginning.  The image of a guest that boots like a PC is what is in the flash:

    0          directory: count u32 BE, then an entry of 64 bytes for each file:
               size u32 BE, key u16 BE, 0 u16, name (56 bytes, with its terminating zero)
    4 KiB      the files, in the order of the directory, one right behind the other
    the rest   zeros, and at the end the BIOS, as it ends at 4 GiB of a PC's addresses

The directory is as QEMU's fw_cfg device shows it to firmware (docs/specs/fw_cfg.rst, "File Directory"); keys count up
from 0x20.  An image of a BIOS alone, as firmware packages have it, is flash without files.

A PC copies the end of its flash to below 1 MiB and starts there, as does `load_bios`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from revirt.errors import ImageError
from revirt.image.boot import Boot, CpuStart, Mode
from revirt.image.layout import HIGH_MEMORY_START, Layout

FLASH_SIZE = 512 << 10
DIRECTORY_SIZE = 4096
FIRST_KEY = 0x20
ENTRY = struct.Struct(">IHH56s")
COUNT = struct.Struct(">I")
MOST_FILES = (DIRECTORY_SIZE - COUNT.size) // ENTRY.size

RESET_VECTOR = 0xFFFF0
"""Where the CPU starts: 16 bytes below 1 MiB (Intel SDM volume 3, 10.1.4, as an 8086 has it)."""

_BIOS_SIZES = (64 << 10, 128 << 10, 256 << 10)
_SHADOW_SIZE = 256 << 10
"""A BIOS is copied to at most here below 1 MiB: from the end of video memory on."""


def flash(bios: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return the image of a flash memory with *bios* and *files* by name.

    Raises ValueError for a BIOS of a size that there is none of, and for more files than fit.
    """
    contents = b"".join(files.values())
    room = FLASH_SIZE - DIRECTORY_SIZE - len(bios) - len(contents)
    if len(bios) not in _BIOS_SIZES or room < 0 or len(files) > MOST_FILES:
        raise ValueError(f"a BIOS of {len(bios)} bytes and {len(files)} files of {len(contents)}")
    return directory({name: len(data) for name, data in files.items()}) + contents + bytes(room) + bios


def directory(sizes: Mapping[str, int]) -> bytes:
    """Return the directory of files of these *sizes* by name; raises ValueError for a name that does not fit."""
    entries = [COUNT.pack(len(sizes))]
    for key, (name, size) in enumerate(sizes.items(), FIRST_KEY):
        raw = name.encode("ascii")
        if not 0 < len(raw) < 56:
            raise ValueError(f"{name!r} is no name of a file in flash memory")
        entries.append(ENTRY.pack(size, key, 0, raw))
    return b"".join(entries).ljust(DIRECTORY_SIZE, b"\0")


def load_bios(path: Path, data: bytes, memory: int) -> Boot:
    """Return the flash image *data*, read from *path*, for a machine with *memory* bytes of RAM, and its reset.

    The image goes behind RAM.  Raises ImageError if it is none.
    """
    if len(data) in _BIOS_SIZES:
        data = flash(data, {})
    if len(data) != FLASH_SIZE:
        raise ImageError(
            f"not a PC's firmware: {len(data)} bytes",
            path=path,
            hint="a BIOS has 64K, 128K or 256K",
        )
    layout = Layout(memory, path)
    shadow = data[-_SHADOW_SIZE:]
    layout.put(HIGH_MEMORY_START - _SHADOW_SIZE, shadow, "the firmware")
    boot = layout.boot(CpuStart(Mode.REAL, RESET_VECTOR))
    return Boot((*boot.writes, (memory, data)), boot.cpu)
