"""The disk; expectations are from Virtual I/O Device 1.1, 5.2."""

import struct

import pytest
from virtio_driver import NEEDS_RESET, WRITE, LegacyDriver, Machine

from revirt.machine.disk import DiskError
from revirt.machine.virtio.blk import Blk

IN, OUT, FLUSH, GET_ID, WRITE_ZEROES = 0, 1, 4, 8, 13
OK, IOERR, UNSUPP = b"\0", b"\1", b"\2"
SECTORS = 64


class Image:
    """A disk of 64 sectors, each full of its number, which is broken from sector 60 on."""

    def __init__(self, *, is_read_only=False):
        self.sectors = SECTORS
        self.is_read_only = is_read_only
        self.bytes = bytearray(b"".join(bytes((sector,)) * 512 for sector in range(SECTORS)))

    def read(self, sector, count):
        if sector + count > 60:
            raise DiskError
        return bytes(self.bytes[512 * sector : 512 * (sector + count)])

    def write(self, sector, data):
        if sector >= 60:
            raise DiskError
        self.bytes[512 * sector : 512 * sector + len(data)] = data


@pytest.fixture
def image():
    return Image()


@pytest.fixture
def stored():
    return []


@pytest.fixture
def make(image, stored):
    """A disk by the virtual clock."""
    return lambda memory, irq, reschedule: Blk(
        "blk0", memory, image, irq=irq, reschedule=reschedule, completes_at_once=True,
        stored=lambda sector, data: stored.append((sector, data)), serial=b"revirt-disk-0",
    )  # fmt: skip


@pytest.fixture
def make_waiting(image, stored):
    """A disk by the host's clock."""
    return lambda memory, irq, reschedule: Blk(
        "blk0", memory, image, irq=irq, reschedule=reschedule, completes_at_once=False,
        stored=lambda sector, data: stored.append((sector, data)),
    )  # fmt: skip


def header(kind, sector=0):
    return struct.pack("<IIQ", kind, 0, sector)


@pytest.mark.parametrize("indirect", [False, True])
def test_sectors_are_read_into_several_places(driver_of, make, indirect):
    driver = driver_of(make).start()

    got = driver.run(0, [header(IN, 5)], [512, 1024, 1], indirect=indirect)

    assert got == b"\5" * 512 + b"\6" * 512 + b"\7" * 512 + OK


def test_sectors_are_written_and_told_of(driver_of, make, image, stored):
    driver = driver_of(make).start()
    data = bytes(range(256)) * 4

    status = driver.run(0, [header(OUT, 9), data[:100], data[100:]], [1])

    assert status == OK
    assert image.bytes[9 * 512 : 11 * 512] == data
    assert stored == [(9, data)]


def test_a_request_may_be_laid_out_in_any_way(driver_of, make, image):
    # 2.6.4: nothing may be concluded from where one descriptor ends and the next begins.
    driver = driver_of(make).start()
    whole = header(OUT, 3) + b"x" * 512

    assert driver.run(0, [whole[:7], whole[7:30], whole[30:]], [1]) == OK
    assert driver.run(0, [header(IN, 3)], [513]) == b"x" * 512 + OK


def test_nothing_happens_before_the_machine_stands_still(driver_of, make, image):
    driver = driver_of(make).start()
    looked_up = driver.pc.lookups

    driver.offer(0, [header(OUT, 1), b"x" * 512], [1])

    assert image.bytes[512:1024] == b"\1" * 512
    assert driver.used(0) == []
    assert driver.pc.lookups == looked_up + 1

    driver.pc.function.service()

    assert image.bytes[512:1024] == b"x" * 512
    assert driver.used(0) != []


def test_the_disk_has_a_name_and_can_be_flushed(driver_of, make):
    driver = driver_of(make).start()

    assert driver.run(0, [header(GET_ID)], [20, 1]) == b"revirt-disk-0".ljust(20, b"\0") + OK
    assert driver.run(0, [header(FLUSH)], [1]) == OK


@pytest.mark.parametrize("kind", [2, 11, 0x8000_0001])
def test_requests_that_nobody_offered_are_refused(driver_of, make, kind):
    driver = driver_of(make).start()

    assert driver.run(0, [header(kind)], [1]) == UNSUPP


def test_a_range_is_zeroed(driver_of, make, stored):
    driver = driver_of(make).start()

    assert driver.run(0, [header(WRITE_ZEROES) + struct.pack("<QII", 7, 2, 0)], [1]) == OK

    assert stored == [(7, bytes(1024))]


