"""What virtio functions on PCI share; expectations are from Virtual I/O Device 1.1, chapters 2, 3 and 4.1."""

import struct

import pytest
from virtio_driver import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    EVENT_IDX,
    FEATURES_OK,
    INDIRECT,
    INDIRECT_DESC,
    NEEDS_RESET,
    NEXT,
    VERSION_1,
    WRITE,
    LegacyDriver,
    Machine,
    ModernDriver,
)

from revirt.machine.virtio.console import Console
from revirt.machine.virtio.net import Net
from revirt.machine.virtio.rng import Rng

RECEIVE, TRANSMIT = 0, 1


@pytest.fixture
def printed():
    return []


@pytest.fixture
def make(printed):
    """A console: the simplest device that both reads and writes."""
    return lambda memory, irq, reschedule: Console(
        "console1", memory, irq=irq, reschedule=reschedule, transmit=printed.append
    )


# -- finding the device -------------------------------------------------------------------------------------------


def test_the_function_is_transitional(modern_driver_of, make):
    pc = modern_driver_of(make).pc

    assert pc.config(0) == 0x1003_1AF4
    assert pc.config(0x2C) == 0x0003_1AF4
    assert pc.config(8, 1) == 0
    assert pc.config(0x10) & 1
    assert not pc.config(0x20) & 0xF
    assert pc.config(0x3C, 2) == 0x010B


def test_every_structure_has_a_capability(modern_driver_of, make):
    driver = modern_driver_of(make)

    assert set(driver.places) == {1, 2, 3, 4}
    assert driver.places[1][1] == 56
    assert driver.access


def test_a_device_without_configuration_has_no_capability_for_it(modern_driver_of):
    driver = modern_driver_of(
        lambda memory, irq, reschedule: Rng("rng0", memory, irq=irq, reschedule=reschedule)
    )

    assert set(driver.places) == {1, 2, 3}


def test_there_is_no_msi(modern_driver_of, make):
    driver = modern_driver_of(make)

    driver.set("msix_config", 0)

    assert driver.get("msix_config") == 0xFFFF
    assert driver.get("queue_msix_vector") == 0xFFFF


# -- initialising it ----------------------------------------------------------------------------------------------


def test_the_driver_and_the_device_agree_on_features(modern_driver_of, make):
    driver = modern_driver_of(make)
    driver.status(ACKNOWLEDGE | DRIVER)

    driver.accept(VERSION_1 | EVENT_IDX)

    assert driver.status() & FEATURES_OK
    driver.set("driver_feature_select", 0)
    assert driver.get("driver_feature") == EVENT_IDX
    driver.set("driver_feature", 0)
    assert driver.get("driver_feature") == EVENT_IDX


@pytest.mark.parametrize("features", [VERSION_1 | 1 << 5, VERSION_1 | 1 << 63, EVENT_IDX, 0])
def test_features_that_were_not_offered_or_are_those_of_legacy_drivers_are_refused(
    modern_driver_of, make, features
):
    driver = modern_driver_of(make)
    driver.status(ACKNOWLEDGE | DRIVER)

    driver.accept(features)

    assert not driver.status() & FEATURES_OK


def test_features_beyond_the_64_read_as_none(modern_driver_of, make):
    driver = modern_driver_of(make)

    for select in (2, 63, 0xFFFF_FFFF):
        driver.set("device_feature_select", select)
        driver.set("driver_feature_select", select)
        driver.set("driver_feature", 0xFFFF_FFFF)

        assert driver.get("device_feature") == 0
        assert driver.get("driver_feature") == 0
    driver.set("driver_feature_select", 0)
    assert driver.get("driver_feature") == 0


def test_a_legacy_driver_sees_32_bits_of_features(legacy_driver_of, make):
    driver = legacy_driver_of(make)

    assert driver.offered() & (INDIRECT_DESC | EVENT_IDX) == INDIRECT_DESC | EVENT_IDX
    driver.accept(0xFFFF_FFFF)
    assert driver.pc.ports.read(driver.base + 4, 4) == driver.offered()


