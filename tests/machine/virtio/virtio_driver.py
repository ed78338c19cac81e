"""A driver for the tests: lays out virtqueues by hand and works the registers, as Virtual I/O Device 1.1 says.

Written from the specification's structures, not from the devices: an offset that both have wrong would not be found.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from revirt.machine.bus import Bus, MmioBus
from revirt.machine.memory import GuestMemory
from revirt.machine.pci import ADDRESS_SIZES, CONFIG_ADDRESS, CONFIG_DATA, DATA_SIZES, Pci
from revirt.machine.pci_function import preset

MEMORY_SIZE = 1 << 20
SLOT = 3

NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 0x40

INDIRECT_DESC, EVENT_IDX, VERSION_1 = 1 << 28, 1 << 29, 1 << 32

# struct virtio_pci_common_cfg (4.1.4.3).
COMMON = {
    "device_feature_select": (0, 4), "device_feature": (4, 4), "driver_feature_select": (8, 4),
    "driver_feature": (12, 4), "msix_config": (16, 2), "num_queues": (18, 2), "device_status": (20, 1),
    "config_generation": (21, 1), "queue_select": (22, 2), "queue_size": (24, 2), "queue_msix_vector": (26, 2),
    "queue_enable": (28, 2), "queue_notify_off": (30, 2), "queue_desc": (32, 8), "queue_driver": (40, 8),
    "queue_device": (48, 8),
}  # fmt: skip


class Ram:
    """What `GuestMemory` needs of a core, which notes what it is told of."""

    def __init__(self, size=MEMORY_SIZE):
        self.bytes = bytearray(size)
        self.ram = memoryview(self.bytes)
        self.told = []

    def written(self, start, size, _comes_with_branch):
        self.told.append((start, size))


@dataclass
class Ring:
    """Where a queue lies, and how far the driver is in it."""

    index: int
    size: int
    descriptors: int
    available: int
    used: int
    offered: int = 0
    seen: int = 0
    free: int = 0
    buffers: dict = field(default_factory=dict)


class Machine:
    """A bus with one virtio function in slot 3; the line's level, and how often it was asked to look up."""

    def __init__(self, make):
        self.core = Ram()
        self.memory = GuestMemory(self.core)
        self.ram = self.core.bytes
        self.level = False
        self.lookups = 0
        self.function = make(self.memory, self._line, self._look_up)
        self.ports, self.mmio, self.pci = Bus(), MmioBus(), Pci()
        self.pci.plug(SLOT, self.function)
        self.ports.map(0xCF8, 4, self.pci, CONFIG_ADDRESS, sizes=ADDRESS_SIZES)
        self.ports.map(0xCFC, 4, self.pci, CONFIG_DATA, sizes=DATA_SIZES)
        self.ports.ask_elsewhere(self.pci.find_port)
        self.mmio.ask_elsewhere(self.pci.find_memory)
        preset([(SLOT, self.function)], lambda slot: 11)

    def _line(self, level):
        self.level = level

    def _look_up(self):
        self.lookups += 1

    def config(self, register, size=4):
        """Return *size* bytes of configuration space."""
        self.ports.write(0xCF8, 4, 0x8000_0000 | SLOT << 11 | register & 0xFC)
        return self.ports.read(0xCFC + (register & 3), size)

    def set_config(self, register, value, size=4):
        """Write *size* bytes of configuration space."""
        self.ports.write(0xCF8, 4, 0x8000_0000 | SLOT << 11 | register & 0xFC)
        self.ports.write(0xCFC + (register & 3), size, value)

    def put(self, address, data):
        """Write memory as the guest does."""
        self.ram[address : address + len(data)] = data

    def u16(self, address):
        """Return a 16-bit value in memory."""
        return struct.unpack_from("<H", self.ram, address)[0]


