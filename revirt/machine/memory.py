"""RAM as a bus master sees it: physical addresses, and nothing else within reach.

A device acts on memory only where the core stands still, at a taken branch (see `Board.service`): never from the
callback of a port or a register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class OutsideMemoryError(Exception):
    """``size`` bytes from ``address`` are not all RAM.  A guest's mistake: whoever acts on memory catches it."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"{size} bytes at {address:#x} are not in memory")
        self.address = address
        self.size = size


class _Core(Protocol):
    """What is needed of a `revirt.core.Core`."""

    @property
    def ram(self) -> memoryview: ...

    def written(self, start: int, size: int, comes_with_branch: bool, /) -> None: ...


class GuestMemory:
    """The RAM of *core*; ``size`` is in bytes.  *is_halted* says whether the core stands behind a HLT."""

    def __init__(self, core: _Core, is_halted: Callable[[], bool] = lambda: False) -> None:
        self._core = core
        self._is_halted = is_halted
        self._ram = core.ram
        self.size = len(self._ram)

    def read(self, address: int, size: int) -> bytes:
        """Return the *size* bytes at *address*; raises OutsideMemoryError."""
        if not 0 <= address <= address + size <= self.size:
            raise OutsideMemoryError(address, size)
        return bytes(self._ram[address : address + size])

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write *data* to *address*, and let the core know; raises OutsideMemoryError, having written nothing."""
        size = len(data)
        if not 0 <= address <= address + size <= self.size:
            raise OutsideMemoryError(address, size)
        self._ram[address : address + size] = data
        self._core.written(address, size, not self._is_halted())
