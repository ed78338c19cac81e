"""A source of entropy (Virtual I/O Device 1.1, 5.4): a queue of buffers that the device fills.

The device says how much is ``wanted``; whoever has the machine's inputs feeds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from revirt.machine.device import Line
from revirt.machine.memory import GuestMemory
from revirt.machine.state import Range, State
from revirt.machine.virtio.queue import SIZE
from revirt.machine.virtio.transport import Kind, TransportState, VirtioFunction

KIND = Kind(number=4, device=0x1005, class_code=0x00FF00, queues=1)
REQUESTS = 0

AT_ONCE = 64
"""Most bytes put into one buffer: what Linux asks for, and enough to seed any generator."""


@dataclass
class RngState(State):
    """How many bytes the next buffer waits for."""

    transport: TransportState
    wanted: Annotated[int, Range(0, AT_ONCE)] = 0


class Rng(VirtioFunction):
    """The entropy device called *name*."""

    _wanted: int

    def __init__(self, name: str, memory: GuestMemory, *, irq: Line, reschedule: Callable[[], None]) -> None:
        super().__init__(name, KIND, features=0, config=b"", memory=memory, irq=irq, reschedule=reschedule)

    @property
    def wanted(self) -> int:
        """How many random bytes (up to 64) the guest waits for; none while it keeps the device from memory."""
        return self._wanted if self.is_live else 0

    def feed(self, data: bytes) -> None:
        """Give the guest *data*, or as much of it as it waits for; it is lost if it waits for none."""
        if not self._wanted or not self.is_live:
            return
        given, self._wanted = data[: self._wanted], 0
        self._guarded(self.queues[REQUESTS], partial(self._fill, given))

    def save(self) -> RngState:
        """Return a copy of the state."""
        return RngState(self.save_transport(), self._wanted)

    def restore(self, state: RngState) -> None:
        """Replace the state; `drive` then drives the line."""
        self.restore_transport(state.transport)
        self._wanted = state.wanted

    def _reset(self) -> None:
        super()._reset()
        self._wanted = 0

    def _serve(self, _index: int) -> None:
        if not self._wanted:
            self._look_for_more()

    def _fill(self, data: bytes) -> None:
        queue = self.queues[REQUESTS]
        chain = queue.pop()
        if chain is not None:
            written = min(len(data), chain.writable_size)
            chain.write(0, data[:written])
            queue.push(chain.head, written)
        self._look_for_more()

    def _look_for_more(self) -> None:
        """Find the next buffer with room, and note how much it has; buffers without room go back at once."""
        queue = self.queues[REQUESTS]
        for _ in range(SIZE):
            chain = queue.peek()
            if chain is None:
                break
            self._wanted = min(chain.writable_size, AT_ONCE)
            if self._wanted:
                return
            queue.pop()
            queue.push(chain.head, 0)
        queue.listen()
