"""Searches for what happens to the CPU, on the console, or by anybody's own measure, against a walk over everything."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from goldens.make import opened
from goldens.table import DIRECTORY
from library import DEBIAN_SCRIPT, RecordingOf

from revirt.errors import UsageError
from revirt.log.events import Kind
from revirt.position import Position
from revirt.timeline import (
    AddressSpace,
    Condition,
    ConsoleText,
    EventKind,
    Execute,
    Interrupt,
    Privilege,
    StopReason,
    SystemCall,
    Timeline,
    When,
    Write,
)

SYSTEM_CALLS = (b"\x0f\x05", b"\x0f\x34", b"\xcd\x80")
WALKED = {"paging": 1_040, "paging32": 1_040}
"""Where in which guest walks begin."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position that was walked over, and what the CPU was like there."""

    position: Position
    linear: int
    code: bytes
    privilege: int
    cr3: int
    rax: int


def walk(timeline: Timeline, start: Position, count: int) -> list[Place]:
    timeline.seek(start)
    found = []
    for _ in range(count):
        at = timeline.registers()
        linear = at["cs.base"] + at["rip"]
        found.append(
            Place(
                timeline.position,
                linear,
                timeline.read(linear, 2),
                at["hflags"] & 3,
                at["cr3"],
                at["rax"],
            )
        )
        if not timeline.forward():
            break
    return found


def handlers(timeline: Timeline) -> dict[int, int]:
    """Return the vectors by the linear address of their handler."""
    at = timeline.registers()
    is_long = bool(at["efer"] & 1 << 10)
    found = {}
    for vector in range(256):
        gate = timeline.read(at["idtr.base"] + vector * (16 if is_long else 8), 16 if is_long else 8)
        if len(gate) >= 8 and gate[5] & 0x80:
            high = int.from_bytes(gate[8:12], "little") << 32 if is_long else 0
            found[int.from_bytes(gate[:2] + gate[6:8], "little") | high] = vector
    return found


def all_of(timeline: Timeline, condition: Condition, first: Position, last: Position) -> list[Position]:
    """Return where a search from *first* to *last* stops; the one back must stop at the same, or right before."""
    timeline.seek(first)
    forwards, backwards = [], []
    while (stopped := timeline.run((condition,), last)).reason is not StopReason.UNTIL:
        assert (stopped.position, stopped.condition) == (timeline.position, condition)
        forwards.append(stopped.position)
    timeline.seek(last)
    while (stopped := timeline.run_back((condition,), first)).reason not in (
        StopReason.UNTIL,
        StopReason.START,
    ):
        backwards.append(stopped.position)
    assert len(backwards) - len(forwards) in (0, 1)
    return backwards[::-1]


@pytest.fixture(params=WALKED, scope="module")
def walked(request: pytest.FixtureRequest, library: object) -> tuple[Timeline, list[Place]]:
    timeline = Timeline(library.get(request.param, "host", None, {}))  # type: ignore[attr-defined]
    places = walk(timeline, Position(WALKED[request.param]), 2_500)
    return timeline, places


def test_every_change_of_privilege_is_found(walked: tuple[Timeline, list[Place]]) -> None:
    timeline, places = walked
    pairs = list(itertools.pairwise(places))
    expected = [before.position for before, after in pairs if before.privilege != after.privilege]
    to_user = [before.position for before, after in pairs if before.privilege < after.privilege]
    assert to_user

    found = all_of(timeline, Privilege(), places[0].position, places[-1].position)
    found_to_user = all_of(timeline, Privilege(3), places[0].position, places[-1].position)

    assert found == expected
    assert found_to_user == to_user


def test_every_system_call_is_found(walked: tuple[Timeline, list[Place]]) -> None:
    timeline, places = walked
    calls = [place for place in places[1:-1] if place.code in SYSTEM_CALLS]
    assert calls
    number = calls[0].rax

    found = all_of(timeline, SystemCall(), places[0].position, places[-1].position)
    numbered = all_of(timeline, SystemCall(number), places[0].position, places[-1].position)

    assert found == [place.position for place in calls]
    assert numbered == [place.position for place in calls if place.rax == number]