def test_queues_have_256_buffers_and_those_that_do_not_exist_none(driver_of, make):
    driver = driver_of(make)

    assert driver.count() == 2
    if driver.is_modern:
        assert driver.get("queue_size") == 256
        driver.set("queue_select", 2)
        assert driver.get("queue_size") == 0
        driver.set("queue_enable", 1)
        assert driver.get("queue_enable") == 0


@pytest.mark.parametrize(
    ("size", "kept"), [(16, 16), (1, 1), (256, 256), (0, 256), (100, 256), (512, 256), (0x8000, 256)]
)
def test_a_queue_may_be_made_smaller_to_a_power_of_two(modern_driver_of, make, size, kept):
    driver = modern_driver_of(make)

    driver.set("queue_size", size)

    assert driver.get("queue_size") == kept


def test_a_queue_that_is_enabled_stays_where_it_is(modern_driver_of, make):
    driver = modern_driver_of(make)
    driver.set_up(0)

    driver.set("queue_desc", 0x5000)
    driver.set("queue_size", 32)
    driver.set("queue_enable", 0)

    assert driver.get("queue_desc") == driver.rings[0].descriptors
    assert driver.get("queue_size") == 64
    assert driver.get("queue_enable") == 1


def test_a_queue_may_lie_beyond_4_gib(modern_driver_of, make):
    driver = modern_driver_of(make)

    driver.set("queue_driver", 0x1234_5678_9ABC_DEF0)

    assert driver.get("queue_driver") == 0x1234_5678_9ABC_DEF0


def test_a_legacy_driver_reads_back_where_its_queue_is(legacy_driver_of, make):
    driver = legacy_driver_of(make)
    assert driver.pc.ports.read(driver.base + 8, 4) == 0

    driver.set_up(1)
    assert driver.pc.ports.read(driver.base + 8, 4) == 0x14

    driver.pc.ports.write(driver.base + 8, 4, 0)
    assert driver.pc.ports.read(driver.base + 8, 4) == 0


def test_a_reset_forgets_everything_but_where_the_windows_are(driver_of, make):
    driver = driver_of(make).start()
    fresh = make(driver.pc.memory, driver.pc._line, driver.pc._look_up).save()
    driver.offer(TRANSMIT, [b"x"])
    driver.pc.function.service()
    assert driver.pc.level
    config = driver.pc.function.save().transport.config

    driver.status(0)

    state = driver.pc.function.save()
    assert state.transport.config == config
    state.transport.config = fresh.transport.config
    state.transport.queue_select = fresh.transport.queue_select
    assert state == fresh
    assert not driver.pc.level


def test_what_was_notified_before_the_driver_was_ready_is_not_lost(driver_of, make, printed):
    # Some drivers from before 1.0 use a device before they say that it is ready (3.1.2).
    driver = driver_of(make)
    driver.status(ACKNOWLEDGE | DRIVER)
    driver.accept(driver.offered())
    driver.set_up(TRANSMIT)
    driver.offer(TRANSMIT, [b"early"])
    driver.pc.function.service()
    assert printed == []
    looked_up = driver.pc.lookups

    driver.status(driver.status() | DRIVER_OK)

    assert driver.pc.lookups > looked_up
    driver.pc.function.service()
    assert printed == [b"early"]


def test_the_driver_cannot_set_or_clear_the_need_of_a_reset(driver_of, make):
    driver = driver_of(make).start()

    assert not driver.status(driver.status() | NEEDS_RESET) & NEEDS_RESET
    driver.describe(driver.rings[TRANSMIT].descriptors, [(0xFFFF_FFFF, 1, 0)])
    driver.publish(TRANSMIT, 0)
    driver.kick(TRANSMIT)
    driver.pc.function.service()

    assert driver.status(driver.status() & ~NEEDS_RESET) & NEEDS_RESET


# -- notifications and interrupts ---------------------------------------------------------------------------------


