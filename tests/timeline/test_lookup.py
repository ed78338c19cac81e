"""Memory is searched by physical and by linear address, as a search through all of it would."""

from __future__ import annotations

import random

import pytest
from library import DEBIAN_SCRIPT, RecordingOf

from revirt.errors import UsageError
from revirt.position import Position
from revirt.timeline import Timeline


def places_in(memory: bytes, data: bytes) -> list[int]:
    """Return where *data* stands in *memory*."""
    found, at = [], memory.find(data)
    while at >= 0:
        found.append(at)
        at = memory.find(data, at + 1)
    return found


@pytest.mark.parametrize("name", ["vuln", "timer", "hello"])
def test_without_paging_both_kinds_of_address_are_the_same(name: str, recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of(name, "virtual"))
    timeline.seek_end()
    memory = bytes(timeline.machine.core.ram)
    chance = random.Random(name)

    for size in (1, 2, 5, 40):
        code = timeline.registers()["rip"]
        data = memory[code : code + size]
        expected = places_in(memory, data)
        assert list(timeline.find(data, physical=True)) == expected
        assert list(timeline.find(data)) == expected
        low, high = sorted(chance.randrange(len(memory)) for _ in range(2))
        inside = [at for at in expected if low <= at and at + size <= high]
        assert list(timeline.find(data, low, high, physical=True)) == inside
        assert list(timeline.find(data, low, high)) == inside


@pytest.mark.parametrize(("name", "start"), [("paging", 5_000), ("paging32", 30_000)])
def test_with_paging_everything_that_is_mapped_is_looked_at(
    name: str, start: int, recording_of: RecordingOf
) -> None:
    timeline = Timeline(recording_of(name, "virtual"))
    timeline.seek(Position(start))
    core = timeline.machine.core
    size = 1 << 26 if name == "paging" else 1 << 24
    pages = [at for at in range(0, size, 4096) if core.translate(at) is not None]
    assert pages
    data = timeline.read(core.registers()["cs.base"] + core.pc, 6)
    expected = [
        page + at for page in pages for at in places_in(timeline.read(page, 4096 + len(data) - 1), data)
    ]

    assert list(timeline.find(data, 0, size)) == expected
    assert expected


def test_a_kernel_s_memory_is_searched_by_pages_wherever_they_are(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("debian", "host", script=DEBIAN_SCRIPT))
    timeline.seek_fraction(0.95)
    core = timeline.machine.core

    linear = list(timeline.find(b"Linux version 6."))
    physical = list(timeline.find(b"Linux version 6.", physical=True))

    assert {core.translate(at) for at in linear} <= {*physical}
    assert any(at > 0xFFFF_FFFF_8000_0000 for at in linear)

    # On two pages that are neighbours here and not in RAM.
    start = 0xFFFF_C900_0000_0000
    page = next(timeline.find(b"\0" * 16, start, start + (1 << 32))) & ~4095
    while (first := core.translate(page)) is None or core.translate(page + 4096) in (None, first + 4096):
        page += 4096
    data = timeline.read(page + 4080, 32)

    assert page + 4080 in timeline.find(data, page, page + 8192)


def test_nothing_cannot_be_looked_for(recording_of: RecordingOf) -> None:
    with pytest.raises(UsageError, match="nothing to look for"):
        list(Timeline(recording_of("hello", "virtual")).find(b""))


def test_page_tables_that_map_for_ever_end_in_an_error(
    recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeline = Timeline(recording_of("paging", "virtual"))
    timeline.seek(Position(5_000))
    monkeypatch.setattr("revirt.timeline.lookup._MOST_PAGES", 3)

    with pytest.raises(UsageError, match="too much memory is mapped"):
        list(timeline.find(b"\xff\xee\xdd\xcc\xbb\xaa"))
