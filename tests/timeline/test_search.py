"""Searches find what a walk over every instruction finds, forwards and backwards."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from goldens.make import opened
from goldens.table import DIRECTORY
from library import DEBIAN_SCRIPT, RecordingOf, RecordWith
from straight import Place, straight_digest, walk
from walking.straight import straight

from revirt.errors import InterruptedSeekError, UsageError
from revirt.image import find
from revirt.log.events import Kind
from revirt.machine.machine import Digest
from revirt.monitor.console import NullConsole
from revirt.position import Position
from revirt.timeline import Timeline, line, walker, watch
from revirt.timeline.conditions import (
    Access,
    Condition,
    EventKind,
    Execute,
    Interrupt,
    Read,
    StopReason,
    SystemCall,
    When,
    Write,
)
from revirt.timeline.snapshots import Snapshot, Start

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
    assert address is not None
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
    assert address is not None
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


def test_a_search_for_memory_and_code_at_once_goes_on_behind_each_find(recording_of: RecordingOf) -> None:
    """Seen: going back it found the place where it stood, again and again; traps had named that line, too."""
    timeline = Timeline(recording_of("vuln"))
    timeline.seek(Position(1_300))
    code = Execute(timeline.machine.core.pc)
    around = {
        search: (timeline.seek(begin), all_of(search, timeline, code, end))[1]
        for search, begin, end in (
            (timeline.run, Position(1_000), Position(1_600)),
            (timeline.run_back, Position(1_600), Position(1_000)),
        )
    }
    places = around[timeline.run_back]
    assert len(places) > 20
    assert places[::-1] == around[timeline.run]

    # Nobody uses that, but what stands beside it is the memory of the core's first page.
    timeline.seek(Position(1_600))
    found = [timeline.run_back((Access(97, 8, physical=True), code)).position for _ in places]

    assert found == places


def test_an_interrupt_is_found_before_what_its_delivery_writes(recording_of: RecordingOf) -> None:
    """Seen: looked for together, what was written was found, and the interrupt passed."""
    timeline = Timeline(recording_of("idle", "virtual"))
    start = timeline.seek(Position(320))
    stack = timeline.registers()["rsp"]
    alone = timeline.run([Interrupt()])
    assert alone.reason is StopReason.INTERRUPT

    timeline.seek(start)
    found = timeline.run([Interrupt(), Write(stack - 16, 16, physical=True)])
    while found.position < alone.position:
        found = timeline.run([Interrupt(), Write(stack - 16, 16, physical=True)])

    assert found == alone
    assert timeline.run([Interrupt(), Write(stack - 16, 16, physical=True)]).reason is StopReason.WATCHPOINT


@pytest.mark.parametrize("traps", [1, 2, 5, 11])
def test_nothing_is_missed_where_traps_run_out(
    traps: int, recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: going back, what else was accessed on that line was missed, and any number of them going on."""
    timeline = Timeline(recording_of("idle", "virtual"))
    start, end = Position(320), Position(360)
    timeline.seek(end)
    stack = timeline.registers()["rsp"]
    condition = Access(stack - 16, 5_000, physical=True)
    monkeypatch.setattr(watch, "TRAPS", 1 << 30)
    timeline.seek(start)
    expected = all_of(timeline.run, timeline, condition, end)
    timeline.seek(end)
    expected_back = all_of(timeline.run_back, timeline, condition, start)
    assert len(expected) == len(expected_back) > 10

    monkeypatch.setattr(watch, "TRAPS", traps)

    timeline.seek(end)
    assert all_of(timeline.run_back, timeline, condition, start) == expected_back
    timeline.seek(start)
    assert all_of(timeline.run, timeline, condition, end) == expected


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


