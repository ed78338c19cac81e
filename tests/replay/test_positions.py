"""Coming to an exact point of the past, and counting the instructions before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from library import RecordingOf, RecordWith
from reader import END_COUNT, LOOP_COUNT, ORIGIN, READINGS, SETUP_COUNT, guest_in

from revirt.cli import main
from revirt.errors import UsageError
from revirt.log.events import Event
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession, count_instructions, replay, total_instructions

LINE = (0, 1, 4, 6, 7, 10, 13, 14, 15)
"""Where the instructions of the reader begin that stand before its first taken branch."""


@pytest.fixture
def recording(tmp_path: Path, record_with: RecordWith) -> Recording:
    with NullConsole() as console:
        return record_with(guest_in(tmp_path), console, "virtual")


def test_steps_walk_the_straight_line_one_instruction_each(recording: Recording) -> None:
    session = ReplaySession(recording)
    session.run(1)

    places = [session.machine.core.pc]
    for _ in LINE[1:]:
        session.machine.step(1)
        places.append(session.machine.core.pc)

    assert places == [ORIGIN + offset for offset in LINE]
    assert session.machine.core.branches == 1


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_replay_until_a_position_behind_a_branch(recording: Recording, steps: int) -> None:
    report = replay(recording, until=Position(1, steps))

    assert report.exact
    assert report.branches == 1


def test_replay_until_a_branch_stops_exactly_there(recording: Recording) -> None:
    report = replay(recording, until=Position(4_321))

    assert report.exact
    assert report.branches == 4_321
    assert report.reason == "reached the position asked for"


def test_a_position_with_more_steps_than_the_line_has_is_refused(recording: Recording) -> None:
    with pytest.raises(UsageError, match="no position 7:400: only 3 instructions follow that branch"):
        replay(recording, until=Position(7, 400))


def test_a_checkpoint_that_is_not_there_is_refused(recording: Recording) -> None:
    with pytest.raises(UsageError, match="no checkpoint 9"):
        ReplaySession(recording, checkpoint=9)


def test_going_back_to_a_mark_gives_the_same_future(recording: Recording) -> None:
    session = ReplaySession(recording)
    session.run(2_000)
    mark, digest = session.mark(), session.machine.digest()
    session.run(7_000)
    later = session.machine.digest()

    session.return_to(mark)

    assert session.machine.digest() == digest
    session.run(7_000)
    assert session.machine.digest() == later


def test_instruction_counts_are_those_of_the_program(recording: Recording) -> None:
    counts = [count for _, count in count_instructions(recording)]

    assert counts[-1] == total_instructions(recording) == SETUP_COUNT + LOOP_COUNT * READINGS + END_COUNT


def test_bytes_are_given_per_million_instructions(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(recording.path), "--icount", "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    instructions = SETUP_COUNT + LOOP_COUNT * READINGS + END_COUNT
    assert facts["instructions"] == instructions
    assert facts["total"]["per_million_instructions"] == recording.log_bytes * 1e6 / instructions


@pytest.mark.parametrize(("name", "clock"), [("vuln", "host"), ("packer", "virtual"), ("paging", "host")])
def test_instruction_counts_never_decrease_and_are_the_same_again(
    name: str, clock: ClockMode, recording_of: RecordingOf
) -> None:
    recording = recording_of(name, clock)

    first, second = list(count_instructions(recording)), list(count_instructions(recording))

    assert first == second
    assert [count for _, count in first] == sorted(count for _, count in first)
    assert [event for event, _ in first] == list(rest(recording))


def rest(recording: Recording) -> Iterator[Event]:
    """Yield the events behind the first checkpoint's own."""
    return recording.events(after=recording.checkpoints[0].event + 1)
