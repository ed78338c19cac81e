"""A disk (Virtual I/O Device 1.1, 5.2), with one queue of requests.

    header   type u32, reserved u32, sector u64      read by the device
    data     read (OUT) or written (IN, GET_ID)
    status   one byte                                written by the device

A request takes effect as a whole, at one moment: data is moved, the disk changed, the buffer given back.  With
``completes_at_once`` that moment is when it is found in the queue; otherwise when `complete` is called with its ticket,
in whichever order.  What waits is remembered by its number in the queue only, and read again when its moment comes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from struct import Struct, pack
from typing import Annotated

from revirt.machine.device import Line
from revirt.machine.disk import DiskContents, DiskError
from revirt.machine.memory import GuestMemory
from revirt.machine.state import U16, U64, Range, State
from revirt.machine.virtio.queue import SIZE, Chain, QueueError
from revirt.machine.virtio.transport import Kind, TransportState, VirtioFunction

KIND = Kind(number=2, device=0x1001, class_code=0x010000, queues=1)
REQUESTS = 0

F_SIZE_MAX = 1 << 1
F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9
F_WRITE_ZEROES = 1 << 14

T_IN = 0
T_OUT = 1
T_FLUSH = 4
T_GET_ID = 8
T_WRITE_ZEROES = 13

S_OK = 0
S_IOERR = 1
S_UNSUPP = 2

SECTOR = 512
SEGMENT_LIMIT = 128 << 10
"""Most bytes in one descriptor, as the driver is told."""
SEGMENTS = 126
"""Most descriptors of data in one request, as the driver is told."""
REQUEST_LIMIT = SEGMENT_LIMIT * SEGMENTS
"""Most bytes that a request moves, in any number of descriptors."""
ZEROES_LIMIT = 2048
"""Most sectors that are zeroed at once."""
ID_SIZE = 20

_HEADER = Struct("<IIQ")
_RANGE = Struct("<QII")
_ZEROES_FLAGS = 0x1
"""VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, which need not be followed."""


@dataclass
class Ticket(State):
    """A request that waits: its number, its buffer, and what it was about when it came.

    *count* is in sectors, none for what moves no data.
    """

    ticket: U64
    head: U16
    is_write: bool
    sector: U64
    count: Annotated[int, Range(0, REQUEST_LIMIT // SECTOR)]


@dataclass
class BlkState(State):
    """What waits, and the number of the next request."""

    transport: TransportState
    waiting: Annotated[list[Ticket], Range(0, SIZE)] = field(default_factory=list)
    next_ticket: U64 = 0


class Blk(VirtioFunction):
    """The disk called *name*, with *contents*; *serial* is its name for the guest, up to 20 bytes.

    *stored* is called with sector and data of each write when it takes effect.
    """

    _waiting: list[Ticket]

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        contents: DiskContents,
        *,
        irq: Line,
        reschedule: Callable[[], None],
        stored: Callable[[int, bytes], None] = lambda _sector, _data: None,
        completes_at_once: bool,
        serial: bytes = b"",
    ) -> None:
        self._contents = contents
        self._stored = stored
        self._completes_at_once = completes_at_once
        self._serial = serial[:ID_SIZE].ljust(ID_SIZE, b"\0")
        self._next_ticket = 0
        access = F_RO if contents.is_read_only else F_WRITE_ZEROES
        super().__init__(
            name,
            KIND,
            features=F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | access,
            config=_configuration(contents.sectors),
            memory=memory,
            irq=irq,
            reschedule=reschedule,
        )

    @property
    def pending(self) -> Sequence[Ticket]:
        """What waits for `complete`, in the order in which it came."""
        return tuple(self._waiting)

    def complete(self, ticket: int) -> bool:
        """Let the request *ticket* take effect; return whether it was waiting (a reset lets go of all)."""
        request = next((each for each in self._waiting if each.ticket == ticket), None)
        if request is None:
            return False
        self._waiting.remove(request)
        self._guarded(self.queues[REQUESTS], partial(self._perform_waiting, request))
        return True

    def save(self) -> BlkState:
        """Return a copy of the state."""
        return BlkState(self.save_transport(), [copy.copy(each) for each in self._waiting], self._next_ticket)

    def restore(self, state: BlkState) -> None:
        """Replace the state; `drive` then drives the line."""
        self.restore_transport(state.transport)
        self._waiting = [copy.copy(each) for each in state.waiting]
        self._next_ticket = state.next_ticket

    def _reset(self) -> None:
        super()._reset()
        self._waiting = []

    def _serve(self, index: int) -> None:
        queue = self.queues[index]
        for chain in queue.take_all():
            if self._completes_at_once:
                self._perform(chain)
            elif len(self._waiting) < SIZE:
                self._waiting.append(self._ticket(chain))
            else:
                raise QueueError("more requests under way than the queue has buffers")

    def _ticket(self, chain: Chain) -> Ticket:
        kind, sector = _header(chain)
        sizes = {T_IN: chain.writable_size - 1, T_OUT: chain.readable_size - _HEADER.size}
        count = min(sizes.get(kind, 0), REQUEST_LIMIT) // SECTOR
        ticket = Ticket(self._next_ticket, chain.head, kind == T_OUT, sector, count)
        self._next_ticket = self._next_ticket + 1 & 0xFFFF_FFFF_FFFF_FFFF
        return ticket

    def _perform_waiting(self, request: Ticket) -> None:
        if not self.is_live:
            raise QueueError("the driver let go of the disk, or of bus mastering, under a request")
        self._perform(self.queues[REQUESTS].walk(request.head))

    def _perform(self, chain: Chain) -> None:
        """Do what the request in *chain* says, and give it back."""
        kind, sector = _header(chain)
        room = chain.writable_size - 1
        written = 0
        try:
            if kind == T_IN:
                written = self._read(chain, sector, room)
            elif kind == T_OUT:
                self._write(chain, sector, chain.readable_size - _HEADER.size)
            elif kind == T_GET_ID:
                written = min(room, ID_SIZE)
                chain.write(0, self._serial[:written])
            elif kind == T_WRITE_ZEROES:
                self._write_zeroes(chain)
            status = S_OK if kind in (T_IN, T_OUT, T_FLUSH, T_GET_ID, T_WRITE_ZEROES) else S_UNSUPP
        except DiskError:
            status = S_IOERR
        chain.write(room, bytes((status,)))
        self.queues[REQUESTS].push(chain.head, written + 1)

    def _read(self, chain: Chain, sector: int, size: int) -> int:
        self._check(sector, size)
        chain.write(0, self._contents.read(sector, size // SECTOR))
        return size

    def _write(self, chain: Chain, sector: int, size: int) -> None:
        self._check(sector, size)
        self._store(sector, chain.read(_HEADER.size, size))

    def _write_zeroes(self, chain: Chain) -> None:
        """Do VIRTIO_BLK_T_WRITE_ZEROES, for the one range that the driver may name (5.2.6)."""
        if chain.readable_size != _HEADER.size + _RANGE.size:
            raise DiskError
        sector, count, flags = _RANGE.unpack(chain.read(_HEADER.size, _RANGE.size))
        if count > ZEROES_LIMIT or flags & ~_ZEROES_FLAGS:
            raise DiskError
        self._check(sector, SECTOR * count)
        self._store(sector, bytes(SECTOR * count))

    def _store(self, sector: int, data: bytes) -> None:
        if self._contents.is_read_only:
            raise DiskError
        self._contents.write(sector, data)
        self._stored(sector, data)

    def _check(self, sector: int, size: int) -> None:
        if size % SECTOR or size > REQUEST_LIMIT or sector + size // SECTOR > self._contents.sectors:
            raise DiskError


def _header(chain: Chain) -> tuple[int, int]:
    """Return type and sector of the request in *chain*."""
    if chain.readable_size < _HEADER.size or not chain.writable_size:
        raise QueueError("a disk request without header or status")
    kind, _, sector = _HEADER.unpack(chain.read(0, _HEADER.size))
    return kind, sector


def _configuration(sectors: int) -> bytes:
    """Return `struct virtio_blk_config` (5.2.4)."""
    geometry = bytes(4)
    topology = bytes(8)
    cache_and_queues = bytes(4)
    discard = bytes(12)
    zeroes = pack("<IIB3x", ZEROES_LIMIT, 1, 0)
    limits = pack("<QII", sectors, SEGMENT_LIMIT, SEGMENTS)
    return limits + geometry + pack("<I", SECTOR) + topology + cache_and_queues + discard + zeroes