def test_an_interrupted_search_has_gone_the_way_it_was_to_go(recording_of: RecordingOf) -> None:
    """Seen: Ctrl-C right behind the beginning of a search left it thousands of branches on the other side."""
    timeline = Timeline(recording_of("timer", "virtual"))
    never = (Execute(0xDEAD_BEEF), SystemCall())

    for branches in range(2_000, 10_000, 500):
        here = timeline.seek(Position(branches, 1))
        for search in (partial(timeline.run, never), timeline.finish):
            with interrupted_at_once(timeline):
                assert search().position >= here
            timeline.seek(here)
        for search in (partial(timeline.run_back, never), timeline.back_out):
            with interrupted_at_once(timeline):
                assert search().position <= here
            timeline.seek(here)


def test_a_search_does_not_end_on_the_wrong_side_of_where_it_begins(recording_of: RecordingOf) -> None:
    """Seen: a search back to somewhere ahead went ahead."""
    timeline = Timeline(recording_of("timer", "virtual"))
    here = timeline.seek(Position(5_000))

    for search, other in ((timeline.run, Position(4_000)), (timeline.run_back, Position(6_000))):
        stopped = search((Execute(0xDEAD_0000),), other)

        assert (stopped.reason, stopped.position) == (StopReason.UNTIL, here)


def test_a_search_back_finds_nothing_that_comes_later() -> None:
    """Seen: coming to the line where a search began set off a trap there, and all of that line was looked at."""
    with opened(Path(__file__).parents[2] / DIRECTORY / "sealed.revirt") as recording:
        timeline = Timeline(recording)
        here = timeline.run((Write(0x1038DF, 8),)).position

        stopped = timeline.run_back((Access(53, 64), Read(0x1038E6, 8), Execute(0x1000B2)))

    assert stopped.position < here


def test_a_search_from_behind_the_last_branch_stays_there(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual", until=Position(30_000)))
    timeline.seek_end()
    here = timeline.step(2).position
    assert here > timeline.end

    stopped = timeline.run((Execute(0xDEAD_0000),))

    assert (stopped.reason, stopped.position) == (StopReason.END, here)


@pytest.mark.parametrize("until", [Position(7_000, 10_000), Position(4_000, 10_000)])
def test_a_search_to_where_nothing_is_leaves_the_machine_where_it_was(
    until: Position, recording_of: RecordingOf
) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))
    here = timeline.seek(Position(5_000, 1))
    digest = timeline.machine.digest()
    search = timeline.run if until > here else timeline.run_back

    with pytest.raises(UsageError, match="there is no position"):
        search((Execute(0xDEAD_0000),), until)

    assert timeline.position == here
    assert timeline.machine.digest() == digest


@pytest.mark.parametrize(
    ("conditions", "problem"),
    [
        ([Execute(address) for address in range(1025)], "at most 1024 instructions"),
        ([Write(4096 * page, 8, physical=True) for page in range(65)], "at most 64 ranges"),
        ([Read(0x1000 * each, 60_000, physical=True) for each in (1, 100)], "at most 65536 bytes"),
        ([Access(0x1000, 1 << 60, physical=True)], "bytes at 0x1000 cannot be watched"),
        ([Write(0x1000, 0, physical=True)], "0 bytes at 0x1000 cannot be watched"),
        ([Write(-8, 8, physical=True)], "8 bytes at -0x8 cannot be watched"),
        ([Read(1 << 60, 8, physical=True)], "below 2\\*\\*52"),
        ([Execute(1 << 64)], "has 64 bits"),
    ],
)
def test_what_is_too_much_to_watch_is_refused(
    conditions: list[Condition], problem: str, recording_of: RecordingOf
) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))
    here = timeline.seek(Position(5_000, 1))

    for search in (timeline.run, timeline.run_back):
        with pytest.raises(UsageError, match=problem):
            search(conditions)

        assert timeline.position == here


def test_a_condition_given_twice_is_one() -> None:
    """Seen: where a line ends with HLT, an instruction before it was found behind it."""
    with opened(Path(__file__).parents[2] / DIRECTORY / "idle.revirt") as recording:
        timeline = Timeline(recording)
        timeline.seek(Position(211, 6))
        passed = timeline.machine.core.pc
        timeline.step(2)

        stopped = timeline.run((Execute(passed), Execute(passed)))

        assert (timeline.machine.core.pc, stopped.position) == (passed, Position(215, 6))


