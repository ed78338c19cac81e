"""A disk's contents, against a model that is a row of bytes; and whatever a hostile store says is in use."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.machine.devices import BLOCK_SIZE, SECTOR_SIZE, Disk
from revirt.machine.disk import DiskContents, DiskError

SECTORS = 43  # five blocks, and three sectors of a sixth
BASE = Random(1).randbytes(SECTORS * SECTOR_SIZE)
DIGEST = "0" * 64


class Base:
    """What the disk holds at first; notes what is read of it."""

    def __init__(self) -> None:
        self.read_at: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= len(BASE)
        self.read_at.append((offset, size))
        return BASE[offset : offset + size]


def disk_with(overlay: int, store: bytearray | None = None) -> DiskContents:
    config = Disk(SECTORS * SECTOR_SIZE, DIGEST, overlay)
    memory = memoryview(store if store is not None else bytearray(config.store_size))
    return DiskContents(config, Base(), memory)


ACTS = st.lists(
    st.tuples(st.booleans(), st.integers(0, SECTORS), st.integers(0, 20), st.integers(1, 255)), max_size=30
)


@given(ACTS, st.integers(1, 6))
def test_it_holds_what_was_written_last(acts: list[tuple[bool, int, int, int]], overlay: int) -> None:
    disk, model = disk_with(overlay), bytearray(BASE)
    touched: set[int] = set()

    for is_write, sector, count, value in acts:
        count = min(count, SECTORS - sector)
        if is_write:
            data = bytes((value,)) * (count * SECTOR_SIZE)
            blocks = {each // 8 for each in range(sector, sector + count)}
            if len(touched | blocks) > overlay:
                with pytest.raises(DiskError, match="overlay is full"):
                    disk.write(sector, data)
            else:
                disk.write(sector, data)
                model[sector * SECTOR_SIZE : (sector + count) * SECTOR_SIZE] = data
                touched |= blocks
        assert disk.read(sector, count) == model[sector * SECTOR_SIZE : (sector + count) * SECTOR_SIZE]

    assert disk.read(0, SECTORS) == model
    assert disk.used == len(touched)
    assert disk.used_size == disk.store_size - (overlay - len(touched)) * BLOCK_SIZE


def test_what_is_in_its_store_is_all_that_it_knows() -> None:
    store = bytearray(Disk(SECTORS * SECTOR_SIZE, DIGEST, 4).store_size)
    disk_with(4, store).write(7, b"x" * 2 * SECTOR_SIZE)

    again = disk_with(4, bytearray(store))

    assert again.used == 2
    assert again.read(0, SECTORS) == BASE[: 7 * 512] + b"x" * 1024 + BASE[9 * 512 :]


def test_sectors_that_are_not_there_are_refused() -> None:
    disk = disk_with(6)

    for sector, count in ((SECTORS, 1), (0, SECTORS + 1), (1 << 60, 1), (-1, 1), (5, -1)):
        with pytest.raises(DiskError, match="are not on a disk of 43"):
            disk.read(sector, count)
    with pytest.raises(DiskError, match="are not on"):
        disk.write(SECTORS - 1, bytes(1024))
    assert disk.used == 0


def test_a_disk_without_overlay_is_only_read() -> None:
    disk = disk_with(0)

    with pytest.raises(DiskError, match="read-only"):
        disk.write(0, bytes(512))

    assert disk.read(0, SECTORS) == BASE
    assert not disk.was_full
    assert disk.store_size == disk.used_size == 0


def test_a_write_that_finds_no_room_changes_nothing_and_is_remembered_for_people() -> None:
    disk = disk_with(1)
    disk.write(0, b"x" * 512)

    with pytest.raises(DiskError):
        disk.write(6, b"y" * 3 * 512)

    assert disk.read(0, SECTORS) == b"x" * 512 + BASE[512:]
    assert disk.was_full


def test_a_whole_block_is_written_without_a_look_at_the_base() -> None:
    base = Base()
    config = Disk(SECTORS * SECTOR_SIZE, DIGEST, 2)
    disk = DiskContents(config, base, memoryview(bytearray(config.store_size)))

    disk.write(8, b"x" * BLOCK_SIZE)
    assert not base.read_at

    disk.write(SECTORS - 1, b"x" * SECTOR_SIZE)
    assert base.read_at == [(5 * BLOCK_SIZE, 3 * SECTOR_SIZE)]


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6), ACTS)
def test_whatever_a_checkpoint_says_nothing_beyond_the_store_is_touched(
    count: int, table: list[int], acts: list[tuple[bool, int, int, int]]
) -> None:
    config = Disk(SECTORS * SECTOR_SIZE, DIGEST, 3)
    store = bytearray(config.store_size)
    words = memoryview(store).cast("I")
    words[0] = count
    words[BLOCK_SIZE // 4 : BLOCK_SIZE // 4 + 6] = memoryview(
        b"".join(each.to_bytes(4, "little") for each in table)
    ).cast("I")
    disk = disk_with(3, store)

    for is_write, sector, size, value in acts:
        size = min(size, SECTORS - sector)
        if is_write:
            try:
                disk.write(sector, bytes((value,)) * (size * SECTOR_SIZE))
            except DiskError:
                assert disk.was_full
        assert len(disk.read(sector, size)) == size * SECTOR_SIZE
        assert disk.used <= 3
        assert disk.used_size <= disk.store_size


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_a_block_that_is_not_in_use_yet_is_as_in_the_base(table: list[int]) -> None:
    config = Disk(SECTORS * SECTOR_SIZE, DIGEST, 3)
    store = bytearray(b"?" * config.store_size)
    words = memoryview(store).cast("I")
    words[0] = 1
    for block, number in enumerate(table):
        words[BLOCK_SIZE // 4 + block] = number
    disk = disk_with(3, store)

    for block, number in enumerate(table[:5]):
        whole = BASE[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
        assert disk.read(8 * block, 8) == (b"?" * BLOCK_SIZE if number == 1 else whole)
