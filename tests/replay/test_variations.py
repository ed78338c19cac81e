"""How a replay is watched must not change what is replayed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import stale
from library import RecordingOf, RecordWith

from revirt.core import WATCH_ADDRESS_SPACE, WATCH_INTERRUPT, WATCH_PRIVILEGE, WATCH_SYSTEM_CALL
from revirt.image import guests
from revirt.machine.config import ClockMode
from revirt.machine.machine import WATCHED
from revirt.monitor.console import NullConsole
from revirt.recording import Recording
from revirt.replay import ReplaySession

SYSTEM = WATCH_INTERRUPT | WATCH_SYSTEM_CALL | WATCH_ADDRESS_SPACE | WATCH_PRIVILEGE
BUNDLED = [guest.name for guest in guests() if guest.recipe is None]
Finish = Callable[[ReplaySession], None]


def run_with_stops(session: ReplaySession, chance: random.Random, count: int) -> None:
    """Run *session* up to a branch before its end, stopping at *count* random branches."""
    last = session.recording.manifest.end["branches"]
    for stop in sorted(chance.randrange(1, last) for _ in range(count)):
        session.run(stop)
        assert session.machine.core.branches == stop


@pytest.mark.parametrize("name", BUNDLED)
def test_stopping_at_random_branches_changes_nothing(
    name: str, recording_of: RecordingOf, finish: Finish
) -> None:
    session = ReplaySession(recording_of(name, "host"))

    run_with_stops(session, random.Random(name), 300)

    finish(session)


@pytest.mark.parametrize("name", BUNDLED)
def test_counting_instructions_changes_nothing(name: str, recording_of: RecordingOf, finish: Finish) -> None:
    session = ReplaySession(recording_of(name, "virtual"))

    session.machine.core.counting = True

    finish(session)
    assert session.machine.core.instructions > 0


@pytest.mark.parametrize("name", BUNDLED)
def test_counting_that_comes_and_goes_changes_nothing(
    name: str, recording_of: RecordingOf, finish: Finish
) -> None:
    session = ReplaySession(recording_of(name, "virtual"))
    last = session.recording.manifest.end["branches"]
    chance = random.Random(name)

    for stop in sorted(chance.randrange(1, last) for _ in range(10)):
        session.run(stop)
        session.machine.core.counting = not session.machine.core.counting
    session.machine.core.counting = False

    finish(session)


def busy_places(recording: Recording) -> tuple[range, tuple[int, int], tuple[int, int]]:
    """Return linear addresses of code, the page of the stack and that of the page tables, in mid-recording."""
    session = ReplaySession(recording)
    session.run(recording.manifest.end["branches"] // 2)
    core = session.machine.core
    at = core.registers()
    code, stack = (at["cs.base"] + at["rip"]) & ~1023, core.translate(at["ss.base"] + at["rsp"] - 8)
    assert stack is not None
    return range(code, code + 1024), (stack & ~4095, 4096), (at["cr3"] & ~4095, 4096)


@pytest.mark.parametrize("name", BUNDLED)
def test_watching_changes_nothing(name: str, recording_of: RecordingOf, finish: Finish) -> None:
    recording = recording_of(name, "virtual")
    code, stack, tables = busy_places(recording)
    session = ReplaySession(recording)

    session.machine.core.set_watches(code, [stack, tables], [stack])

    finish(session)
    assert session.machine.core.hits_noted > 100


@pytest.mark.parametrize("name", BUNDLED)
def test_watching_by_page_protection_changes_nothing(
    name: str, recording_of: RecordingOf, finish: Finish
) -> None:
    recording = recording_of(name, "host")
    _, stack, tables = busy_places(recording)
    session = ReplaySession(recording)

    session.machine.core.set_watches([], [stack, tables], [stack], traps=3_000)

    # Where it was too much, nothing goes on.
    if session.run(recording.manifest.end["branches"]).halted == WATCHED:
        session.machine.core.set_watches([], [], [])
    finish(session)


@pytest.mark.parametrize("name", BUNDLED)
def test_watching_the_system_and_its_calls_changes_nothing(
    name: str, recording_of: RecordingOf, finish: Finish
) -> None:
    session = ReplaySession(recording_of(name, "host"))

    session.machine.core.set_watches([], [], [], system=SYSTEM, stack=(0, 1 << 32, (1 << 64) - 1, 0, 0, 0))

    finish(session)
    assert session.machine.core.hits_noted > 0


@pytest.mark.parametrize("name", BUNDLED)
def test_watches_that_come_and_go_change_nothing(
    name: str, recording_of: RecordingOf, finish: Finish
) -> None:
    session = ReplaySession(recording_of(name, "virtual"))
    core, last, chance = session.machine.core, session.recording.manifest.end["branches"], random.Random(name)

    for stop in sorted(chance.randrange(1, last) for _ in range(20)):
        session.run(stop)
        core.set_watches(
            [core.pc] * chance.randrange(2),
            [(chance.randrange(1 << 16), 8)] * chance.randrange(2),
            [(chance.randrange(1 << 16), 8)] * chance.randrange(2),
            system=SYSTEM * chance.randrange(2),
            traps=(1 << 40) * chance.randrange(2),
        )

    finish(session)


@pytest.mark.parametrize("options", [{"translation_buffer": 4 << 20}, {"track_writes": False}], ids=str)
@pytest.mark.parametrize("name", BUNDLED)
def test_how_the_core_is_built_changes_nothing(
    name: str, options: dict[str, int], recording_of: RecordingOf, finish: Finish
) -> None:
    finish(ReplaySession(recording_of(name, "virtual"), **options))


def test_stepping_leaves_cr2_alone(recording_of: RecordingOf, finish: Finish) -> None:
    """When its hook goes, Unicorn looks up every address that was hooked: those not mapped now were in CR2."""
    session = ReplaySession(recording_of("paging32", "virtual"))

    for stop in (40_076, 57_387, 99_140, 131_018):
        session.run(stop)
        mark, before = session.mark(), session.machine.core.registers()["cr2"]
        session.machine.core.step(1)
        assert session.machine.core.registers()["cr2"] == before
        session.return_to(mark)

    finish(session)


def test_stopping_where_a_block_starts_over_does_not_count_twice(
    recording_of: RecordingOf, finish: Finish
) -> None:
    """packer writes into its own block: run on from a stop right there, it was once one branch ahead."""
    session = ReplaySession(recording_of("packer", "virtual"))

    for branches in range(4_780, 4_900):
        session.run(branches)

    finish(session)


def test_a_mark_where_a_block_starts_over_is_one_to_come_back_to(recording_of: RecordingOf) -> None:
    session = ReplaySession(recording_of("packer", "virtual"))
    marks = []
    for branches in range(4_780, 4_900):
        session.run(branches)
        if session.machine.core.pc in (0x7C73, 0x7C7B):  # instructions that write to their own block
            marks.append(session.mark())

    for mark in marks:
        session.return_to(mark)
        session.run()
        assert session.replayer.is_exhausted

    assert marks


def test_arithmetic_flags_survive_a_checkpoint(recording_of: RecordingOf) -> None:
    """echo has flags that its last straight line does not touch: restored there, they were once all clear."""
    session = ReplaySession(recording_of("echo", "virtual"))
    session.run(session.recording.manifest.end["branches"])
    mark, flags = session.mark(), session.machine.core.registers()["rflags"]

    session.return_to(mark)
    session.machine.step(1)

    assert flags & 0x8D5, "no arithmetic flag is set here"
    assert session.machine.core.registers()["rflags"] == flags


@pytest.mark.parametrize("clock", ["host", "virtual"])
@pytest.mark.parametrize("name", BUNDLED)
def test_replay_from_every_checkpoint(
    name: str, clock: ClockMode, recording_of: RecordingOf, finish: Finish
) -> None:
    length = recording_of(name, clock).manifest.end["branches"]
    recording = recording_of(name, clock, checkpoint_every=max(1, length // 5))

    for info in recording.checkpoints:
        finish(ReplaySession(recording, checkpoint=info.number))

    assert len(recording.checkpoints) > 2


def test_a_stale_translation_does_not_outlive_a_checkpoint(
    tmp_path: Path, record_with: RecordWith, finish: Finish
) -> None:
    """Whoever starts from a checkpoint has no translation left: so whoever runs through one must lose them, too."""
    with NullConsole() as console:
        recording = record_with(stale.guest_in(tmp_path), console, "virtual", checkpoint_every=3_000)

    for info in recording.checkpoints:
        finish(ReplaySession(recording, checkpoint=info.number))

    assert len(recording.checkpoints) == 4
