"""What an image becomes: bytes to put into an empty machine, and the CPU state to start it in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Mode(Enum):
    """The CPU mode that an image is entered in."""

    REAL = "real"
    PROTECTED = "protected"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class CpuStart:
    """How the CPU starts.

    Real mode starts with all segments 0.  Protected and long mode start with flat segments, code selector
    0x10 and data selector 0x18, which a GDT at *gdt_base* (linear; limit in bytes minus one) should hold if
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
    """A guest ready to start: ``writes`` are (physical address, bytes), applied in order to zeroed RAM."""

    writes: tuple[tuple[int, bytes | memoryview], ...]
    cpu: CpuStart
