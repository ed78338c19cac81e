"""Memory between fences: what is written outside of it shows, and so does what the core is not told of."""

from __future__ import annotations

from fuzzing import FuzzError
from revirt.machine.memory import GuestMemory

RAM = 256 << 10
FENCE = 64 << 10
_FENCE_BYTE = b"\xa5"


class Core:
    """What `GuestMemory` wants of a core: RAM and store, between fences."""

    def __init__(self, store_size: int) -> None:
        self._all = bytearray(_FENCE_BYTE * (3 * FENCE + RAM + store_size))
        view = memoryview(self._all)
        self.ram = view[FENCE : FENCE + RAM]
        self.store = view[2 * FENCE + RAM : 2 * FENCE + RAM + store_size]
        self.ram[:] = bytes(RAM)
        self.store[:] = bytes(store_size)
        self._fences = (view[:FENCE], view[FENCE + RAM :][:FENCE], view[-FENCE:])
        self.known = bytearray(RAM)
        """RAM as far as the core was told of it."""

    def written(self, start: int, size: int, _comes_with_branch: bool = False, /) -> None:
        self.known[start : start + size] = self.ram[start : start + size]

    def check(self) -> None:
        """Raise FuzzError if something was written that must not be."""
        if any(bytes(fence) != _FENCE_BYTE * FENCE for fence in self._fences):
            raise FuzzError("something outside of memory was written")
        if self.known != self.ram:
            raise FuzzError("RAM was written, and the core not told")


class Memory(GuestMemory):
    """RAM that counts, and that is closed while registers are accessed."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self.is_open = False
        self.operations = self.bytes = self.largest = 0

    def read(self, address: int, size: int) -> bytes:
        self._count("read", size)
        return super().read(address, size)

    def write(self, address: int, data: bytes | memoryview) -> None:
        self._count("written", len(data))
        super().write(address, data)

    def _count(self, how: str, size: int) -> None:
        if not self.is_open:
            raise FuzzError(f"memory is {how} where no device may act on it")
        self.operations += 1
        # What is asked for is not what is moved: beyond the end of RAM there is nothing.
        self.bytes += min(size, self.size)
        self.largest = max(self.largest, size)
