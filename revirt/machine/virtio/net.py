"""A network card (Virtual I/O Device 1.1, 5.1): queue 0 receives, queue 1 transmits.

Neither checksums nor segmentation are offered to be done later (VIRTIO_NET_F_CSUM, _GUEST_TSO4 and so on): what leaves
is a plain Ethernet frame, and what arrives is believed to be one.  There is no control queue: the card is promiscuous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from struct import pack

from revirt.machine.device import Line
from revirt.machine.memory import GuestMemory
from revirt.machine.state import State
from revirt.machine.virtio.queue import MISTAKES, Chain
from revirt.machine.virtio.transport import F_VERSION_1, Kind, TransportState, VirtioFunction

KIND = Kind(number=1, device=0x1000, class_code=0x020000, queues=2)
RECEIVE, TRANSMIT = 0, 1

F_MTU = 1 << 3
F_MAC = 1 << 5
F_MRG_RXBUF = 1 << 15
F_STATUS = 1 << 16

STATUS_LINK_UP = 1
MTU = 1500
LEAST_MTU, MOST_MTU = 68, 65535
"""What a driver may expect (5.1.4.1)."""

ETHERNET_HEADER = 14
FRAME_LIMIT = ETHERNET_HEADER + 4 + MOST_MTU
"""Longest frame either way, in bytes, a VLAN's tag among them; longer ones are lost."""

HEADER_SIZE = 12
"""`struct virtio_net_hdr`; before 1.0 it has no num_buffers, unless buffers are merged (5.1.6.1)."""
LEGACY_HEADER_SIZE = 10


@dataclass
class NetState(State):
    """A network card keeps nothing of its own."""

    transport: TransportState


class Net(VirtioFunction):
    """The card called *name*, with the hardware address *mac* (6 bytes), which hands every frame sent to *send*.

    *mtu* is the largest packet, in bytes, that the driver is told to send (68 to 65535).
    """

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        *,
        mac: bytes,
        irq: Line,
        reschedule: Callable[[], None],
        send: Callable[[bytes], None],
        mtu: int = MTU,
    ) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"not the address of one network card: {mac.hex(':')}")
        if not LEAST_MTU <= mtu <= MOST_MTU:
            raise ValueError(f"a network card's MTU is {LEAST_MTU} to {MOST_MTU}, not {mtu}")
        self._send = send
        super().__init__(
            name,
            KIND,
            features=F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS,
            config=mac + pack("<HHH", STATUS_LINK_UP, 1, mtu),
            memory=memory,
            irq=irq,
            reschedule=reschedule,
        )

    @property
    def can_receive(self) -> bool:
        """Whether the driver is ready and has made a buffer available."""
        try:
            return self.is_live and self.queues[RECEIVE].available() > 0
        except MISTAKES:
            return False

    def receive(self, frame: bytes) -> bool:
        """Take *frame* from the network; return whether it was taken, or lost because it fits no buffer.

        False means that the driver has to make more buffers available first, and nothing was changed.
        """
        if not self.can_receive:
            return False
        if not ETHERNET_HEADER <= len(frame) <= FRAME_LIMIT:
            return True
        return bool(self._guarded(self.queues[RECEIVE], partial(self._place, frame)))

    def save(self) -> NetState:
        """Return a copy of the state."""
        return NetState(self.save_transport())

    def restore(self, state: NetState) -> None:
        """Replace the state; `drive` then drives the line."""
        self.restore_transport(state.transport)

    @property
    def _header_size(self) -> int:
        return HEADER_SIZE if self.has(F_VERSION_1 | F_MRG_RXBUF) else LEGACY_HEADER_SIZE

    def _place(self, frame: bytes) -> bool:
        """Write *frame* into buffers (5.1.6.4): several if the driver merges them, else one, or it is lost."""
        queue, header_size = self.queues[RECEIVE], self._header_size
        size = header_size + len(frame)
        chains: list[Chain] = []
        room, first = 0, queue.state.next_available
        while room < size:
            chain = queue.pop()
            if chain is None or (chains and not self.has(F_MRG_RXBUF)):
                queue.state.next_available = first
                return chain is not None
            chains.append(chain)
            room += chain.writable_size
        rest = (bytes(10) + pack("<H", len(chains)))[:header_size] + frame
        for chain in chains:
            written = min(len(rest), chain.writable_size)
            chain.write(0, rest[:written])
            queue.push(chain.head, written)
            rest = rest[written:]
        if not queue.available():
            # The next buffer is worth a notification: frames may wait for it.
            queue.listen()
        return True

    def _serve(self, index: int) -> None:
        if index != TRANSMIT:
            return
        queue, header_size = self.queues[TRANSMIT], self._header_size
        for chain in queue.take_all():
            size = chain.readable_size - header_size
            if ETHERNET_HEADER <= size <= FRAME_LIMIT:
                self._send(chain.read(header_size, size))
            queue.push(chain.head, 0)
