"""A console (Virtual I/O Device 1.1, 5.3) with one port: queue 0 receives, queue 1 transmits.

What arrives while the driver has no buffer for it waits in a backlog, as at the UART.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import pack
from typing import Annotated

from revirt.machine.device import Line
from revirt.machine.memory import GuestMemory
from revirt.machine.state import Range, State
from revirt.machine.virtio.queue import SIZE
from revirt.machine.virtio.transport import Kind, TransportState, VirtioFunction

KIND = Kind(number=3, device=0x1003, class_code=0x078000, queues=2)
RECEIVE, TRANSMIT = 0, 1

F_SIZE = 1 << 0

BACKLOG_SIZE = 1 << 18
TRANSMIT_LIMIT = 1 << 16
"""Most bytes of one buffer that are printed; drivers send a page at a time."""


@dataclass
class ConsoleState(State):
    """What waits for buffers."""

    transport: TransportState
    backlog: Annotated[bytes, Range(0, BACKLOG_SIZE)] = b""


class Console(VirtioFunction):
    """The console called *name*, which hands all that is printed to *transmit*.

    *size* is that of the terminal, in columns and rows, if it is known.  *drained* is called when the guest has taken
    all that was received: there is room for more.
    """

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        *,
        irq: Line,
        reschedule: Callable[[], None],
        transmit: Callable[[bytes], None],
        size: tuple[int, int] | None = None,
        drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._transmit = transmit
        self._drained = drained
        self._backlog = bytearray()
        columns, rows = size or (0, 0)
        super().__init__(
            name,
            KIND,
            features=F_SIZE if size else 0,
            config=pack("<HHII", columns, rows, 1, 0),
            memory=memory,
            irq=irq,
            reschedule=reschedule,
        )

    def receive(self, data: bytes) -> int:
        """Take *data* from the terminal; return how many bytes were taken, not all if the backlog is full."""
        taken = min(len(data), BACKLOG_SIZE - len(self._backlog))
        self._backlog += data[:taken]
        if self.is_live:
            self._guarded(self.queues[RECEIVE], self._deliver)
        return taken

    @property
    def is_backlogged(self) -> bool:
        """Whether bytes wait for the guest to make room."""
        return bool(self._backlog)

    def save(self) -> ConsoleState:
        """Return a copy of the state."""
        return ConsoleState(self.save_transport(), bytes(self._backlog))

    def restore(self, state: ConsoleState) -> None:
        """Replace the state; `drive` then drives the line."""
        self.restore_transport(state.transport)
        self._backlog = bytearray(state.backlog)

    def _serve(self, index: int) -> None:
        if index == RECEIVE:
            self._deliver()
        else:
            self._print()

    def _deliver(self) -> None:
        """Move what waits into the driver's buffers."""
        queue = self.queues[RECEIVE]
        for _ in range(SIZE):
            if not self._backlog:
                break
            chain = queue.pop()
            if chain is None:
                break
            written = min(len(self._backlog), chain.writable_size)
            chain.write(0, bytes(self._backlog[:written]))
            queue.push(chain.head, written)
            del self._backlog[:written]
            if not self._backlog:
                self._drained()
        queue.listen()

    def _print(self) -> None:
        queue = self.queues[TRANSMIT]
        for chain in queue.take_all():
            if data := chain.read(0, min(chain.readable_size, TRANSMIT_LIMIT)):
                self._transmit(data)
            queue.push(chain.head, 0)