def test_an_interrupt_while_memory_is_brought_to_where_a_search_goes_on_ends_it(
    recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))
    timeline.seek_end()
    snapshots = timeline._walker.snapshots
    go_to = snapshots.go_to

    def interrupt_and_go_to(start: Start) -> None:
        if not isinstance(start, Snapshot):
            timeline.interrupt()
        go_to(start)

    monkeypatch.setattr(snapshots, "go_to", interrupt_and_go_to)

    assert timeline.run_back((Execute(0xDEAD_BEEF),)).reason is StopReason.INTERRUPTED


def test_an_interrupt_does_not_end_a_search_that_begins_later(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("hello"))

    timeline.interrupt()

    assert timeline.run((Execute(0xDEAD_0000),)).reason is StopReason.END


def test_steps_can_be_interrupted_too(recording_of: RecordingOf) -> None:
    """Seen: Ctrl-C while gdb steps over a long loop was lost, for each of its steps was short."""
    timeline = Timeline(recording_of("timer", "virtual"))
    for step in (timeline.step, timeline.step_back):
        timeline.seek(Position(5_000))
        timer = threading.Timer(0.1, timeline.interrupt)
        timer.start()

        stopped = step(10**9)
        timer.join()

        assert (stopped.reason, stopped.position) == (StopReason.INTERRUPTED, timeline.position)
        assert step(1).reason is StopReason.STEP


