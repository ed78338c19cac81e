"""The source of entropy and the console; expectations are from Virtual I/O Device 1.1, 5.3 and 5.4."""

import struct

import pytest
from virtio_driver import EVENT_IDX, NEEDS_RESET

from revirt.machine.virtio.console import BACKLOG_SIZE, Console
from revirt.machine.virtio.rng import Rng

RECEIVE, TRANSMIT = 0, 1


def make_rng(memory, irq, reschedule):
    return Rng("rng0", memory, irq=irq, reschedule=reschedule)


@pytest.fixture
def printed():
    return bytearray()


@pytest.fixture
def drained():
    return []


@pytest.fixture
def make_console(printed, drained):
    return lambda memory, irq, reschedule: Console(
        "console1", memory, irq=irq, reschedule=reschedule, transmit=printed.extend, size=(80, 25),
        drained=lambda: drained.append(True),
    )  # fmt: skip


# -- entropy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "wanted"), [([8], 8), ([64], 64), ([10, 30], 40), ([4096], 64)])
def test_entropy_is_wanted_for_as_much_as_a_buffer_holds(driver_of, room, wanted):
    driver = driver_of(make_rng).start()
    rng = driver.pc.function
    assert rng.wanted == 0

    head = driver.offer(0, writable=room)
    assert rng.wanted == 0
    rng.service()
    assert rng.wanted == wanted

    rng.feed(bytes(range(wanted)))
    assert driver.used(0) == [(head, wanted)]
    assert driver.written(0, head, wanted) == bytes(range(wanted))
    assert rng.wanted == 0
    assert driver.pc.level


def test_entropy_is_wanted_for_one_buffer_after_the_other(driver_of):
    driver = driver_of(make_rng).start()
    rng = driver.pc.function
    heads = [driver.offer(0, writable=[size]) for size in (16, 0, 32)]
    rng.service()

    rng.feed(b"a" * 10)
    assert driver.used(0) == [(heads[0], 10), (heads[1], 0)]
    assert rng.wanted == 32

    rng.feed(b"b" * 100)
    assert driver.used(0) == [(heads[2], 32)]
    rng.feed(b"c")
    assert driver.used(0) == []


def test_buffers_without_room_for_entropy_come_back_empty(driver_of):
    driver = driver_of(make_rng).start()

    head = driver.offer(0, [b"to read"])
    driver.pc.function.service()

    assert driver.pc.function.wanted == 0
    assert driver.used(0) == [(head, 0)]


def test_nothing_is_wanted_after_a_reset(driver_of):
    driver = driver_of(make_rng).start()
    driver.offer(0, writable=[64])
    driver.pc.function.service()

    driver.status(0)

    assert driver.pc.function.wanted == 0


def test_a_guest_that_takes_its_buffer_away_stops_the_source(driver_of):
    driver = driver_of(make_rng).start()
    rng, ring = driver.pc.function, driver.rings[0]
    driver.offer(0, writable=[64])
    rng.service()
    driver.pc.put(ring.descriptors, struct.pack("<QIHH", 0xFFFF_FFF0, 64, 2, 0))

    rng.feed(bytes(64))

    assert driver.status() & NEEDS_RESET
    assert rng.wanted == 0


def test_a_restored_source_wants_the_same(driver_of, through_bytes):
    driver = driver_of(make_rng).start()
    pc, rng = driver.pc, driver.pc.function
    driver.offer(0, writable=[48])
    rng.service()
    twin = make_rng(pc.memory, pc._line, pc._look_up)

    twin.restore(through_bytes(rng.save()))

    assert twin.wanted == 48
    assert twin.save() == rng.save()
    twin.feed(bytes(48))
    assert len(driver.used(0)) == 1


def test_no_entropy_is_wanted_while_the_device_is_kept_from_memory(driver_of):
    """Whoever feeds it until it is content would do so for ever."""
    driver = driver_of(make_rng).start()
    rng = driver.pc.function
    head = driver.offer(0, writable=[16])
    rng.service()

    driver.pc.set_config(0x04, 0x3, 2)
    assert rng.wanted == 0
    driver.pc.set_config(0x04, 0x7, 2)
    assert rng.wanted == 16
    rng.feed(bytes(16))
    assert driver.used(0) == [(head, 16)]


def test_a_mistake_leaves_nothing_behind_when_an_earlier_state_is_restored(driver_of):
    """What was given back before the mistake interrupted later, in a life in which it had not happened."""
    driver = driver_of(make_rng).start(accepted=~EVENT_IDX)
    rng = driver.pc.function
    driver.offer(0, writable=[16])
    driver.publish(0, 0xFFFF)
    earlier = rng.save()
    rng.service()
    rng.feed(bytes(16))
    assert driver.status() & NEEDS_RESET

    rng.restore(earlier)
    rng.drive()
    rng.service()
    assert rng.wanted == 16
    assert not driver.pc.level


# -- the console --------------------------------------------------------------------------------------------------


def test_the_console_has_one_port_and_a_size(driver_of, make_console):
    driver = driver_of(make_console)

    assert driver.offered() & 0xFFFF == 1
    assert struct.unpack("<HHI", driver.device_config(0, 8)) == (80, 25, 1)


def test_what_is_printed_comes_out_in_order(driver_of, make_console, printed):
    driver = driver_of(make_console).start()
    driver.offer(TRANSMIT, [b"hello, ", b"world"])
    driver.offer(TRANSMIT, [b"!\n"], indirect=True)
    assert not printed

    driver.pc.function.service()

    assert printed == b"hello, world!\n"
    assert len(driver.used(TRANSMIT)) == 2


def test_what_is_typed_waits_for_buffers(driver_of, make_console, drained):
    driver = driver_of(make_console)
    console = driver.pc.function
    assert console.receive(b"typed early ") == 12
    assert console.is_backlogged

    driver.start()
    head = driver.offer(RECEIVE, writable=[100])
    console.service()
    assert driver.used(RECEIVE) == [(head, 12)]
    assert driver.written(RECEIVE, head, 12) == b"typed early "
    assert not console.is_backlogged
    assert drained == [True]
    assert driver.pc.level


def test_what_is_typed_is_spread_over_buffers_as_they_come(driver_of, make_console):
    driver = driver_of(make_console).start()
    console = driver.pc.function
    heads = [driver.offer(RECEIVE, writable=[4]) for _ in range(2)]
    console.service()

    console.receive(b"0123456789")
    assert driver.used(RECEIVE) == [(heads[0], 4), (heads[1], 4)]
    assert console.is_backlogged

    head = driver.offer(RECEIVE, writable=[4])
    console.service()
    assert driver.written(RECEIVE, head, 2) == b"89"
    assert not console.is_backlogged


def test_no_more_is_held_back_than_fits(driver_of, make_console):
    console = driver_of(make_console).pc.function

    assert console.receive(bytes(BACKLOG_SIZE + 5)) == BACKLOG_SIZE
    assert console.receive(b"x") == 0


def test_a_restored_console_goes_on_where_it_was(driver_of, make_console, printed, through_bytes):
    driver = driver_of(make_console).start()
    pc, console = driver.pc, driver.pc.function
    console.receive(b"typed")
    driver.offer(TRANSMIT, [b"printed"])
    twin = make_console(pc.memory, pc._line, pc._look_up)

    twin.restore(through_bytes(console.save()))

    assert twin.save() == console.save()
    twin.service()
    assert printed == b"printed"
    head = driver.offer(RECEIVE, writable=[10], kick=False)
    twin.notify(RECEIVE)
    twin.service()
    assert driver.written(RECEIVE, head, 5) == b"typed"
