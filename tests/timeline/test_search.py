"""Searches find what a walk over every instruction finds, forwards and backwards."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable

import pytest
from library import DEBIAN_SCRIPT, RecordingOf
from straight import Place, straight_digest, walk

from revirt.errors import UsageError
from revirt.log.events import Kind
from revirt.position import Position
from revirt.timeline import Timeline
from revirt.timeline.conditions import Access, Condition, EventKind, Execute, Read, StopReason, Write

GUESTS = {"timer": 20_000, "race": 9_000, "paging": 3_000, "paging32": 30_000, "packer": 0, "vuln": 1_000}
"""Where in which guest walks begin."""


def all_of(
    search: Callable[[tuple[Condition, ...], Position], object],
    timeline: Timeline,
    condition: Condition,
    end: Position,
) -> list[Position]:
    """Return where *search* for *condition* stops, again and again, until it gets to *end*."""
    found = []
    while True:
        stopped = search((condition,), end)
        if stopped.reason in (StopReason.UNTIL, StopReason.START, StopReason.END):
            return found
        assert stopped.position == timeline.position
        found.append(stopped.position)


@pytest.mark.parametrize("name", GUESTS)
def test_every_execution_of_an_address_is_found_both_ways(name: str, recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of(name, "host"))
    places = walk(timeline, Position(GUESTS[name]), 900)
    first, last = places[0].position, places[-1].position

    for address in sorted({place.pc for place in random.Random(name).sample(places, 4)}):
        expected = [place.position for place in places if place.pc == address]
        timeline.seek(first)
        assert all_of(timeline.run, timeline, Execute(address), last) == [
            place for place in expected if first < place < last
        ]
        timeline.seek(last)
        assert all_of(timeline.run_back, timeline, Execute(address), first) == [
            place for place in reversed(expected) if first <= place < last
        ]


@pytest.mark.parametrize("name", GUESTS)
def test_every_change_of_a_word_is_a_write_that_is_found(name: str, recording_of: RecordingOf) -> None:
    """Writes of what a word holds already are found, too, which the walk does not see."""
    timeline = Timeline(recording_of(name, "host"))
    start = Position(GUESTS[name])
    if name == "timer":
        # All that it writes on its way is what an interrupt pushes, and what its handler does.
        interrupts = (event for event in timeline.recording.events() if event.kind is Kind.INTERRUPT)
        start = Position(next(interrupts).branches - 2)
    address = _changing_word(timeline, start)
    places = walk(timeline, start, 900, address, 8)
    first, last = places[0].position, places[-1].position
    changes = [(before.position, after.position) for before, after in _changes(places)]
    assert changes
    condition = Write(address, 8, physical=True)

    timeline.seek(first)
    behind = all_of(timeline.run, timeline, condition, last)
    timeline.seek(last)
    before = all_of(timeline.run_back, timeline, condition, first)

    assert set(behind) >= {after for _, after in changes if after < last}
    assert set(before) >= {place for place, _ in changes}
    assert len({*before}) == len(before)
    # A stop backwards is at the instruction behind which the same search stops forwards.
    positions = [place.position for place in places]
    next_of = dict(itertools.pairwise(positions))
    assert [next_of[place] for place in reversed(before) if next_of[place] < last] == behind


def test_reads_are_told_from_writes(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("race", "host"))
    start = Position(GUESTS["race"])
    address = _changing_word(timeline, start)
    end = Position(start.branches + 300)
    found = {}

    for kind in (Read, Write, Access):
        timeline.seek(start)
        found[kind] = all_of(timeline.run, timeline, kind(address, 8, physical=True), end)

    assert set(found[Access]) == {*found[Read], *found[Write]}
    assert found[Write]


def test_events_of_a_kind_are_found_both_ways(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "host"))
    events = [event.branches for event in timeline.recording.events() if event.kind is Kind.INTERRUPT]
    condition = EventKind(Kind.INTERRUPT)
    end = Position(events[20] + 1)

    forwards = all_of(timeline.run, timeline, condition, end)
    backwards = all_of(timeline.run_back, timeline, condition, timeline.start)

    assert [place.branches for place in forwards] == events[:21]
    assert backwards == forwards[::-1]


def test_a_search_that_finds_nothing_ends_at_the_edge(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("hello", "virtual"))

    assert timeline.run((Execute(0xDEAD_0000),)).reason is StopReason.END
    end = timeline.position
    assert timeline.run_back((Write(0xF_FFF0, 8, physical=True),)).reason is StopReason.START

    assert timeline.position == timeline.start < end


def test_a_search_can_be_given_an_end(recording_of: RecordingOf) -> None:
    recording = recording_of("timer", "virtual")
    timeline = Timeline(recording)
    place = Position(7_777, 1)

    assert timeline.run((), place).reason is StopReason.UNTIL
    assert timeline.position == place
    assert timeline.machine.digest() == straight_digest(recording, place)
    timeline.seek(Position(9_999))
    assert timeline.run_back((), place).reason is StopReason.UNTIL
    assert timeline.position == place


def test_an_address_that_is_not_mapped_cannot_be_watched(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("paging", "virtual"))
    timeline.seek(Position(GUESTS["paging"]))

    with pytest.raises(UsageError, match="0x7fff00000000 is not mapped here"):
        timeline.run((Write(0x7FFF_0000_0000, 4),))


def test_a_search_can_be_interrupted_from_another_thread(recording_of: RecordingOf) -> None:
    recording = recording_of("debian", "host", script=DEBIAN_SCRIPT)
    timeline = Timeline(recording)
    timer = threading.Timer(0.3, timeline.interrupt)
    timer.start()

    stopped = timeline.run((Execute(0xDEAD_BEEF),))
    timer.join()

    assert stopped.reason is StopReason.INTERRUPTED
    assert timeline.position == stopped.position < timeline.end
    assert timeline.machine.digest() == straight_digest(recording, stopped.position)
    assert timeline.run((), Position(stopped.position.branches + 9)).reason is StopReason.UNTIL


def test_who_wrote_a_word_last_is_found_in_debian(recording_of: RecordingOf) -> None:
    recording = recording_of("debian", "host", script=DEBIAN_SCRIPT)
    timeline = Timeline(recording)
    start = Position(60_000_000)
    address = _changing_word(timeline, start)
    places = walk(timeline, start, 600, address, 8)
    (*_, (place, _)) = _changes(places)
    timeline.seek(Position(places[-1].position.branches))

    found = timeline.run_back((Write(address, 8, physical=True),))

    assert found.reason is StopReason.WATCHPOINT
    assert found.position >= place.position
    value = timeline.read_physical(address, 8)
    timeline.forward()
    if found.position == place.position:
        assert timeline.read_physical(address, 8) != value


def _changing_word(timeline: Timeline, start: Position) -> int:
    """Return the physical address of a word that code behind *start* changes."""
    timeline.seek(start)
    before = bytes(timeline.machine.core.ram)
    timeline.step(600)
    after = bytes(timeline.machine.core.ram)
    page = next(at for at in range(0, len(before), 4096) if before[at : at + 4096] != after[at : at + 4096])
    return next(at for at in range(page, page + 4096, 8) if before[at : at + 8] != after[at : at + 8])


def _changes(places: list[Place]) -> list[tuple[Place, Place]]:
    return [(before, after) for before, after in itertools.pairwise(places) if before.word != after.word]