@pytest.mark.parametrize(
    "ranges",
    [
        b"",
        struct.pack("<QII", 7, 2, 0) * 2,
        struct.pack("<QII", 63, 2, 0),
        struct.pack("<QII", 7, 0xFFFF_FFFF, 0),
        struct.pack("<QII", 0xFFFF_FFFF_FFFF_FFFF, 1, 0),
        struct.pack("<QII", 7, 2, 2),
    ],
    ids=["none", "two", "beyond the end", "too many", "far beyond", "flag"],
)
def test_ranges_that_cannot_be_zeroed_are_refused(driver_of, make, stored, ranges):
    driver = driver_of(make).start()

    assert driver.run(0, [header(WRITE_ZEROES) + ranges], [1]) == IOERR
    assert stored == []


@pytest.mark.parametrize(
    ("sector", "size"), [(63, 1024), (64, 512), (0xFFFF_FFFF_FFFF_FFFF, 512), (0, 100), (60, 512)]
)
def test_what_is_not_on_the_disk_is_neither_read_nor_written(driver_of, make, stored, sector, size):
    driver = driver_of(make).start()

    driver.offer(0, [header(IN, sector)], [size, 1])
    driver.pc.function.service()
    ((head, written),) = driver.used(0)

    assert written == 1
    assert driver.written(0, head, size + 1) == bytes(size) + IOERR
    assert driver.run(0, [header(OUT, sector), bytes(size)], [1]) == IOERR
    assert stored == []


def test_a_read_only_disk_says_so_and_is_not_written(driver_of, stored):
    image = Image(is_read_only=True)
    driver = driver_of(
        lambda memory, irq, reschedule: Blk(
            "blk0", memory, image, irq=irq, reschedule=reschedule, completes_at_once=True
        )
    ).start()

    assert driver.features & 1 << 5
    assert not driver.features & 1 << 14
    assert driver.run(0, [header(OUT), bytes(512)], [1]) == IOERR
    assert image.bytes[:512] == bytes(512)


def test_the_configuration_gives_size_and_limits(driver_of, make):
    driver = driver_of(make)

    assert struct.unpack("<QII", driver.device_config(0, 16)) == (SECTORS, 128 << 10, 126)
    assert struct.unpack("<I", driver.device_config(20, 4)) == (512,)
    assert struct.unpack("<IIB", driver.device_config(48, 9)) == (2048, 1, 0)
    assert driver.offered() & 0xFFFF == 1 << 1 | 1 << 2 | 1 << 6 | 1 << 9 | 1 << 14


# -- requests that wait -------------------------------------------------------------------------------------------


def test_requests_wait_and_complete_in_any_order(driver_of, make_waiting, image, stored):
    driver = driver_of(make_waiting).start()
    disk = driver.pc.function
    first = driver.offer(0, [header(IN, 5)], [512, 1])
    second = driver.offer(0, [header(OUT, 8), bytes(1024)], [1])
    third = driver.offer(0, [header(FLUSH)], [1])
    disk.service()

    waiting = [(each.ticket, each.is_write, each.sector, each.count) for each in disk.pending]
    assert waiting == [(0, False, 5, 1), (1, True, 8, 2), (2, False, 0, 0)]
    assert driver.used(0) == []
    assert not driver.pc.level

    assert disk.complete(1)
    assert driver.used(0) == [(second, 1)]
    assert stored == [(8, bytes(1024))]
    assert driver.pc.level

    assert disk.complete(0)
    assert disk.complete(2)
    assert driver.used(0) == [(first, 513), (third, 1)]
    assert driver.written(0, first, 513) == b"\5" * 512 + OK
    assert not disk.pending


def test_nobody_completes_what_does_not_wait(driver_of, make_waiting):
    driver = driver_of(make_waiting).start()
    disk = driver.pc.function
    driver.offer(0, [header(IN, 5)], [512, 1])
    disk.service()

    assert not disk.complete(1)
    assert disk.complete(0)
    assert not disk.complete(0)


def test_a_reset_lets_go_of_what_waits_and_numbers_go_on(driver_of, make_waiting):
    driver = driver_of(make_waiting).start()
    disk = driver.pc.function
    driver.offer(0, [header(OUT, 5), bytes(512)], [1])
    disk.service()

    driver.start()
    assert not disk.pending
    assert not disk.complete(0)

    driver.offer(0, [header(IN, 5)], [512, 1])
    disk.service()
    assert [each.ticket for each in disk.pending] == [1]


def test_a_request_is_read_again_when_it_completes(driver_of, make_waiting, stored):
    driver = driver_of(make_waiting).start()
    disk, ring = driver.pc.function, driver.rings[0]
    head = driver.offer(0, [header(OUT, 5), bytes(512)], [1])
    disk.service()
    # The guest takes the descriptors away meanwhile.
    driver.pc.put(ring.descriptors + 16 * head, struct.pack("<QIHH", 0xFFFF_FFFF_0000, 16, 0, 0))

    assert disk.complete(0)

    assert driver.status() & NEEDS_RESET
    assert stored == []