def test_a_notification_of_no_queue_is_ignored(driver_of, make):
    driver = driver_of(make).start()
    driver.pc.function.service()
    looked_up = driver.pc.lookups

    if driver.is_modern:
        driver.pc.mmio.write(driver.places[2][0] + 4 * 2, 2, 2)
        driver.pc.mmio.write(driver.places[2][0] + 0xFFC, 4, 0)
    else:
        driver.pc.ports.write(driver.base + 16, 2, 0xFFFF)

    assert driver.pc.lookups == looked_up
    assert driver.pc.function.save().transport.kicked == 0


def test_an_interrupt_is_pending_in_the_status_register_until_it_is_read(driver_of, make):
    driver = driver_of(make).start()
    driver.offer(TRANSMIT, [b"x"])
    assert not driver.pc.config(6, 2) & 8

    driver.pc.function.service()

    assert driver.pc.config(6, 2) & 8
    assert driver.isr() == 1
    assert driver.isr() == 0
    assert not driver.pc.config(6, 2) & 8


def test_serving_twice_is_serving_once(driver_of, make, printed):
    driver = driver_of(make).start()
    driver.offer(TRANSMIT, [b"x"])
    driver.pc.function.service()
    before, memory = driver.pc.function.save(), bytes(driver.pc.ram)

    driver.pc.function.service()

    assert driver.pc.function.save() == before
    assert driver.pc.ram == memory
    assert printed == [b"x"]


def test_the_core_is_told_of_all_that_is_written(driver_of, make):
    driver = driver_of(make).start()
    driver.offer(RECEIVE, writable=[5])
    driver.pc.function.service()
    before = bytes(driver.pc.ram)
    driver.pc.core.told.clear()

    driver.pc.function.receive(b"hello")

    changed = {
        place for place, (old, new) in enumerate(zip(before, driver.pc.ram, strict=True)) if old != new
    }
    told = {place for start, size in driver.pc.core.told for place in range(start, start + size)}
    assert changed
    assert changed <= told


# -- queues -------------------------------------------------------------------------------------------------------


def test_a_queue_goes_round(driver_of, make, printed):
    driver = driver_of(make).start()
    for number in range(600):
        driver.rings[TRANSMIT].free = number % 8
        driver.offer(TRANSMIT, [b"%d" % number])
        driver.pc.function.service()
        assert driver.used(TRANSMIT) == [(number % 8, 0)]

    assert printed == [b"%d" % number for number in range(600)]


def test_a_queue_goes_round_its_16_bit_indices(driver_of, make, printed):
    driver = driver_of(make).start()
    ring = driver.rings[TRANSMIT]
    state = driver.pc.function.save()
    state.transport.queues[TRANSMIT].next_available = state.transport.queues[TRANSMIT].next_used = 0xFFFE
    driver.pc.function.restore(state)
    ring.offered = ring.seen = 0xFFFE
    driver.pc.put(ring.used + 2, b"\xfe\xff")

    for _ in range(4):
        driver.offer(TRANSMIT, [b"x"])
    driver.pc.function.service()

    assert len(driver.used(TRANSMIT)) == 4
    assert driver.pc.level
    assert not driver.status() & NEEDS_RESET


def test_descriptors_may_come_before_an_indirect_table(driver_of, make, printed):
    # 2.6.5.3.2
    driver = driver_of(make).start()
    ring = driver.rings[TRANSMIT]
    driver.pc.put(0x40000, b"direct, indirect")
    driver.describe(0x50000, [(0x40008, 4, 0), (0x4000C, 4, 0)])
    driver.describe(ring.descriptors, [(0x40000, 8, 0), (0x50000, 32, INDIRECT)])
    driver.publish(TRANSMIT, 0)
    driver.kick(TRANSMIT)

    driver.pc.function.service()

    assert printed == [b"direct, indirect"]


def entry(address, size, flags, following=0):
    return struct.pack("<QIHH", address, size, flags, following)


