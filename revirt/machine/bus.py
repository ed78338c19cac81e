"""Buses: who answers at which address.

A device is given offsets and sizes, never addresses; a bus turns one into the other.  Where nobody answers,
reads give all ones, as a bus with pull-ups does, and writes vanish.

Rules:
- A mapping says which sizes its device takes whole; a whole access is one at a multiple of its size.  Every
  other access is split, lower addresses first, as the bus controller of a PC does for devices narrower than
  the CPU.
- What is mapped here is wired: it stays where it is, and comes first.  Where nothing is, the bus asks for what software
  has put there, the windows of PCI functions.
- Two mappings may share an address if they take different sizes: at 0xCF8 the PCI bridge takes 32 bits only,
  and a byte written to 0xCF9 reaches the reset control register.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection
from typing import NamedTuple

from revirt.machine.device import Named, Registers

BYTES = (1,)
"""Sizes taken whole by a device with byte-wide registers: what almost all ISA devices are."""


Answering = tuple[Registers, int]
"""Who answers an access, and at which offset."""

Elsewhere = Callable[[int, int], Answering | None]
"""Says who answers the access to an address, of a size (1, 2, 4 or 8), as a whole; None if nobody does."""


class Bus:
    """The I/O port bus: every port is looked up in a dictionary, because guests poll ports in tight loops."""

    def __init__(self) -> None:
        # By size, then by port.
        self._whole: dict[int, dict[int, tuple[Named, int]]] = {1: {}, 2: {}, 4: {}}
        self._elsewhere: Elsewhere | None = None

    def ask_elsewhere(self, find: Elsewhere) -> None:
        """Let *find* say who answers at ports that are not mapped."""
        self._elsewhere = find

    def map(
        self, start: int, count: int, device: Named, offset: int = 0, *, sizes: Collection[int] = BYTES
    ) -> None:
        """Let *device* answer at ports ``[start, start + count)``; at the first is its register *offset*.

        *sizes* are the access sizes (of 1, 2 and 4 bytes) that it takes whole.
        Raises ValueError, mapping nothing, if some port answers accesses of one of these sizes already.
        """
        ports = {size: range(start + -start % size, start + count - size + 1, size) for size in sorted(sizes)}
        for size, aligned in ports.items():
            for port in aligned:
                if port in self._whole[size]:
                    owner = self._whole[size][port][0].name
                    raise ValueError(f"port {port:#x} of {device.name} belongs to {owner} already")
        for size, aligned in ports.items():
            for port in aligned:
                self._whole[size][port] = (device, offset + port - start)

    def read(self, address: int, size: int) -> int:
        """Return *size* bytes (1, 2 or 4), little-endian, from port *address*."""
        owner = self._whole[size].get(address) or self._find_elsewhere(address, size)
        if owner is not None:
            return owner[0].read(owner[1], size)
        if size == 1:
            return 0xFF
        half = size // 2
        return self.read(address, half) | self.read(address + half, half) << 8 * half

    def write(self, address: int, size: int, value: int) -> None:
        """Write *size* bytes (1, 2 or 4) of *value*, little-endian, to port *address*."""
        owner = self._whole[size].get(address) or self._find_elsewhere(address, size)
        if owner is not None:
            owner[0].write(owner[1], size, value)
        elif size > 1:
            half = size // 2
            self.write(address, half, value & (1 << 8 * half) - 1)
            self.write(address + half, half, value >> 8 * half)

    def _find_elsewhere(self, address: int, size: int) -> Answering | None:
        if self._elsewhere is None or (found := self._elsewhere(address, size)) is None:
            return None
        # A part of the access may belong to a device that takes it only when it is split.
        for part in (1, 2)[: size // 2]:
            if any(port in self._whole[part] for port in range(address, address + size, part)):
                return None
        return found


class _Window(NamedTuple):
    """A mapping of `MmioBus`."""

    start: int
    end: int
    device: Named
    offset: int
    sizes: frozenset[int]


class MmioBus:
    """The memory bus outside RAM: few mappings, of any length, found by bisection."""

    def __init__(self) -> None:
        self._windows: list[_Window] = []
        self._elsewhere: Elsewhere | None = None

    def ask_elsewhere(self, find: Elsewhere) -> None:
        """Let *find* say who answers at addresses that are not mapped."""
        self._elsewhere = find

    def map(
        self, start: int, size: int, device: Named, offset: int = 0, *, sizes: Collection[int] = (1, 2, 4)
    ) -> None:
        """Let *device* answer at ``[start, start + size)``, the first byte of which is its register *offset*.

        *sizes* are the access sizes (of 1, 2 and 4 bytes) that it takes whole.
        Raises ValueError if part of the range is taken.
        """
        place = bisect_right(self._windows, start, key=lambda window: window.start)
        for neighbour in self._windows[max(place - 1, 0) : place + 1]:
            if neighbour.start < start + size and start < neighbour.end:
                raise ValueError(
                    f"{device.name} at {start:#x} overlaps {neighbour.device.name} at {neighbour.start:#x}"
                )
        self._windows.insert(place, _Window(start, start + size, device, offset, frozenset(sizes)))

    def read(self, address: int, size: int) -> int:
        """Return *size* bytes (1, 2, 4 or 8), little-endian, from *address*."""
        owner = self._find(address, size)
        if owner is not None:
            return owner[0].read(owner[1], size)
        if size == 1:
            return 0xFF
        half = size // 2
        return self.read(address, half) | self.read(address + half, half) << 8 * half

    def write(self, address: int, size: int, value: int) -> None:
        """Write *size* bytes (1, 2, 4 or 8) of *value*, little-endian, to *address*."""
        owner = self._find(address, size)
        if owner is not None:
            owner[0].write(owner[1], size, value)
        elif size > 1:
            half = size // 2
            self.write(address, half, value & (1 << 8 * half) - 1)
            self.write(address + half, half, value >> 8 * half)

    def _find(self, address: int, size: int) -> Answering | None:
        place = bisect_right(self._windows, address, key=lambda window: window.start) - 1
        if place >= 0 and address < (window := self._windows[place]).end:
            whole = size in window.sizes and address % size == 0 and address + size <= window.end
            return (window.device, window.offset + address - window.start) if whole else None
        return self._elsewhere(address, size) if self._elsewhere else None
