"""Split virtqueues (Virtual I/O Device 1.1, 2.6): how driver and device hand each other buffers.

    descriptors   16 bytes each: address u64, length u32, flags u16, next u16         written by the driver
    available     flags u16, index u16, heads of chains u16[size], used_event u16     written by the driver
    used          flags u16, index u16, {head u32, written u32}[size], avail_event u16    written by the device

A chain of descriptors is one buffer: first what the device reads, then what it writes.  A descriptor may point to a
table of descriptors that are the rest of the chain.

Everything here is written by the guest, and may be anything:
- A chain has no more descriptors than the queue may have, so a loop ends.
- Lengths are not believed: nothing is read or allocated but what a caller asks for, in `Chain.read`.
- What breaks the rules raises QueueError, what is not in memory OutsideMemoryError; both are in MISTAKES.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct

from revirt.machine.memory import GuestMemory, OutsideMemoryError
from revirt.machine.state import U16, U64, State

SIZE = 256
"""How many descriptors a queue has at first, and at most: a power of two (2.6)."""

NEXT = 0x1
WRITE = 0x2
INDIRECT = 0x4
NO_INTERRUPT = 0x1
"""In the flags of the available ring: the driver wants none."""

_DESCRIPTOR = Struct("<QIHH")
_USED = Struct("<II")
_INDEX = 2
_RING = 4


class QueueError(Exception):
    """The driver broke the rules of the queue."""


MISTAKES = (QueueError, OutsideMemoryError)
"""What a driver's mistakes raise."""


@dataclass
class QueueState(State):
    """Where a queue lies, and how far the device is in each ring (both count modulo 65536)."""

    size: U16 = SIZE
    is_ready: bool = False
    descriptors: U64 = 0
    available: U64 = 0
    used: U64 = 0
    next_available: U16 = 0
    next_used: U16 = 0


def is_queue_size(size: int) -> bool:
    """Return whether a queue may have *size* descriptors."""
    return 0 < size <= SIZE and not size & size - 1


Segment = tuple[int, int]
"""An address and a size in bytes."""


@dataclass(slots=True)
class Chain:
    """A buffer: what the device may read, and what it may write, in order."""

    memory: GuestMemory
    head: int
    readable: list[Segment] = field(default_factory=list)
    writable: list[Segment] = field(default_factory=list)

    @property
    def readable_size(self) -> int:
        """Bytes that the device may read; as large as the driver claims."""
        return sum(size for _, size in self.readable)

    @property
    def writable_size(self) -> int:
        """Bytes that the device may write; as large as the driver claims."""
        return sum(size for _, size in self.writable)

    def read(self, start: int, size: int) -> bytes:
        """Return *size* bytes from *start* on of what is readable, fewer where it ends; raises OutsideMemoryError."""
        memory = self.memory
        return b"".join([memory.read(*part) for part in _cut(self.readable, start, size)])

    def write(self, start: int, data: bytes) -> None:
        """Write *data* from *start* on into what is writable, as far as it goes; raises OutsideMemoryError."""
        rest = memoryview(data)
        for address, size in _cut(self.writable, start, len(data)):
            self.memory.write(address, rest[:size])
            rest = rest[size:]


def _cut(segments: list[Segment], start: int, size: int) -> Iterator[Segment]:
    """Yield the parts of *segments* that cover *size* bytes from *start* on."""
    for address, length in segments:
        if start >= length:
            start -= length
            continue
        part = min(length - start, size)
        if not part:
            return
        yield address + start, part
        size -= part
        start = 0


class Queue:
    """The device's side of a virtqueue in *memory*.

    ``event_index`` says whether VIRTIO_F_EVENT_IDX was negotiated: then each side says up to which index it does not
    want to be told of buffers (2.6.7 and 2.6.8), else flags say that it does not at all.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.state = QueueState()
        self.event_index = False
        self._unsignalled = 0

    def reset(self) -> None:
        """Forget where the queue lies."""
        self.state = QueueState()
        self._unsignalled = 0

    def available(self) -> int:
        """Return how many buffers the driver has made available that were not taken yet."""
        s = self.state
        if not s.is_ready:
            return 0
        count = self._read_u16(s.available + _INDEX) - s.next_available & 0xFFFF
        if count > s.size:
            raise QueueError(f"{count} buffers available in a queue of {s.size}")
        return count

    def peek(self) -> Chain | None:
        """Return the next buffer without taking it, None if there is none."""
        return self._next() if self.available() else None

    def pop(self) -> Chain | None:
        """Take the next buffer, None if there is none."""
        return self._take() if self.available() else None

    def take_all(self) -> Iterator[Chain]:
        """Take what is available, buffer by buffer, and ask to be told of the next one.

        The driver does not run meanwhile; one whose rings lie over each other, so that each buffer given back makes
        another one available, has to notify again.
        """
        for _ in range(self.available()):
            yield self._take()
        self.listen()

    def walk(self, head: int) -> Chain:
        """Return the chain that begins with descriptor *head*."""
        chain = Chain(self._memory, head)
        table, count, index, is_indirect = self.state.descriptors, self.state.size, head, False
        left = SIZE
        while True:
            if index >= count:
                raise QueueError(f"descriptor {index} of {count}")
            address, size, flags, following = _DESCRIPTOR.unpack(self._memory.read(table + 16 * index, 16))
            if flags & INDIRECT:
                if is_indirect or flags & NEXT or not size or size % 16 or size > 16 * SIZE:
                    raise QueueError(f"an indirect table of {size} bytes, flags {flags:#x}")
                table, count, index, is_indirect = address, size // 16, 0, True
                continue
            if not left:
                raise QueueError(f"more than {SIZE} descriptors in a chain")
            left -= 1
            if flags & WRITE:
                chain.writable.append((address, size))
            elif chain.writable:
                raise QueueError("something to read behind something to write")
            else:
                chain.readable.append((address, size))
            if not flags & NEXT:
                return chain
            index = following

    def push(self, head: int, written: int) -> None:
        """Give the buffer of *head* back, into which *written* bytes were written."""
        s = self.state
        self._memory.write(
            s.used + _RING + 8 * (s.next_used % s.size), _USED.pack(head, written & 0xFFFF_FFFF)
        )
        s.next_used = s.next_used + 1 & 0xFFFF
        self._memory.write(s.used + _INDEX, s.next_used.to_bytes(2, "little"))
        self._unsignalled += 1

    def listen(self) -> None:
        """Ask the driver to tell of the next buffer that it makes available."""
        s = self.state
        if self.event_index and s.is_ready:
            self._memory.write(s.used + _RING + 8 * s.size, s.next_available.to_bytes(2, "little"))

    def take_signal(self) -> bool:
        """Return whether to interrupt for what was given back since this was last called."""
        s = self.state
        count, self._unsignalled = self._unsignalled, 0
        if not count:
            return False
        if not self.event_index:
            return not self._read_u16(s.available) & NO_INTERRUPT
        event = self._read_u16(s.available + _RING + 2 * s.size)
        return (s.next_used - event - 1 & 0xFFFF) < count

    def _next(self) -> Chain:
        s = self.state
        return self.walk(self._read_u16(s.available + _RING + 2 * (s.next_available % s.size)))

    def _take(self) -> Chain:
        chain = self._next()
        self.state.next_available = self.state.next_available + 1 & 0xFFFF
        return chain

    def _read_u16(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, 2), "little")
