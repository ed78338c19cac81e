"""The network card; expectations are from Virtual I/O Device 1.1, 5.1."""

import struct

import pytest
from virtio_driver import EVENT_IDX, NEEDS_RESET, WRITE

from revirt.machine.virtio.net import Net

RECEIVE, TRANSMIT = 0, 1
MAC = bytes.fromhex("525400123456")
MTU_FEATURE, MAC_FEATURE, MERGE, STATUS = 1 << 3, 1 << 5, 1 << 15, 1 << 16
FRAME = bytes(range(200))


@pytest.fixture
def sent():
    return []


@pytest.fixture
def make(sent):
    return lambda memory, irq, reschedule: Net(
        "net0", memory, mac=MAC, irq=irq, reschedule=reschedule, send=sent.append
    )


def header_of(driver):
    """Return a header without any offload, in the size that was negotiated (5.1.6.1)."""
    return bytes(12 if driver.is_modern or driver.features & MERGE else 10)


def test_the_card_offers_plain_frames_only(driver_of, make):
    driver = driver_of(make)

    assert driver.offered() & 0xFF_FFFF == MTU_FEATURE | MAC_FEATURE | MERGE | STATUS
    assert driver.device_config(0, 6) == MAC
    assert struct.unpack("<HHH", driver.device_config(6, 6)) == (1, 1, 1500)


@pytest.mark.parametrize("merges", [False, True])
def test_frames_are_sent_without_their_header(driver_of, make, sent, merges):
    driver = driver_of(make).start(~0 if merges else ~MERGE)

    head = driver.offer(TRANSMIT, [header_of(driver), FRAME[:50], FRAME[50:]])
    assert sent == []
    driver.pc.function.service()

    assert sent == [FRAME]
    assert driver.used(TRANSMIT) == [(head, 0)]


def test_many_frames_are_sent_for_one_notification_in_order(driver_of, make, sent):
    driver = driver_of(make).start()
    frames = [bytes((number,)) * 60 for number in range(20)]
    for frame in frames:
        driver.offer(TRANSMIT, [header_of(driver) + frame], kick=frame == frames[-1])

    driver.pc.function.service()

    assert sent == frames
    assert len(driver.used(TRANSMIT)) == 20


@pytest.mark.parametrize("size", [0, 5, 13, 65554])
def test_what_is_no_frame_is_not_sent(driver_of, make, sent, size):
    driver = driver_of(make).start()

    driver.offer(TRANSMIT, [header_of(driver) + bytes(size)])
    driver.offer(TRANSMIT, [b"short"])
    driver.pc.function.service()

    assert sent == []
    assert len(driver.used(TRANSMIT)) == 2


@pytest.mark.parametrize("merges", [False, True])
def test_a_frame_arrives_behind_a_header(driver_of, make, merges):
    driver = driver_of(make).start(~0 if merges else ~MERGE)
    card, header = driver.pc.function, header_of(driver)
    assert not card.can_receive
    assert not card.receive(FRAME)
    head = driver.offer(RECEIVE, writable=[len(header), 1514])

    assert card.can_receive
    assert card.receive(FRAME)

    ((back, written),) = driver.used(RECEIVE)
    count = struct.pack("<H", 1) if len(header) == 12 else b""
    assert (back, written) == (head, len(header) + len(FRAME))
    assert driver.written(RECEIVE, head, written) == bytes(10) + count + FRAME
    assert driver.pc.level
    assert driver.isr() == 1
    assert not driver.pc.level
    assert not card.can_receive


def test_a_frame_is_spread_over_buffers_that_are_merged(driver_of, make):
    driver = driver_of(make).start()
    heads = [driver.offer(RECEIVE, writable=[100]) for _ in range(4)]

    assert driver.pc.function.receive(FRAME)

    came = driver.used(RECEIVE)
    assert came == [(heads[0], 100), (heads[1], 100), (heads[2], 12)]
    data = b"".join(driver.written(RECEIVE, head, size) for head, size in came)
    assert data == bytes(10) + struct.pack("<H", 3) + FRAME


def test_a_frame_waits_for_enough_buffers_and_takes_none_until_then(driver_of, make):
    driver = driver_of(make).start()
    card = driver.pc.function
    driver.offer(RECEIVE, writable=[100])
    before = card.save()

    assert not card.receive(FRAME)

    assert card.save() == before
    assert driver.used(RECEIVE) == []
    driver.offer(RECEIVE, writable=[200])
    assert card.receive(FRAME)
    assert len(driver.used(RECEIVE)) == 2


def test_a_frame_too_long_for_a_buffer_that_is_not_merged_is_lost(driver_of, make):
    driver = driver_of(make).start(~MERGE)
    driver.offer(RECEIVE, writable=[100])
    driver.offer(RECEIVE, writable=[1514])

    assert driver.pc.function.receive(FRAME)

    assert driver.used(RECEIVE) == []
    assert driver.pc.function.can_receive


@pytest.mark.parametrize("size", [0, 13, 65554, 1 << 20])
def test_what_is_no_frame_does_not_arrive(driver_of, make, size):
    driver = driver_of(make).start()
    driver.offer(RECEIVE, writable=[0x20000])

    assert driver.pc.function.receive(bytes(size))

    assert driver.used(RECEIVE) == []


