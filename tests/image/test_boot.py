from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.image import Guest, guests, load
from revirt.image.boot import PAGE_SIZE, Boot, CpuStart, Mode

GAPS_AND_PARTS = st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 9000)), max_size=6)


def memory_by_writes(boot: Boot, size: int) -> bytes:
    ram = bytearray(size)
    for start, data in boot.writes:
        ram[start : start + len(data)] = data
    return bytes(ram)


def memory_by_pages(boot: Boot, size: int) -> bytes:
    ram, seen = bytearray(size), set[int]()
    for numbers, contents in boot.pages():
        assert len(contents) == len(numbers) * PAGE_SIZE
        assert seen.isdisjoint(numbers)
        seen.update(numbers)
        ram[numbers.start * PAGE_SIZE : numbers.stop * PAGE_SIZE] = contents
    return bytes(ram)


@given(GAPS_AND_PARTS, st.randoms())
def test_pages_are_what_the_writes_make_of_memory(parts: list[tuple[int, int]], chance: Random) -> None:
    writes, end = [], 0
    for gap, size in parts:
        writes.append((end + gap, bytes((end + at) % 255 + 1 for at in range(size))))
        end += gap + size
    chance.shuffle(writes)
    boot = Boot(tuple(writes), CpuStart(Mode.REAL, 0))
    size = -(-end // PAGE_SIZE) * PAGE_SIZE

    assert memory_by_pages(boot, size) == memory_by_writes(boot, size)


@pytest.mark.parametrize(
    "guest", [guest for guest in guests() if guest.recipe is None], ids=lambda it: it.name
)
def test_pages_of_every_bundled_guest(guest: Guest) -> None:
    boot = load(guest.image_spec(), guest.memory)

    assert memory_by_pages(boot, guest.memory) == memory_by_writes(boot, guest.memory)