@contextmanager
def interrupted_all_the_time(timeline: Timeline) -> Iterator[None]:
    """Interrupt *timeline* all the time while the block is executed."""
    is_over = threading.Event()

    def interrupt() -> None:
        while not is_over.is_set():
            timeline.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_everything_has_arrived_wherever_interrupts_come(
    recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: with a second one right behind the first, what arrives at that place was left out."""
    # Straight lines may be long, and interrupts end what goes along them, too.
    for module in (line, walker):
        monkeypatch.setattr(module, "MARKS_APART", 1)
    recording = recording_of("timer", "host", until=Position(200_000))
    timeline = Timeline(recording)
    chance = random.Random(10)
    stops = []
    for _ in range(12):
        timeline.seek(Position(chance.randrange(200_000)))
        with interrupted_all_the_time(timeline):
            stops.append((timeline.position, timeline.machine.digest()))
            for move in (timeline.run, timeline.run_back):
                move((Execute(0xDEAD_0000), Write(0x500, 4, physical=True)))
                stops.append((timeline.position, timeline.machine.digest()))
            for move in (timeline.step, timeline.step_back):
                move(20)
                stops.append((timeline.position, timeline.machine.digest()))

    expected = straight(recording, (position for position, _ in stops))
    for position, digest in stops:
        found = expected[position]
        assert found is not None
        assert found.digest == digest


@contextmanager
def interrupted_at_once(timeline: Timeline) -> Iterator[None]:
    """Interrupt *timeline* whenever it begins to replay while the block is executed."""
    walker = timeline._walker
    run = walker.run

    def interrupt_and_run(branches: int) -> None:
        timeline.interrupt()
        run(branches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walker, "run", interrupt_and_run)
        yield


def seeks(timeline: Timeline, chance: random.Random) -> list[Callable[[], Position]]:
    """Return a seek of each kind to somewhere in *timeline*, which has an index."""
    timeline.seek_fraction(chance.random())
    time, ordinal, mark = timeline.machine.clock.now_ns, timeline.next_event, timeline.checkpoint()
    place, share, icount = timeline.position, chance.random(), timeline.icount()
    return [
        partial(timeline.seek, place),
        partial(timeline.seek_fraction, share),
        partial(timeline.seek_time, time),
        partial(timeline.seek_event, ordinal),
        partial(timeline.seek_icount, icount),
        partial(timeline.restart, mark),
        timeline.seek_end,
        lambda: (timeline.icount(), timeline.position)[1],
    ]


def test_a_seek_that_is_interrupted_stays_where_it_began(record_with: RecordWith) -> None:
    guest = find("timer")
    recording = record_with(guest, NullConsole(), until=Position(200_000))
    timeline = Timeline(recording)
    timeline.build_index()
    chance = random.Random(11)
    count = 0
    for _ in range(4):
        for seek in seeks(timeline, chance):
            timeline.seek(Position(chance.randrange(200_000)))
            timeline.step(2)
            here = timeline.position
            digest: Digest | None = timeline.machine.digest()
            try:
                with interrupted_at_once(timeline):
                    here, digest = seek(), None  # to a mark there is no way to be interrupted on
            except InterruptedSeekError as error:
                count += error.position == here
            assert timeline.position == here
            assert digest in (None, timeline.machine.digest())
            place = seek()
            assert timeline.machine.digest() == straight_digest(recording, place)
    assert count > 20


def test_a_search_to_the_end_can_be_interrupted_on_its_way_there(recording_of: RecordingOf) -> None:
    """Seen: without anything to look for, or with what the log tells, there was no way out."""
    timeline = Timeline(recording_of("timer", "host", until=Position(200_000)))

    with interrupted_at_once(timeline):
        stopped = timeline.run()

    assert (stopped.reason, stopped.position) == (StopReason.INTERRUPTED, timeline.position)


def test_a_search_that_ctrl_c_ends_in_a_script_stays_where_it_began(recording_of: RecordingOf) -> None:
    def interrupt(_timeline: Timeline) -> bool:
        raise KeyboardInterrupt

    timeline = Timeline(recording_of("timer", "virtual"))
    here = timeline.seek(Position(9_000, 2))

    for search in (timeline.run, timeline.run_back):
        with pytest.raises(KeyboardInterrupt):
            search([When(interrupt, at=Interrupt())])

        assert timeline.position == here


def test_who_wrote_a_word_last_is_found_in_debian(recording_of: RecordingOf) -> None:
    recording = recording_of("debian", "host", script=DEBIAN_SCRIPT)
    timeline = Timeline(recording)
    # Here and there the guest writes nothing for hundreds of instructions, or only what is there already.
    starts = (Position(branches) for branches in itertools.count(60_000_000, 900_000))
    address, places = next(each for each in map(partial(_walk_of_a_word, timeline), starts) if each[1])
    (*_, (place, _)) = _changes(places)
    timeline.seek(places[-1].position)

    found = timeline.run_back((Write(address, 8, physical=True),))

    assert found.reason is StopReason.WATCHPOINT
    assert found.position >= place.position
    value = timeline.read_physical(address, 8)
    timeline.forward()
    if found.position == place.position:
        assert timeline.read_physical(address, 8) != value


def _changing_word(timeline: Timeline, start: Position) -> int | None:
    """Return the physical address of a word that code behind *start* changes, None if it changes nothing."""
    timeline.seek(start)
    before = bytes(timeline.machine.core.ram)
    timeline.step(600)
    after = bytes(timeline.machine.core.ram)
    pages = (at for at in range(0, len(before), 4096) if before[at : at + 4096] != after[at : at + 4096])
    words = (
        at
        for page in pages
        for at in range(page, page + 4096, 8)
        if before[at : at + 8] != after[at : at + 8]
    )
    return next(words, None)


def _walk_of_a_word(timeline: Timeline, start: Position) -> tuple[int, list[Place]]:
    """Return the address of a word that changes behind *start*, and a walk over its changes; else no walk."""
    address = _changing_word(timeline, start)
    places = walk(timeline, start, 600, address, 8) if address is not None else []
    return address or 0, places if _changes(places) else []


def _changes(places: list[Place]) -> list[tuple[Place, Place]]:
    return [(before, after) for before, after in itertools.pairwise(places) if before.word != after.word]
