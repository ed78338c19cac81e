"""What an image becomes: bytes to put into an empty machine, and the CPU state to start it in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

PAGE_SIZE = 4096


class Mode(Enum):
    """The CPU mode that an image is entered in."""

    REAL = "real"
    PROTECTED = "protected"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class CpuStart:
    """How the CPU starts.

    Real mode starts with all segments 0 but CS, which has bits 16 to 19 of *pc*, a linear address below 1 MiB.
    Protected and long mode start with flat segments, code selector 0x10 and data selector 0x18, which a GDT at
    *gdt_base* (linear; limit in bytes minus one) should hold if
    the guest may reload them.  Long mode starts with paging on and *cr3*.
    """

    mode: Mode
    pc: int
    registers: dict[str, int] = field(default_factory=dict)
    gdt_base: int = 0
    gdt_limit: int = 0
    cr3: int = 0


@dataclass(frozen=True, slots=True)
class Boot:
    """A guest ready to start.

    ``writes`` are (physical address, bytes) for zeroed RAM; none is empty, and none overlap.
    """

    writes: tuple[tuple[int, bytes | memoryview], ...]
    cpu: CpuStart

    def pages(self) -> Iterator[tuple[range, bytes | memoryview]]:
        """Yield every page of RAM that is not left zeroed, as (page numbers, their contents), each page once.

        Contents are views of the image wherever that fills whole pages.
        """
        edges: dict[int, bytearray] = {}
        for start, data in self.writes:
            first, end = -(-start // PAGE_SIZE), (start + len(data)) // PAGE_SIZE
            if first < end:
                offset = first * PAGE_SIZE - start
                yield range(first, end), memoryview(data)[offset : offset + (end - first) * PAGE_SIZE]
            for page in {start // PAGE_SIZE, (start + len(data) - 1) // PAGE_SIZE}.difference(
                range(first, end)
            ):
                _overlay(edges.setdefault(page, bytearray(PAGE_SIZE)), page * PAGE_SIZE, start, data)
        for number, contents in edges.items():
            yield range(number, number + 1), bytes(contents)


def _overlay(page: bytearray, base: int, start: int, data: bytes | memoryview) -> None:
    """Put into *page*, at address *base*, what there is for it of the *data* at *start*."""
    low, high = max(base, start), min(base + PAGE_SIZE, start + len(data))
    page[low - base : high - base] = data[low - start : high - start]