@pytest.mark.parametrize(
    "descriptors",
    [
        [entry(0x40000, 1, NEXT, 0)],
        [entry(0x40000, 1, NEXT, 1), entry(0x40000, 1, NEXT, 0)],
        [entry(0x40000, 1, NEXT, 0xFFFF)],
        [entry(0x40000, 1, WRITE | NEXT, 1), entry(0x40000, 1, 0)],
        [entry(0x40000, 15, INDIRECT)],
        [entry(0x40000, 0, INDIRECT)],
        [entry(0x40000, 0xFFFF_FFF0, INDIRECT)],
        [entry(0x40000, 16, INDIRECT | NEXT, 1), entry(0x40000, 1, 0)],
        [entry(0xFFFF_FFFF_FFFF_FFF0, 16, INDIRECT)],
        [entry(0xF_FFF8, 16, INDIRECT)],
        [entry(0x60000, 16, INDIRECT)],
        [entry(0x60010, 32, INDIRECT)],
        [entry(0x60030, 16, INDIRECT)],
        [entry(0xF_FFFF, 2, 0)],
        [entry(0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF, 0)],
    ],
    ids=[
        "loop of one", "loop of two", "next outside", "read behind write", "part of a descriptor", "empty table",
        "table of gigabytes", "next of a table", "table outside", "table across the end", "table in a table",
        "loop in a table", "next outside a table", "data across the end", "data outside",
    ],
)  # fmt: skip
def test_a_chain_that_breaks_the_rules_stops_the_device(driver_of, make, printed, descriptors):
    driver = driver_of(make).start()
    driver.pc.put(0x60000, entry(0x60000, 16, INDIRECT))
    driver.pc.put(0x60010, entry(0x40000, 1, NEXT, 1) + entry(0x40000, 1, NEXT, 0))
    driver.pc.put(0x60030, entry(0x40000, 1, NEXT, 1))
    driver.pc.put(driver.rings[TRANSMIT].descriptors, b"".join(descriptors))
    driver.publish(TRANSMIT, 0)
    driver.kick(TRANSMIT)

    driver.pc.function.service()

    assert driver.status() & NEEDS_RESET
    assert driver.isr() == 2
    assert printed == []
    assert driver.used(TRANSMIT) == []


def test_a_head_outside_the_queue_stops_the_device(driver_of, make):
    driver = driver_of(make).start()
    driver.publish(TRANSMIT, driver.rings[TRANSMIT].size)
    driver.kick(TRANSMIT)

    driver.pc.function.service()

    assert driver.status() & NEEDS_RESET


def test_more_buffers_than_the_queue_has_stop_the_device(driver_of, make, printed):
    driver = driver_of(make).start()
    ring = driver.rings[TRANSMIT]
    driver.pc.put(ring.available + 2, struct.pack("<H", ring.size + 1))
    driver.kick(TRANSMIT)

    driver.pc.function.service()

    assert driver.status() & NEEDS_RESET
    assert printed == []


@pytest.mark.parametrize("part", ["queue_desc", "queue_driver", "queue_device"])
@pytest.mark.parametrize("place", [0xF_FFFF, 0x10_0000, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF])
def test_no_part_of_a_queue_may_lie_outside_memory(modern_driver_of, make, part, place):
    driver = modern_driver_of(make).start(queues=())
    places = {"queue_desc": 0x10000, "queue_driver": 0x11000, "queue_device": 0x12000, part: place}
    driver.set("queue_select", TRANSMIT)
    driver.set("queue_size", 64)
    for name, address in places.items():
        driver.set(name, address)
    driver.set("queue_enable", 1)
    driver.pc.put(0x10000, entry(0x40000, 1, 0))
    driver.pc.put(0x11000, struct.pack("<HHH", 0, 1, 0))
    driver.kick(TRANSMIT)
    before = len(driver.pc.ram)

    driver.pc.function.service()

    assert driver.status() & NEEDS_RESET
    assert len(driver.pc.ram) == before


# -- the window in configuration space ----------------------------------------------------------------------------


def access(pc, place, bar, offset, length):
    pc.set_config(place + 4, bar, 1)
    pc.set_config(place + 8, offset)
    pc.set_config(place + 12, length)