def test_every_exception_and_interrupt_is_found(walked: tuple[Timeline, list[Place]]) -> None:
    timeline, places = walked
    timeline.seek(places[-1].position)
    vectors = handlers(timeline)
    taken = [
        (before.position, vectors[after.linear])
        for before, after in itertools.pairwise(places)
        if after.linear in vectors and after.position.steps == 0
    ]
    assert taken
    vector = taken[0][1]

    found = all_of(timeline, Interrupt(), places[0].position, places[-1].position)
    of_vector = all_of(timeline, Interrupt(vector), places[0].position, places[-1].position)

    assert found == [position for position, _ in taken]
    assert of_vector == [position for position, each in taken if each == vector]


def test_every_change_of_the_address_space_is_found_in_debian(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("debian", "host", script=DEBIAN_SCRIPT))
    timeline.seek(Position(40_000_000))
    stopped = timeline.run((AddressSpace(),))
    assert stopped.reason is StopReason.ADDRESS_SPACE
    assert timeline.registers()["cr3"] == stopped.value
    start = timeline.position
    timeline.back()
    assert timeline.registers()["cr3"] != stopped.value

    back = timeline.run_back((AddressSpace(stopped.value),), Position(start.branches - 5_000_000))
    assert back.reason in (StopReason.UNTIL, StopReason.ADDRESS_SPACE)
    assert back.position < start


def test_interrupts_of_the_log_are_found_where_they_are_taken(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "host"))
    events = [event.branches for event in timeline.recording.events() if event.kind is Kind.INTERRUPT]

    found = all_of(timeline, Interrupt(0x20), timeline.start, Position(events[15] + 1))

    assert [place.branches for place in found] == events[:16]


# ---- the console -----------------------------------------------------------------------------------------------------


def transmitted(timeline: Timeline) -> bytes:
    """Return what has been transmitted up to where *timeline* stands."""
    events = itertools.islice(timeline.recording.events(), timeline.next_event)
    sent = b"".join(event.data for event in events if event.kind is Kind.TRANSMITTED)
    replayer = timeline._session.replayer
    return sent + replayer.place.pending_output


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("echo", rb"you|e"), ("vuln", rb"name"), ("hello", rb"[aeo]"), ("timer", rb"hash ..")],
)
def test_text_is_found_where_its_last_byte_is_transmitted(
    name: str, pattern: bytes, recording_of: RecordingOf
) -> None:
    timeline = Timeline(recording_of(name, "host"))
    lines = transmitted_lines(timeline)
    expected = [end for end in (first_match(pattern, line) for line in lines) if end]
    assert expected

    timeline.seek(timeline.start)
    behind = []
    while (stopped := timeline.run((ConsoleText(pattern),))).reason is StopReason.CONSOLE:
        behind.append(transmitted(timeline))
        timeline.back()
        assert transmitted(timeline) == behind[-1][:-1]
        timeline.forward()
    before = []
    while (stopped := timeline.run_back((ConsoleText(pattern),))).reason is StopReason.CONSOLE:
        before.append(transmitted(timeline))
    assert stopped.reason is StopReason.START

    assert [sent.rpartition(b"\n")[2] for sent in behind] == expected
    assert [sent[:-1] for sent in behind] == before[::-1]


def test_text_is_found_that_the_log_of_a_cut_ends_before() -> None:
    with opened(Path(__file__).parents[2] / DIRECTORY / "cut.revirt") as recording:
        timeline = Timeline(recording)
        seen = list(iter(lambda: timeline.run((ConsoleText(rb"\.\."),)).position, timeline.end))
        said = timeline.console(100)
        back = list(iter(lambda: timeline.run_back((ConsoleText(rb"\.\."),)).position, timeline.start))

    assert said.rpartition(b"\n")[2].startswith(b"hello, ..")
    assert len(seen) == len(back) == 2
    assert [Position(each.branches, each.steps - 1) for each in seen] == back[::-1]


def transmitted_lines(timeline: Timeline) -> list[bytes]:
    timeline.seek_end()
    return transmitted(timeline).split(b"\n")


def first_match(pattern: bytes, line: bytes) -> bytes:
    """Return the shortest beginning of *line* in which *pattern* is found, or nothing."""
    return next((line[:end] for end in range(1, len(line) + 1) if re.search(pattern, line[:end])), b"")


