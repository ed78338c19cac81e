"""Reading and searching the memory of a machine that stands still, by physical and by linear address."""

from __future__ import annotations

from collections.abc import Iterator

from revirt.core import Core
from revirt.errors import UsageError

PAGE_SIZE = 4096
_TOP = 1 << 64
_CHUNK = 1 << 20
_MOST_PAGES = 1 << 24
"""Pages that one search of linear memory looks at: 64 GiB.  Page tables can map a page any number of times."""

_CR0_PG, _CR4_PSE, _CR4_PAE, _EFER_LMA = 1 << 31, 1 << 4, 1 << 5, 1 << 10
_PRESENT, _LARGE = 1, 1 << 7
_ADDRESS = 0x000F_FFFF_FFFF_F000


def read_physical(core: Core, address: int, size: int) -> bytes:
    """Return *size* bytes of RAM from physical *address* on, fewer where it ends."""
    return bytes(core.ram[address : address + size]) if address >= 0 else b""


def read_linear(core: Core, address: int, size: int) -> bytes:
    """Return *size* bytes from linear *address* on, as the guest sees them; fewer if a page is not there."""
    found = bytearray()
    while len(found) < size:
        here = address + len(found)
        physical = core.translate(here)
        piece = min(size - len(found), PAGE_SIZE - here % PAGE_SIZE)
        data = read_physical(core, physical, piece) if physical is not None else b""
        found += data
        if len(data) < piece:
            break
    return bytes(found)


def find(core: Core, data: bytes, start: int, end: int | None, *, physical: bool) -> Iterator[int]:
    """Yield the addresses, in order, at which *data* stands in memory from *start* to before *end* (None: all of it).

    Raises UsageError if *data* is empty, or more memory is mapped than can be looked through.
    """
    if not data:
        raise UsageError("there is nothing to look for")
    limit = min(_TOP, end if end is not None else _TOP)
    runs = (
        _physical_runs(core, max(0, start), limit) if physical else _linear_runs(core, max(0, start), limit)
    )
    behind, tail = -1, b""
    for address, contents in runs:
        # What ends in this run may begin in those before it, if they adjoin.
        text = tail + contents if address == behind else contents
        base = address + len(contents) - len(text)
        at = text.find(data)
        while at >= 0:
            yield base + at
            at = text.find(data, at + 1)
        behind = address + len(contents)
        tail = text[max(0, len(text) - len(data) + 1) :] if len(data) > 1 else b""


def _physical_runs(core: Core, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    for address in range(start, min(end, len(core.ram)), _CHUNK):
        yield address, read_physical(core, address, min(_CHUNK, end - address))


def _linear_runs(core: Core, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield what is mapped, by pages or pieces of large ones, in order."""
    for count, (linear, physical, size) in enumerate(_mapped(core, start, end)):
        if count >= _MOST_PAGES:
            raise UsageError("too much memory is mapped to look through it", hint="say where to look")
        first, last = max(start, linear), min(end, linear + size)
        contents = read_physical(core, physical + first - linear, last - first)
        if contents:
            yield first, contents


def _mapped(core: Core, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield what the page tables map from linear *start* to before *end*: (linear, physical, size), in order."""
    at = core.registers()
    if not at["cr0"] & _CR0_PG:
        for address in range(start & -_CHUNK, min(end, len(core.ram)), _CHUNK):
            yield address, address, _CHUNK
    elif at["efer"] & _EFER_LMA:
        half = 1 << 47
        for first, last, shift in ((0, half, 0), (_TOP - half, _TOP, _TOP - 2 * half)):
            if start < last and first < end:
                low, high = max(start, first) - shift, min(end, last) - shift
                for linear, physical, size in _Walk(core, 8, 9, large=True).level(
                    at["cr3"], 39, 0, low, high
                ):
                    yield linear + shift, physical, size
    elif at["cr4"] & _CR4_PAE:
        table = at["cr3"] & 0xFFFF_FFE0
        yield from _Walk(core, 8, 9, large=True).level(table, 30, 0, start, min(end, 1 << 32), entries=4)
    else:
        walk = _Walk(core, 4, 10, large=bool(at["cr4"] & _CR4_PSE))
        yield from walk.level(at["cr3"], 22, 0, start, min(end, 1 << 32))


class _Walk:
    """Walks page tables of *width*-byte entries, *bits* of an address choosing one; SDM volume 3, chapter 4."""

    def __init__(self, core: Core, width: int, bits: int, *, large: bool) -> None:
        self._core = core
        self._width = width
        self._bits = bits
        self._has_large = large

    def level(
        self, table: int, shift: int, base: int, start: int, end: int, *, entries: int = 0
    ) -> Iterator[tuple[int, int, int]]:
        """Yield what the table at physical *table* maps, whose first entry is for linear *base*."""
        size = 1 << shift
        count = entries or 1 << self._bits
        address = table & (~31 if entries else _ADDRESS)
        data = read_physical(self._core, address, count * self._width)
        first = max(0, (start - base) >> shift)
        last = min(len(data) // self._width, count, -((base - end) >> shift))
        for index in range(first, last):
            entry = int.from_bytes(data[index * self._width : (index + 1) * self._width], "little")
            linear = base + index * size
            if not entry & _PRESENT:
                continue
            if shift == 12 or (entry & _LARGE and not entries and self._has_large and shift < 39):
                yield linear, self._page(entry, size), size
            else:
                yield from self.level(entry, shift - self._bits, linear, start, end)

    def _page(self, entry: int, size: int) -> int:
        high = (entry & 0x1F_E000) << 19 if self._width == 4 and size > PAGE_SIZE else 0  # PSE-36
        return (entry & _ADDRESS & ~(size - 1)) | high