@pytest.mark.parametrize("command", [0, 7])
def test_every_window_can_be_reached_through_configuration_space(modern_driver_of, make, command):
    driver = modern_driver_of(make)
    pc, place = driver.pc, driver.access
    pc.set_config(4, command, 2)

    access(pc, place, 4, 20, 1)
    pc.set_config(place + 16, ACKNOWLEDGE, 1)
    assert pc.config(place + 16, 1) == ACKNOWLEDGE

    access(pc, place, 0, 18, 1)
    assert pc.config(place + 16, 1) == ACKNOWLEDGE

    access(pc, place, 4, 24, 2)
    assert pc.config(place + 16, 2) == 256


@pytest.mark.parametrize(
    ("bar", "offset", "length"),
    [
        (1, 0, 4),
        (5, 0, 4),
        (255, 0, 4),
        (4, 1, 4),
        (4, 0x4000, 4),
        (4, 0xFFFF_FFFC, 4),
        (4, 0, 3),
        (4, 0, 0),
        (0, 64, 1),
    ],
)
def test_an_access_to_nowhere_does_nothing(modern_driver_of, make, bar, offset, length):
    driver = modern_driver_of(make)
    pc, place = driver.pc, driver.access
    before = driver.pc.function.save().transport

    access(pc, place, bar, offset, length)
    pc.set_config(place + 16, 0x1234_5678)

    assert pc.config(place + 16) == 0x1234_5678
    after = driver.pc.function.save().transport
    after.config = before.config
    assert after == before


# -- anything -----------------------------------------------------------------------------------------------------


class Everything:
    """All registers of a live device in one range: configuration space, the ports, and parts of the memory window."""

    PARTS = ((None, 0, 256), (0, 0, 32), (4, 0, 64), (4, 0x1000, 4), (4, 0x2000, 16), (4, 0x3000, 16))
    SIZE = sum(size for _, _, size in PARTS)

    def __init__(self, make, driver):
        self.driver = driver(Machine(make))
        self.driver.start()
        self.driver.offer(RECEIVE, writable=[100])
        self.driver.offer(TRANSMIT, [bytes(100)])
        self.function = self.driver.pc.function

    def save(self):
        # A state goes with the memory of its moment.
        Everything.saved_memory = bytes(self.driver.pc.ram)
        return self.function.save()

    def restore(self, state):
        self.driver.pc.put(0, Everything.saved_memory)
        self.function.restore(state)

    def place(self, offset):
        for bar, start, size in self.PARTS:
            if offset < size:
                return bar, start + offset
            offset -= size
        raise AssertionError

    def read(self, offset, size):
        bar, offset = self.place(offset)
        if bar is None:
            return self.function.read_config(offset, size)
        return self.function.bars[bar].registers.read(offset, size)

    def write(self, offset, size, value):
        bar, offset = self.place(offset)
        if bar is None:
            self.function.write_config(offset, size, value)
        else:
            self.function.bars[bar].registers.write(offset, size, value)
        self.function.service()


def make_net(memory, irq, reschedule):
    return Net("net0", memory, mac=bytes(6), irq=irq, reschedule=reschedule, send=lambda frame: None)


def make_rng(memory, irq, reschedule):
    return Rng("rng0", memory, irq=irq, reschedule=reschedule)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("driver", [LegacyDriver, ModernDriver])
def test_no_guest_can_upset_it(attack, make, driver, size):
    attack(lambda _: Everything(make, driver), Everything.SIZE, sizes=(size,))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_no_guest_can_upset_a_network_card(attack, size):
    attack(lambda _: Everything(make_net, ModernDriver), Everything.SIZE, sizes=(size,))


def test_a_state_of_another_kind_of_device_is_refused(modern_driver_of, make):
    driver = modern_driver_of(make)
    state = driver.pc.function.save()
    other = make_rng(driver.pc.memory, driver.pc._line, driver.pc._look_up)

    with pytest.raises(ValueError, match="rng0 has 1 queues"):
        other.restore_transport(state.transport)


@pytest.mark.parametrize("size", [0, 3, 512])
def test_a_state_with_a_queue_of_an_impossible_size_is_refused(modern_driver_of, make, size):
    function = modern_driver_of(make).pc.function
    state = function.save()
    state.transport.queues[0].size = size

    with pytest.raises(ValueError, match="console1 has 2 queues"):
        function.restore(state)
