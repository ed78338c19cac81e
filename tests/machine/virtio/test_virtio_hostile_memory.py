"""What a guest may put into the memory that virtqueues lie in: anything, at any time.

Every device is brought up by a driver, then its rings, its tables and what they point to are overwritten at random,
with values that are likely to mean something.  Nothing may be raised, nothing written outside memory, and a twin that
takes up state and memory half way must go on in the same way.
"""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtio_driver import Machine, ModernDriver

from revirt.machine.disk import DiskError
from revirt.machine.state import from_plain, to_plain
from revirt.machine.virtio.blk import Blk
from revirt.machine.virtio.console import Console
from revirt.machine.virtio.net import Net
from revirt.machine.virtio.rng import Rng

RINGS = 0x10000
ADDRESSES = (RINGS, RINGS + 0x1000, RINGS + 0x2000, RINGS + 0x4000, 0x40000, 0xF_FFF0, 0xF_FFFF, 0x10_0000)
SIZES = (0, 1, 11, 12, 16, 17, 32, 513, 1514, 0x1000, 0xFFFF_FFF0, 0xFFFF_FFFF)


class Image:
    """A disk that reads as zeros and breaks at its end."""

    sectors = 1 << 20
    is_read_only = False

    def read(self, sector, count):
        if sector + count == self.sectors:
            raise DiskError
        return bytes(512 * count)

    def write(self, sector, data):
        assert sector + len(data) // 512 <= self.sectors


def make_blk(memory, irq, reschedule, *, at_once=True):
    return Blk("blk0", memory, Image(), irq=irq, reschedule=reschedule, completes_at_once=at_once)


def make_waiting_blk(memory, irq, reschedule):
    return make_blk(memory, irq, reschedule, at_once=False)


def make_net(memory, irq, reschedule):
    return Net("net0", memory, mac=bytes(6), irq=irq, reschedule=reschedule, send=lambda frame: None)


def make_rng(memory, irq, reschedule):
    return Rng("rng0", memory, irq=irq, reschedule=reschedule)


def make_console(memory, irq, reschedule):
    return Console("console1", memory, irq=irq, reschedule=reschedule, transmit=lambda data: None)


descriptors = st.builds(
    lambda *fields: struct.pack("<QIHH", *fields),
    st.one_of(st.sampled_from(ADDRESSES), st.integers(0, (1 << 64) - 1)),
    st.sampled_from(SIZES),
    st.integers(0, 7),
    st.one_of(st.integers(0, 3), st.integers(0, 0xFFFF)),
)
requests = st.builds(
    lambda kind, sector: struct.pack("<IIQ", kind, 0, sector),
    st.sampled_from((0, 1, 4, 8, 13, 99)),
    st.sampled_from((0, 1, (1 << 20) - 1, 1 << 20, (1 << 64) - 1)),
)
words = st.lists(st.integers(0, 300), min_size=1, max_size=6).map(
    lambda each: struct.pack(f"<{len(each)}H", *each)
)
places = st.builds(
    lambda base, index: base + 16 * index,
    st.sampled_from((*ADDRESSES[:5], RINGS + 0x5000)),
    st.integers(0, 3),
)
acts = st.one_of(
    st.tuples(st.just("put"), places, st.one_of(descriptors, requests, words)),
    # Three buffers more, whatever there was before.
    st.tuples(st.just("offer"), st.integers(0, 1), st.integers(0, 70)),
    st.tuples(st.just("arrive"), st.integers(0, 3000), st.just(0)),
    st.tuples(st.just("reset"), st.just(0), st.just(0)),
)


def do(driver, act):
    """Do *act*, let the device act, and return what it shows then."""
    kind, first, second = act
    pc, device = driver.pc, driver.pc.function
    if kind == "put":
        pc.put(first, second[: len(pc.ram) - first])
    elif kind == "reset":
        driver.start()
    elif kind == "offer":
        index = first % len(driver.rings)
        ring = driver.rings[index]
        pc.put(ring.available + 2, struct.pack("<H", pc.u16(ring.available + 2) + 3 & 0xFFFF))
        pc.put(ring.available + 4, struct.pack("<HHH", second, 0, 1))
        driver.kick(index)
    elif isinstance(device, Blk):
        for ticket in device.pending[: first % 4]:
            device.complete(ticket.ticket)
    elif isinstance(device, Rng):
        device.feed(bytes(device.wanted))
    else:
        device.receive(bytes(first))
    device.service()
    return device.save(), bytes(pc.ram), pc.level


@pytest.mark.parametrize("make", [make_blk, make_waiting_blk, make_net, make_rng, make_console])
@settings(max_examples=150)
@given(st.lists(acts, max_size=25))
def test_nothing_in_memory_upsets_a_device(make, sequence):
    driver, twin = ModernDriver(Machine(make)).start(), ModernDriver(Machine(make)).start()
    half = len(sequence) // 2
    for act in sequence[:half]:
        do(driver, act)

    state = driver.pc.function.save()
    twin.pc.function.restore(from_plain(type(state), to_plain(state)))
    twin.pc.function.drive()
    twin.pc.put(0, driver.pc.ram)

    for act in sequence[half:]:
        assert do(driver, act) == do(twin, act)
    assert len(driver.pc.ram) == 1 << 20
