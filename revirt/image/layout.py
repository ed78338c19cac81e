"""Where the parts of an image go in guest memory.

A `Layout` collects the writes of a `Boot`.  Two parts never overlap and nothing lies outside memory, whatever
addresses a hostile image asks for; so the bytes collected are never more than the memory of the machine.

    0x00000  interrupt vectors and BIOS data area, left alone 0x01000  tables and structures that a loader
    adds: first fit, `Layout.place` 0x9fc00  end of conventional memory; above it a PC keeps its extended BIOS
    data area, video memory and ROMs 1 MiB    images that ask for no particular address in low memory
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple

from revirt.errors import ImageError
from revirt.image.boot import PAGE_SIZE, Boot, CpuStart

MIB = 1 << 20
LOW_MEMORY_START = 0x1000
LOW_MEMORY_END = 0x9FC00
HIGH_MEMORY_START = 0x100000
MIN_MEMORY = HIGH_MEMORY_START
MAX_MEMORY = 3 << 30
"""RAM ends below the last GiB of the 32-bit address space, which belongs to devices."""

GDT_LIMIT = 31
_NULL = 0
# Flat 4 GiB segments (Intel SDM vol. 3, 3.4.5), with the accessed bit set: loading them writes nothing to the
# GDT.
_CODE_32 = 0x00CF9B000000FFFF
_CODE_64 = 0x00AF9B000000FFFF
_DATA = 0x00CF93000000FFFF

_PRESENT_WRITABLE = 0x3
_PAGE_2M = 0x80
_TABLE_ENTRIES = 512
_GIB_MAPPED = 4


class Region(NamedTuple):
    """A range of physical memory, as a firmware's memory map lists it."""

    start: int
    size: int
    is_usable: bool


class _Part(NamedTuple):
    start: int
    end: int
    what: str


def memory_map(memory: int, usable: int | None = None) -> tuple[Region, ...]:
    """Return the memory map of a PC with *memory* bytes, ascending; what is from *usable* on is a device's."""
    end = memory if usable is None else usable
    regions = (
        Region(0, LOW_MEMORY_END, True),
        Region(LOW_MEMORY_END, HIGH_MEMORY_START - LOW_MEMORY_END, False),
        Region(HIGH_MEMORY_START, end - HIGH_MEMORY_START, True),
    )
    return regions if end == memory else (*regions, Region(end, memory - end, False))


def flat_gdt(*, is_64bit: bool) -> bytes:
    """Return a GDT with a flat code segment at selector 0x10 and a flat data segment at 0x18."""
    return struct.pack("<4Q", _NULL, _NULL, _CODE_64 if is_64bit else _CODE_32, _DATA)


def identity_tables(base: int) -> bytes:
    """Return page tables, to be put at physical *base*, that map the first 4 GiB onto themselves.

    One PML4, one page directory pointer table and four page directories of 2 MiB pages (Intel SDM vol. 3,
    4.5).
    """
    pointers = base + PAGE_SIZE
    directories = pointers + PAGE_SIZE
    pml4 = [pointers | _PRESENT_WRITABLE] + [0] * (_TABLE_ENTRIES - 1)
    pdpt = [directories + index * PAGE_SIZE | _PRESENT_WRITABLE for index in range(_GIB_MAPPED)]
    pdpt += [0] * (_TABLE_ENTRIES - _GIB_MAPPED)
    pages = [index << 21 | _PAGE_2M | _PRESENT_WRITABLE for index in range(_GIB_MAPPED * _TABLE_ENTRIES)]
    return struct.pack(f"<{len(pml4 + pdpt + pages)}Q", *pml4, *pdpt, *pages)


IDENTITY_TABLES_SIZE = (2 + _GIB_MAPPED) * PAGE_SIZE


def in_mib(size: int) -> str:
    """Return *size* bytes in MiB, rounded up, as it may be given to ``--memory``."""
    return f"{-(-size // MIB)}M"


class Layout:
    """The parts of an image, by physical address; *path* is the image file that errors name."""

    def __init__(self, memory: int, path: Path) -> None:
        self.memory = memory
        self.path = path
        self._parts: list[_Part] = []
        self._writes: list[tuple[int, bytes | memoryview]] = []

    @property
    def end(self) -> int:
        """The first address above every part."""
        return max((part.end for part in self._parts), default=0)

    def require(self, end: int, what: str) -> None:
        """Raise ImageError, telling how much memory it takes, if *what*, ending at *end*, does not fit."""
        if end > self.memory:
            needed = (
                f"at least {in_mib(end)} of memory" if end <= MAX_MEMORY else "more than a machine can have"
            )
            raise ImageError(
                f"{what} ends at {end:#x}; the machine has {in_mib(self.memory)} of memory",
                path=self.path,
                hint=f"it takes {needed}",
            )

    def put(self, start: int, data: bytes | memoryview, what: str, *, size: int = 0) -> None:
        """Put *data* at *start* and keep *size* bytes there free for it (at least its own length).

        Raises ImageError if that is outside memory or hits another part.
        """
        end = start + max(size, len(data))
        self.require(end, what)
        if end == start:
            return
        index = bisect_left(self._parts, _Part(start, end, what))
        for other in self._parts[max(index - 1, 0) : index + 1]:
            if start < other.end and other.start < end:
                raise ImageError(
                    f"{what} at {start:#x} overlaps {other.what} at {other.start:#x}", path=self.path
                )
        self._parts.insert(index, _Part(start, end, what))
        if data:
            self._writes.append((start, data))

    def reserve(self, size: int, what: str, *, align: int = 16) -> int:
        """Return the address of the first gap of *size* bytes in low memory, or above 1 MiB; keep it free.

        Raises ImageError if there is none.
        """
        for low, high in ((LOW_MEMORY_START, LOW_MEMORY_END), (HIGH_MEMORY_START, self.memory)):
            start = self._first_gap(size, low, min(high, self.memory), align)
            if start is not None:
                self.put(start, b"", what, size=size)
                return start
        raise ImageError(
            f"no room for {what} ({size} bytes) beside the image in {in_mib(self.memory)} of memory",
            path=self.path,
            hint="give the guest more memory",
        )

    def place(self, data: bytes, what: str, *, align: int = 16) -> int:
        """Put *data* into the first gap that `reserve` finds, and return its address."""
        start = self.reserve(len(data), what, align=align)
        self._writes.append((start, data))
        return start

    def place_identity_tables(self) -> int:
        """Place page tables that map the first 4 GiB onto themselves; return their address, for CR3."""
        base = self.reserve(IDENTITY_TABLES_SIZE, "the page tables", align=PAGE_SIZE)
        self._writes.append((base, identity_tables(base)))
        return base

    def place_gdt(self, *, is_64bit: bool) -> int:
        """Place a flat GDT and return its address."""
        return self.place(flat_gdt(is_64bit=is_64bit), "the GDT")

    def boot(self, cpu: CpuStart) -> Boot:
        """Return everything put so far, to be started as *cpu* says."""
        return Boot(tuple(self._writes), cpu)

    def _first_gap(self, size: int, low: int, high: int, align: int) -> int | None:
        start = -(-low // align) * align
        for part in self._parts:
            if part.start >= start + size:
                break
            if part.end > start:
                start = -(-part.end // align) * align
        return start if start + size <= high else None