class Driver:
    """What both kinds of driver have in common; ``pc`` is the machine, ``rings`` the queues that were set up."""

    def __init__(self, pc):
        self.pc = pc
        self.rings = {}
        self.features = 0
        self._next_data = 0x40000

    def start(self, accepted=~0, queues=None):
        """Bring the device to life (3.1.1), accepting what it offers of *accepted*."""
        self.status(0)
        self.status(ACKNOWLEDGE)
        self.status(ACKNOWLEDGE | DRIVER)
        self.features = self.offered() & accepted
        self.accept(self.features)
        for index in range(self.count()) if queues is None else queues:
            self.set_up(index)
        self.status(self.status() | DRIVER_OK)
        return self

    def place(self, size):
        """Return the address of *size* bytes that nobody uses."""
        address, self._next_data = self._next_data, self._next_data + size + -size % 16
        return address

    def offer(self, index, readable=(), writable=(), *, indirect=False, kick=True):
        """Make a buffer available: bytes to read, sizes to write; return its head."""
        ring = self.rings[index]
        segments = []
        for data in readable:
            address = self.place(len(data))
            self.pc.put(address, data)
            segments.append((address, len(data), 0))
        segments += [(self.place(size), size, WRITE) for size in writable]
        head = ring.free
        if indirect:
            table = self.place(16 * len(segments))
            self.describe(table, segments)
            self.describe(ring.descriptors + 16 * head, [(table, 16 * len(segments), INDIRECT)])
            ring.free += 1
        else:
            self.describe(ring.descriptors + 16 * head, segments, first=head)
            ring.free += len(segments)
        ring.buffers[head] = [(address, size) for address, size, flags in segments if flags & WRITE]
        self.publish(index, head)
        if kick:
            self.kick(index)
        return head

    def describe(self, table, segments, first=0):
        """Write descriptors for *segments* to *table*, linked from number *first* on."""
        for place, (address, size, flags) in enumerate(segments):
            last = place == len(segments) - 1
            entry = struct.pack(
                "<QIHH", address, size, flags | (0 if last else NEXT), 0 if last else first + place + 1
            )
            self.pc.put(table + 16 * place, entry)

    def publish(self, index, head):
        """Put *head* into the available ring."""
        ring = self.rings[index]
        self.pc.put(ring.available + 4 + 2 * (ring.offered % ring.size), struct.pack("<H", head))
        ring.offered = ring.offered + 1 & 0xFFFF
        self.pc.put(ring.available + 2, struct.pack("<H", ring.offered))

    def used(self, index):
        """Return the buffers that came back since the last call: head and bytes written."""
        ring = self.rings[index]
        came = []
        while ring.seen != self.pc.u16(ring.used + 2):
            came.append(struct.unpack_from("<II", self.pc.ram, ring.used + 4 + 8 * (ring.seen % ring.size)))
            ring.seen = ring.seen + 1 & 0xFFFF
        return came

    def written(self, index, head, size):
        """Return the first *size* bytes of what the device may write of a buffer."""
        parts = self.rings[index].buffers[head]
        return b"".join(self.pc.ram[address : address + length] for address, length in parts)[:size]

    def run(self, index, readable=(), writable=(), **how):
        """Offer a buffer, let the device act, and return what it wrote."""
        head = self.offer(index, readable, writable, **how)
        self.pc.function.service()
        ((back, size),) = self.used(index)
        assert back == head
        return self.written(index, head, size)