def test_nothing_is_moved_while_bus_mastering_is_off(driver_of, make_waiting, stored):
    driver = driver_of(make_waiting).start()
    disk = driver.pc.function
    driver.offer(0, [header(OUT, 5), bytes(512)], [1])
    driver.pc.set_config(4, 3, 2)
    disk.service()
    assert not disk.pending

    driver.pc.set_config(4, 7, 2)
    disk.service()
    driver.pc.set_config(4, 3, 2)
    assert disk.complete(0)

    assert driver.status() & NEEDS_RESET
    assert stored == []


def test_no_more_requests_wait_than_a_queue_may_have_buffers(driver_of, make_waiting):
    driver = driver_of(make_waiting).start()
    disk = driver.pc.function
    head = driver.offer(0, [header(FLUSH)], [1])
    for _ in range(9):
        for _ in range(32):
            driver.publish(0, head)
        driver.kick(0)
        disk.service()

    assert len(disk.pending) == 256
    assert driver.status() & NEEDS_RESET


def test_a_restored_disk_completes_what_waited(driver_of, make_waiting, through_bytes, stored):
    driver = driver_of(make_waiting).start()
    pc = driver.pc
    driver.offer(0, [header(IN, 1)], [512, 1])
    driver.offer(0, [header(OUT, 5), b"y" * 512], [1])
    pc.function.service()
    pc.function.complete(0)
    driver.offer(0, [header(FLUSH)], [1])
    twin = make_waiting(pc.memory, pc._line, pc._look_up)

    twin.restore(through_bytes(pc.function.save()))

    assert twin.save() == pc.function.save()
    pc.level = False
    twin.drive()
    assert pc.level
    twin.service()
    assert [each.ticket for each in twin.pending] == [1, 2]
    twin.complete(1)
    twin.complete(2)
    assert stored == [(5, b"y" * 512)]
    assert len(driver.used(0)) == 3


# -- hostile requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "segments",
    [
        [(0x2000, 15, 0), (0x3000, 1, WRITE)],
        [(0x2000, 16, 0)],
        [(0x2000, 16, 0), (0x3000, 0, WRITE)],
        [(0x2000, 16, 0), (0xFFFF_F000, 513, WRITE)],
        [(0x2000, 16, 0), (0x3000, 512, WRITE), (0xFFFF_FFFF_FFFF_FFFF, 1, WRITE)],
        [(0xF_FFF8, 16, 0), (0x3000, 1, WRITE)],
        [(0xFFFF_FFFF_FFFF_FFF0, 16, 0), (0x3000, 1, WRITE)],
    ],
    ids=[
        "short",
        "no status",
        "empty status",
        "data outside",
        "status outside",
        "across the end",
        "far outside",
    ],
)
def test_a_request_that_is_none_stops_the_disk_until_it_is_reset(driver_of, make, segments):
    driver = driver_of(make).start()
    ring = driver.rings[0]
    driver.describe(ring.descriptors, segments)
    driver.publish(0, 0)
    driver.kick(0)

    driver.pc.function.service()

    assert driver.status() & NEEDS_RESET
    assert driver.pc.level
    assert driver.isr() == 2
    driver.kick(0)
    driver.pc.function.service()
    assert driver.used(0) == []
    driver.start()
    assert driver.run(0, [header(FLUSH)], [1]) == OK


@pytest.mark.parametrize("kind", [IN, OUT])
def test_a_request_of_gigabytes_is_refused_unread(driver_of, make, kind):
    driver = driver_of(make).start()
    segments = [(0x2000, 16, 0), *[(0x10000, 0xFFFF_FFFF, WRITE if kind == IN else 0)] * 40]
    if kind == OUT:
        segments.append((0x3000, 1, WRITE))
    driver.pc.put(0x2000, header(kind))
    driver.describe(driver.rings[0].descriptors, segments)
    driver.publish(0, 0)
    driver.kick(0)

    driver.pc.function.service()

    # Of a read, the status is the last byte, and that is outside memory.
    assert bool(driver.status() & NEEDS_RESET) == (kind == IN)


def test_no_guest_can_upset_it(attack, image):
    class Registers:
        """Both windows of a disk that a driver has brought up, one behind the other."""

        def __init__(self):
            self.driver = LegacyDriver(
                Machine(
                    lambda memory, irq, reschedule: Blk(
                        "blk0", memory, image, irq=irq, reschedule=reschedule, completes_at_once=True
                    )
                )
            ).start()
            self.disk = self.driver.pc.function

        def read(self, offset, size):
            bar, offset = (0, offset) if offset < 128 else (4, offset - 128)
            return self.disk.bars[bar].registers.read(offset, size)

        def write(self, offset, size, value):
            bar, offset = (0, offset) if offset < 128 else (4, offset - 128)
            self.disk.bars[bar].registers.write(offset, size, value)
            self.disk.service()

        def save(self):
            return self.disk.save()

        def restore(self, state):
            self.disk.restore(state)

    for size in (1, 2, 4):
        attack(lambda _: Registers(), 128 + 64, sizes=(size,))