def test_a_prompt_that_no_newline_ends_is_found_in_debian(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("debian", "host", script=DEBIAN_SCRIPT))

    stopped = timeline.run((ConsoleText(rb"# $"),))

    assert stopped.reason is StopReason.CONSOLE
    assert transmitted(timeline).endswith(b"# ")


@pytest.mark.parametrize("pattern", [b"(", b"[", b"*"])
def test_what_is_no_pattern_is_refused_and_nothing_moves(pattern: bytes, recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))
    here = timeline.seek(Position(3_000, 1))

    for search in (timeline.run, timeline.run_back):
        with pytest.raises(UsageError, match="is not a regular expression"):
            search((EventKind(Kind.DIGEST), ConsoleText(pattern)))
        assert timeline.position == here


def test_more_than_can_be_watched_is_refused_and_nothing_moves(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))
    here = timeline.seek(Position(3_000, 1))
    conditions = [Write(address, 4, physical=True) for address in range(0, 800, 8)]

    for search in (timeline.run, timeline.run_back):
        with pytest.raises(UsageError, match="at most 64 ranges are watched"):
            search(conditions)
        assert timeline.position == here


def test_what_a_predicate_raises_ends_the_search(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))

    with pytest.raises(ZeroDivisionError):
        timeline.run((When(lambda timeline: 0 // (5_000 - timeline.position.branches)),))

    assert timeline.position == Position(5_000)
    assert timeline.run((Execute(timeline.machine.core.pc),)).reason is StopReason.BREAKPOINT


# ---- predicates ------------------------------------------------------------------------------------------------------


def test_a_predicate_is_asked_at_every_branch_or_every_so_many(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "host"))
    first, last = Position(6_000), Position(6_400)
    pcs = {}
    for branches in range(first.branches, last.branches):
        timeline.seek(Position(branches))
        pcs[branches] = timeline.machine.core.pc
    wanted = pcs[6_100]

    for every in (1, 7):
        condition = When(lambda timeline: timeline.machine.core.pc == wanted, every=every)
        found = all_of(timeline, condition, first, last)
        assert found == [Position(at) for at, pc in pcs.items() if pc == wanted and at % every == 0]


def test_a_predicate_can_be_asked_where_something_else_holds(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "host"))
    places = walk(timeline, Position(6_000), 500)
    address = max((place.linear for place in places), key=[place.linear for place in places].count)
    expected = [each.position for each in places[:-1] if each.linear == address and each.rax % 4 == 0]
    assert expected

    condition = When(lambda timeline: timeline.registers()["rax"] % 4 == 0, at=Execute(address))

    assert all_of(timeline, condition, places[0].position, places[-1].position) == expected


def test_a_predicate_about_a_write_is_asked_behind_it(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("vuln", "virtual"))
    timeline.seek_end()
    address = timeline.registers()["rsp"] - 4
    value = timeline.read_physical(address, 4)
    condition = When(lambda at: at.read_physical(address, 4) == value, at=Write(address, 4, physical=True))

    stopped = timeline.run_back((condition,))

    assert stopped.reason is StopReason.PREDICATE
    timeline.forward()
    assert timeline.read_physical(address, 4) == value
    timeline.seek(timeline.start)
    assert timeline.run((condition,)).position <= timeline.end


def test_a_predicate_that_moves_the_timeline_is_refused(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))

    with pytest.raises(UsageError, match="must not move"):
        timeline.run((When(lambda timeline: timeline.step(3)),))
    with pytest.raises(UsageError, match="every 0 branches"):
        timeline.run((When(lambda _: True, every=0),))


# ---- several ---------------------------------------------------------------------------------------------------------


def test_of_several_conditions_the_nearest_ends_a_search(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("echo", "virtual"))
    conditions = (
        ConsoleText(rb"e"),
        Interrupt(),
        When(lambda timeline: timeline.position.branches % 977 == 0),
        Execute(timeline.registers()["rip"]),
    )
    start = Position(timeline.end.branches // 2)
    ends, begins = [], []
    for each in conditions:
        timeline.seek(start)
        ends.append(timeline.run((each,)).position)
        timeline.seek(start)
        begins.append(timeline.run_back((each,)).position)

    timeline.seek(start)
    assert timeline.run(conditions).position == min(ends)
    timeline.seek(start)
    assert timeline.run_back(conditions).position == max(begins)