class LegacyDriver(Driver):
    """A driver from before version 1.0: ports only (4.1.4.8)."""

    is_modern = False

    @property
    def base(self):
        """The first port of the window."""
        return self.pc.config(0x10) & ~3

    def status(self, value=None):
        """Write the status if *value* is given, and return it."""
        if value is not None:
            self.pc.ports.write(self.base + 18, 1, value)
        return self.pc.ports.read(self.base + 18, 1)

    def isr(self):
        """Read the interrupt status."""
        return self.pc.ports.read(self.base + 19, 1)

    def offered(self):
        """Return the features offered."""
        return self.pc.ports.read(self.base, 4)

    def accept(self, features):
        """Accept *features*."""
        self.pc.ports.write(self.base + 4, 4, features)

    def count(self):
        """Return how many queues there are."""
        count = 0
        while True:
            self.pc.ports.write(self.base + 14, 2, count)
            if not self.pc.ports.read(self.base + 12, 2):
                return count
            count += 1

    def set_up(self, index):
        """Give queue *index* a place."""
        self.pc.ports.write(self.base + 14, 2, index)
        size = self.pc.ports.read(self.base + 12, 2)
        start = 0x10000 + 0x4000 * index
        available = start + 16 * size
        used = available + 6 + 2 * size + 4095 & ~4095
        self.rings[index] = Ring(index, size, start, available, used)
        self.pc.ports.write(self.base + 8, 4, start >> 12)

    def kick(self, index):
        """Notify of queue *index*."""
        self.pc.ports.write(self.base + 16, 2, index)

    def device_config(self, offset, size):
        """Return *size* bytes of the device's configuration."""
        parts = (self.pc.ports.read(self.base + 20 + offset + place, 1) for place in range(size))
        return bytes(parts)


class ModernDriver(Driver):
    """A driver since version 1.0, which finds its registers by capabilities (4.1.4)."""

    is_modern = True

    def __init__(self, pc):
        super().__init__(pc)
        self.places = {}
        self.access = self.multiplier = 0
        place = pc.config(0x34, 1)
        while place:
            kind, bar = pc.config(place + 3, 1), pc.config(place + 4, 1)
            assert pc.config(place, 1) == 0x09
            if kind == 5:
                self.access = place
            else:
                window = pc.config(0x10 + 4 * bar) & ~0xF
                self.places[kind] = (window + pc.config(place + 8), pc.config(place + 12))
            if kind == 2:
                self.multiplier = pc.config(place + 16)
            place = pc.config(place + 1, 1)

    def get(self, name):
        """Return a field of the common configuration."""
        offset, size = COMMON[name]
        return self.pc.mmio.read(self.places[1][0] + offset, size)

    def set(self, name, value):
        """Write a field of the common configuration."""
        offset, size = COMMON[name]
        self.pc.mmio.write(self.places[1][0] + offset, size, value)

    def status(self, value=None):
        """Write the status if *value* is given, and return it."""
        if value is not None:
            self.set("device_status", value)
        return self.get("device_status")

    def isr(self):
        """Read the interrupt status."""
        return self.pc.mmio.read(self.places[3][0], 1)

    def offered(self):
        """Return the features offered."""
        features = 0
        for half in range(2):
            self.set("device_feature_select", half)
            features |= self.get("device_feature") << 32 * half
        return features

    def accept(self, features):
        """Accept *features*, and be sure that the device is content."""
        for half in range(2):
            self.set("driver_feature_select", half)
            self.set("driver_feature", features >> 32 * half & 0xFFFF_FFFF)
        self.status(self.status() | FEATURES_OK)

    def count(self):
        """Return how many queues there are."""
        return self.get("num_queues")

    def set_up(self, index, size=64):
        """Give queue *index* a place, and a size smaller than offered."""
        self.set("queue_select", index)
        start = 0x10000 + 0x4000 * index
        ring = Ring(index, size, start, start + 0x1000, start + 0x2000)
        self.rings[index] = ring
        self.set("queue_size", size)
        self.set("queue_desc", ring.descriptors)
        self.set("queue_driver", ring.available)
        self.set("queue_device", ring.used)
        self.set("queue_enable", 1)

    def kick(self, index):
        """Notify of queue *index*."""
        self.set("queue_select", index)
        place = self.get("queue_notify_off") * self.multiplier
        assert place + 2 <= self.places[2][1]
        self.pc.mmio.write(self.places[2][0] + place, 2, index)

    def device_config(self, offset, size):
        """Return *size* bytes of the device's configuration."""
        start, length = self.places[4]
        assert offset + size <= length
        return bytes(self.pc.mmio.read(start + offset + place, 1) for place in range(size))