def test_nothing_arrives_before_the_driver_is_ready_or_without_bus_mastering(driver_of, make):
    driver = driver_of(make)
    assert not driver.pc.function.can_receive
    driver.start()
    driver.offer(RECEIVE, writable=[2000])
    driver.pc.set_config(4, 3, 2)

    assert not driver.pc.function.can_receive
    assert not driver.pc.function.receive(FRAME)
    assert driver.used(RECEIVE) == []


def test_the_driver_is_asked_to_tell_of_buffers_when_none_are_left(driver_of, make):
    driver = driver_of(make).start()
    ring = driver.rings[RECEIVE]
    avail_event = ring.used + 4 + 8 * ring.size
    for _ in range(2):
        driver.offer(RECEIVE, writable=[2000])

    driver.pc.function.receive(FRAME)
    assert driver.pc.u16(avail_event) == 0
    driver.pc.function.receive(FRAME)
    assert driver.pc.u16(avail_event) == 2


@pytest.mark.parametrize("event_index", [False, True])
def test_a_driver_that_polls_is_not_interrupted(driver_of, make, event_index):
    driver = driver_of(make).start(~0 if event_index else ~EVENT_IDX)
    ring, card = driver.rings[RECEIVE], driver.pc.function
    for _ in range(3):
        driver.offer(RECEIVE, writable=[2000])
    if event_index:
        driver.pc.put(ring.available + 4 + 2 * ring.size, struct.pack("<H", 1))
    else:
        driver.pc.put(ring.available, struct.pack("<H", 1))

    card.receive(FRAME)
    assert not driver.pc.level

    driver.pc.put(ring.available, struct.pack("<H", 0))
    card.receive(FRAME)
    assert driver.pc.level
    driver.isr()
    card.receive(FRAME)
    assert driver.pc.level != event_index


def test_asking_whether_there_is_room_changes_nothing_even_of_a_broken_queue(modern_driver_of, make):
    driver = modern_driver_of(make).start(queues=())
    driver.set("queue_select", RECEIVE)
    driver.set("queue_driver", 0xFFFF_FFFF_FFFF_0000)
    driver.set("queue_enable", 1)
    card = driver.pc.function
    before = card.save()

    assert not card.can_receive
    assert not card.receive(FRAME)

    assert card.save() == before
    assert not driver.status() & NEEDS_RESET


@pytest.mark.parametrize("used", [0xF_FFFF, 0xFFFF_FFFF_FFFF_FFFE])
def test_a_used_ring_outside_memory_stops_the_card(modern_driver_of, make, used):
    driver = modern_driver_of(make).start(queues=[TRANSMIT])
    ring = driver.rings[RECEIVE] = driver.rings[TRANSMIT]
    driver.set("queue_select", RECEIVE)
    driver.set("queue_size", ring.size)
    driver.set("queue_desc", ring.descriptors)
    driver.set("queue_driver", ring.available)
    driver.set("queue_device", used)
    driver.set("queue_enable", 1)
    driver.offer(RECEIVE, writable=[2000], kick=False)

    assert not driver.pc.function.receive(FRAME)

    assert driver.status() & NEEDS_RESET
    assert not driver.pc.function.can_receive


def test_a_buffer_outside_memory_stops_the_card(driver_of, make):
    driver = driver_of(make).start()
    driver.describe(driver.rings[RECEIVE].descriptors, [(0xF_FF00, 2000, WRITE)])
    driver.publish(RECEIVE, 0)

    assert not driver.pc.function.receive(bytes(1000))

    assert driver.status() & NEEDS_RESET
    assert driver.isr() == 2


def test_rings_that_lie_over_each_other_end(modern_driver_of, make, sent):
    # Each buffer given back moves what the device takes for the index of the available ring.
    driver = modern_driver_of(make).start(queues=())
    driver.set("queue_select", TRANSMIT)
    driver.set("queue_size", 64)
    for name in ("queue_desc", "queue_driver", "queue_device"):
        driver.set(name, 0x10000)
    driver.set("queue_enable", 1)
    driver.pc.put(0x10000, struct.pack("<QIHH", 0x1_0000, 100, 0, 0))

    driver.kick(TRANSMIT)
    driver.pc.function.service()

    assert len(sent) <= 256
    before = driver.pc.function.save()
    driver.pc.function.service()
    assert driver.pc.function.save() == before


def test_a_restored_card_goes_on_where_it_was(driver_of, make, sent, through_bytes):
    driver = driver_of(make).start()
    pc, card = driver.pc, driver.pc.function
    for _ in range(2):
        driver.offer(RECEIVE, writable=[2000])
    card.receive(FRAME)
    driver.offer(TRANSMIT, [header_of(driver) + FRAME])
    twin = make(pc.memory, pc._line, pc._look_up)

    twin.restore(through_bytes(card.save()))

    assert twin.save() == card.save()
    pc.level = False
    twin.drive()
    assert pc.level
    twin.service()
    assert sent == [FRAME]
    assert twin.receive(FRAME)
    assert not twin.can_receive
    assert len(driver.used(RECEIVE)) == 2


@pytest.mark.parametrize(
    ("mac", "mtu"), [(b"short", 1500), (b"\x01" + bytes(5), 1500), (MAC, 67), (MAC, 65536)]
)
def test_an_impossible_card_is_refused(driver_of, mac, mtu):
    with pytest.raises(ValueError, match="network card"):
        Net("net0", None, mac=mac, mtu=mtu, irq=None, reschedule=None, send=None)
