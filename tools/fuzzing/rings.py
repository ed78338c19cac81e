"""A driver of virtio devices that gets half of it right: what it lays out in memory, and what it writes to registers.

Queues lie apart from each other unless chance wants them over each other, at the end of RAM, or nowhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from fuzzing.acts import Act, In, Load, Out, Poke, Store
from fuzzing.changes import number
from fuzzing.fences import RAM
from revirt.machine.virtio import legacy, modern
from revirt.machine.virtio.transport import ACKNOWLEDGE, DRIVER, DRIVER_OK, F_VERSION_1, FEATURES_OK

NEXT, WRITE, INDIRECT = 1, 2, 4

QUEUES_START = 0x4000
QUEUE_ROOM = 0x3000
DATA_START = 0x30000

_SIZES = (1, 2, 4, 8, 64, 256)
_STARTED = ACKNOWLEDGE | DRIVER | DRIVER_OK


@dataclass(slots=True)
class Ring:
    """A queue as the driver believes it to be."""

    start: int
    size: int = 256
    descriptors: int = 0
    available: int = 0
    used: int = 0
    offered: int = 0
    free: int = 0


class Driver:
    """The driver of a function of some *kind* (``net``, ``blk``, ``rng``, ``console``) with *queues* queues.

    Its windows were placed at *port* and *address*; its queues have room from number *place* on.
    """

    def __init__(self, kind: str, offered: int, queues: int, *, port: int, address: int, place: int) -> None:
        self.kind = kind
        self.offered = offered
        self.port, self.address = port, address
        starts = (QUEUES_START + QUEUE_ROOM * (place + index) for index in range(queues))
        self.rings = [Ring(start) for start in starts]
        self.is_modern = False

    # -- registers --------------------------------------------------------------------------------------------

    def start(self, chance: Random) -> Iterator[Act]:
        """Yield what brings the device to life, with a step left out now and then."""
        self.is_modern = chance.random() < 0.5
        steps = [*self._begin(chance)]
        for index, ring in enumerate(self.rings):
            if chance.random() < 0.9:
                steps += self._place_queue(chance, index, ring)
        done = _STARTED | (FEATURES_OK if self.is_modern else 0)
        steps.append(self._status(done))
        for step in steps:
            if chance.random() < 0.98:
                yield step

    def reset(self) -> Iterator[Act]:
        """Yield what resets it."""
        yield self._status(0)

    def kick(self, chance: Random, index: int) -> Act:
        """Return a notification."""
        if self.is_modern:
            return Store(self.address + modern.NOTIFY + 4 * index, chance.choice((2, 2, 1, 4)), index)
        return Out(self.port + legacy.QUEUE_NOTIFY[0], 2, index)

    def access(self, chance: Random) -> Act:
        """Return some access to the windows."""
        size = chance.choice((1, 2, 4))
        value = number(chance, bits=8 * size)
        if chance.random() < 0.4:
            port = self.port + chance.randrange(64) // size * size
            return Out(port, size, value) if chance.random() < 0.6 else In(port, size)
        fields = (
            *((modern.COMMON + place, width) for place, width in _COMMON),
            *((modern.ISR, 1), (modern.DEVICE, 4), (modern.NOTIFY, 2)),
            (chance.randrange(modern.MODERN_SIZE) // size * size, size),
        )
        offset, size = chance.choice(fields)
        value &= (1 << 8 * size) - 1
        if chance.random() < 0.6:
            return Store(self.address + offset, size, value)
        return Load(self.address + offset, size)

    def _status(self, value: int) -> Act:
        if self.is_modern:
            return Store(self.address + modern.DEVICE_STATUS[0], 1, value)
        return Out(self.port + legacy.DEVICE_STATUS[0], 1, value)

    def _begin(self, chance: Random) -> Iterator[Act]:
        yield self._status(0)
        yield self._status(ACKNOWLEDGE | DRIVER)
        accepted = self.offered & (chance.getrandbits(64) if chance.random() < 0.5 else ~0)
        if not self.is_modern:
            yield Out(self.port + legacy.DRIVER_FEATURES[0], 4, accepted & 0xFFFF_FFFF)
            return
        accepted |= F_VERSION_1
        for half in range(2):
            yield Store(self.address + modern.DRIVER_FEATURE_SELECT[0], 4, half)
            yield Store(self.address + modern.DRIVER_FEATURE[0], 4, accepted >> 32 * half & 0xFFFF_FFFF)
        yield self._status(ACKNOWLEDGE | DRIVER | FEATURES_OK)

    def _place_queue(self, chance: Random, index: int, ring: Ring) -> Iterator[Act]:
        ring.offered = ring.free = 0
        if not self.is_modern:
            page = ring.start >> 12
            if chance.random() < 0.1:
                page = chance.choice((RAM - 1 >> 12, (RAM >> 12) - 3, number(chance, page, 32), 1))
            ring.size, ring.descriptors = 256, page << 12
            ring.available, ring.used = (page << 12) + 0x1000, (page << 12) + 0x2000
            yield Out(self.port + legacy.QUEUE_SELECT[0], 2, index)
            yield Out(self.port + legacy.QUEUE_ADDRESS[0], 4, page)
            yield Poke(ring.available, bytes(4))
            return
        ring.size = chance.choice(_SIZES)
        places = [ring.start, ring.start + 0x1000, ring.start + 0x2000]
        if chance.random() < 0.3:
            places[chance.randrange(3)] = odd_address(chance, places)
        ring.descriptors, ring.available, ring.used = places
        yield Store(self.address + modern.QUEUE_SELECT[0], 2, index)
        size = ring.size if chance.random() < 0.95 else number(chance, ring.size, 16)
        yield Store(self.address + modern.QUEUE_SIZE[0], 2, size)
        for offset, address in zip(modern.QUEUE_ADDRESSES, places, strict=True):
            yield Store(self.address + offset, 4, address & 0xFFFF_FFFF)
            yield Store(self.address + offset + 4, 4, address >> 32)
        yield Poke(ring.available & RAM - 1, bytes(4))
        yield Store(self.address + modern.QUEUE_ENABLE[0], 2, 1)

    # -- buffers ----------------------------------------------------------------------------------------------

    def offer(self, chance: Random) -> Iterator[Act]:
        """Yield what makes some buffers available and tells of them."""
        index = chance.randrange(len(self.rings))
        ring = self.rings[index]
        count = chance.choice((1, 1, 1, 2, 3, ring.size, chance.randrange(ring.size + 2)))
        head = ring.free % ring.size
        for _ in range(min(count, 3)):
            head = ring.free % ring.size
            yield from self._chain(chance, ring, index)
            yield Poke(_entry(ring), struct.pack("<H", head))
            ring.offered += 1
        if count > 3:
            # The rest of the ring leads to the last one again.
            yield Poke(ring.available + 4, struct.pack("<H", head) * ring.size)
            ring.offered += count - 3
        told = ring.offered if chance.random() < 0.95 else number(chance, ring.offered, 16)
        yield Poke(ring.available + 2, struct.pack("<H", told & 0xFFFF))
        if chance.random() < 0.3:
            # Which events the driver wants: flags, used_event.
            yield Poke(ring.available, struct.pack("<H", chance.randrange(2)))
            event = struct.pack("<H", number(chance, ring.offered, 16))
            yield Poke(ring.available + 4 + 2 * ring.size, event)
        if chance.random() < 0.95:
            yield self.kick(chance, index)

    def _chain(self, chance: Random, ring: Ring, index: int) -> Iterator[Act]:
        segments, data = self._buffer(chance, index)
        yield Poke(DATA_START, data)
        descriptors = [
            [address, size, flags | NEXT, ring.free + 1 + place]
            for place, (address, size, flags) in enumerate(segments)
        ]
        descriptors[-1][2] &= ~NEXT
        if chance.random() < 0.25:
            _spoil(chance, chance.choice(descriptors), ring.size)
        table = ring.descriptors
        if self.offered >> 28 & 1 and chance.random() < 0.3:
            table = DATA_START + 0x8000 + 0x400 * chance.randrange(8)
            size = 16 * len(descriptors) if chance.random() < 0.9 else number(chance, 16, 32)
            entry = struct.pack("<QIHH", table, size, INDIRECT | (chance.random() < 0.05), 0)
            yield Poke(ring.descriptors + 16 * (ring.free % ring.size), entry)
            for place, descriptor in enumerate(descriptors):
                descriptor[3] += place + 1 - (ring.free + 1 + place)
                yield Poke(table + 16 * place, _packed(descriptor))
            ring.free += 1
            return
        for place, descriptor in enumerate(descriptors):
            descriptor[3] %= ring.size
            yield Poke(table + 16 * ((ring.free + place) % ring.size), _packed(descriptor))
        ring.free += len(descriptors)

    def _buffer(self, chance: Random, index: int) -> tuple[list[tuple[int, int, int]], bytes]:
        """Return segments (address, size, flags) of a buffer, and what lies at `DATA_START`."""
        data = chance.randbytes(16)
        if self.kind == "blk":
            kind = chance.choice((0, 0, 1, 1, 1, 4, 8, 13, 11))
            sector = chance.choice((0, 1, 39, *(chance.randrange(40),) * 3, 163, number(chance, 40, 64)))
            data = struct.pack("<IIQ", kind, 0, sector)
            size = chance.choice((512, 512, 512, 1024, 4096, 8192, 0, 20, 511, 0x7000))
            if kind == 13:
                size, data = 16, data + struct.pack("<QII", sector, chance.randrange(2049), 0)
            body = (DATA_START + 16, size, WRITE if kind in (0, 8) else 0)
            return [(DATA_START, 16, 0), *self._cut(chance, body), (DATA_START + 0x7FFF, 1, WRITE)], data
        size = chance.choice((1, 10, 12, 14, 26, 64, 1514, 1526, 4096, 0, 65_553, 0x10000))
        is_written = self.kind == "rng" or index == 0
        return self._cut(chance, (DATA_START, size, WRITE if is_written else 0)), data

    def _cut(self, chance: Random, whole: tuple[int, int, int]) -> list[tuple[int, int, int]]:
        """Return *whole* in one piece or several, or often."""
        address, size, flags = whole
        way = chance.random()
        if way < 0.6:
            return [whole]
        if way < 0.95:
            at = chance.randrange(size + 1)
            return [(address, at, flags), (address + at, size - at, flags)]
        return [whole] * chance.choice((3, 20, 255, 256, 257))


def odd_address(chance: Random, near: list[int]) -> int:
    """Return an address where no queue should be, or where another part of it is."""
    return chance.choice(
        (
            *near,
            chance.choice(near) + chance.choice((-4, -2, 2, 4, 6, 8)),
            RAM - chance.choice((1, 2, 4, 6, 8, 16, 64, 4096)),
            (1 << 64) - chance.choice((1, 2, 4, 16, 4096)),
            number(chance, RAM),
            chance.randrange(RAM),
        )
    )


def _spoil(chance: Random, descriptor: list[int], size: int) -> None:
    """Change a field of *descriptor*."""
    place = chance.randrange(4)
    if place == 0:
        descriptor[0] = odd_address(chance, [descriptor[0]])
    elif place == 1:
        descriptor[1] = number(chance, descriptor[1], 32)
    elif place == 2:
        descriptor[2] = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 0xFFFF))
    else:
        descriptor[3] = chance.choice((0, size - 1, size, descriptor[3] - 1, chance.randrange(size)))


def _packed(descriptor: list[int]) -> bytes:
    address, size, flags, following = descriptor
    return struct.pack(
        "<QIHH", address & (1 << 64) - 1, size & 0xFFFF_FFFF, flags & 0xFFFF, following & 0xFFFF
    )


def _entry(ring: Ring) -> int:
    return ring.available + 4 + 2 * (ring.offered % ring.size)


_COMMON = (
    *(modern.DEVICE_FEATURE_SELECT, modern.DRIVER_FEATURE_SELECT, modern.DRIVER_FEATURE),
    *(modern.DEVICE_STATUS, modern.QUEUE_SELECT, modern.QUEUE_SIZE, modern.QUEUE_ENABLE),
    *((offset + half, 4) for offset in modern.QUEUE_ADDRESSES for half in (0, 4)),
)
