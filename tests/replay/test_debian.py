"""A real kernel, recorded and replayed: the bar that everything else is for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from library import RecordingOf, RecordWith, built, console_for
from typist import COMMANDS, RandomTypist

from revirt.core import (
    WATCH_ADDRESS_SPACE,
    WATCH_EXECUTE,
    WATCH_INTERRUPT,
    WATCH_PRIVILEGE,
    WATCH_READ,
    WATCH_SYSTEM_CALL,
    WATCH_WRITE,
)
from revirt.image.debian import PROMPT, READY
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.recording import Recording
from revirt.replay import ReplaySession

pytestmark = [pytest.mark.debian, pytest.mark.xdist_group("debian")]

CHECKPOINT_EVERY = 24_000_000
"""Taken branches: four or five checkpoints on the way to the shell."""

Elsewhere = Callable[..., dict[str, Any]]
Finish = Callable[[ReplaySession], None]


@pytest.fixture
def typist() -> Iterator[Callable[[int], RandomTypist]]:
    """Return a function that makes a console with a seed: it types at random moments, and powers off in the end."""
    made: list[RandomTypist] = []

    def make(seed: int) -> RandomTypist:
        made.append(RandomTypist((READY, PROMPT), COMMANDS, "poweroff -f", seed=seed))
        return made[-1]

    yield make
    for console in made:
        console.close()


def assert_exact(report: dict[str, Any], recording: Recording) -> None:
    assert (report["status"], report["exact"]) == (0, True), report
    digests = sum(event.kind is Kind.DIGEST for event in recording.events())
    assert report["digests_checked"] == digests


@pytest.mark.parametrize("name", ["debian", "debian-i386"])
def test_typing_at_random_moments_replays_in_a_new_process(
    name: str, record_with: RecordWith, typist: Callable[[int], RandomTypist], replay_elsewhere: Elsewhere
) -> None:
    console = typist(random.randrange(1 << 32))
    recording = record_with(built(name), console, "host")

    report = replay_elsewhere(recording)

    assert_exact(report, recording)
    received = sum(event.kind is Kind.RECEIVED for event in recording.events())
    assert received > len("".join(COMMANDS)) / 12, "next to nothing was typed"
    assert b"status 3\r\n" in console.sent


def test_two_virtual_recordings_of_one_script_have_the_same_events(
    recording_of: RecordingOf, record_with: RecordWith
) -> None:
    guest = built("debian")
    with console_for(guest, None) as console:
        other = record_with(guest, console, "virtual", checkpoint_every=CHECKPOINT_EVERY)

    recording = recording_of("debian", checkpoint_every=CHECKPOINT_EVERY)

    assert list(recording.events()) == list(other.events())


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_replay_from_every_checkpoint_in_a_new_process(
    clock: ClockMode, recording_of: RecordingOf, replay_elsewhere: Elsewhere
) -> None:
    recording = recording_of("debian", clock, checkpoint_every=CHECKPOINT_EVERY)

    reports = [replay_elsewhere(recording, "--from", str(info.number)) for info in recording.checkpoints]

    assert len(reports) >= 4
    assert [(report["status"], report["exact"]) for report in reports] == [(0, True)] * len(reports), reports


def test_stopping_at_random_branches_changes_nothing(recording_of: RecordingOf, finish: Finish) -> None:
    session = ReplaySession(recording_of("debian", "host", checkpoint_every=CHECKPOINT_EVERY))
    last = session.recording.manifest.end["branches"]

    for stop in sorted(random.Random(1).randrange(1, last) for _ in range(1_000)):
        session.run(stop)
        assert session.machine.core.branches == stop

    finish(session)


def test_counting_instructions_changes_nothing(recording_of: RecordingOf, finish: Finish) -> None:
    session = ReplaySession(recording_of("debian", checkpoint_every=CHECKPOINT_EVERY), checkpoint=2)

    session.machine.core.counting = True

    finish(session)
    assert session.machine.core.instructions > session.machine.core.branches


def test_watching_changes_nothing(recording_of: RecordingOf) -> None:
    recording = recording_of("debian", checkpoint_every=CHECKPOINT_EVERY)
    plain, watched = (ReplaySession(recording, checkpoint=2) for _ in range(2))
    plain.run(plain.machine.core.branches + 2_000_000)
    at = plain.machine.core.registers()
    stack = plain.machine.core.translate(at["rsp"])
    assert stack is not None

    watched.machine.core.set_watches(
        [at["rip"]], [(stack & ~4095, 4096), (at["cr3"] & ~4095, 4096)], [(stack, 8)]
    )
    for session in (plain, watched):
        session.run(recording.checkpoints[3].branches)

    assert watched.machine.digest() == plain.machine.digest()
    assert {WATCH_EXECUTE, WATCH_READ, WATCH_WRITE} <= {hit[0] for hit in watched.machine.core.take_hits()}


def test_watching_the_system_and_its_calls_and_trapping_writes_changes_nothing(
    recording_of: RecordingOf,
) -> None:
    recording = recording_of("debian", checkpoint_every=CHECKPOINT_EVERY)
    plain, watched = (ReplaySession(recording, checkpoint=2) for _ in range(2))
    at = plain.machine.core.registers()
    stack = plain.machine.core.translate(at["rsp"])
    assert stack is not None

    watched.machine.core.set_watches(
        [],
        [(stack & ~15, 16), (at["cr3"] & ~4095, 8)],
        [],
        system=WATCH_INTERRUPT | WATCH_SYSTEM_CALL | WATCH_ADDRESS_SPACE | WATCH_PRIVILEGE,
        stack=(at["rsp"], 4096, (1 << 64) - 1, 0, 0, 0),
        traps=1 << 40,
    )
    for session in (plain, watched):
        session.run(session.machine.core.branches + 1_000_000)

    assert watched.machine.digest() == plain.machine.digest()
    assert watched.machine.core.hits_noted > 0


@pytest.mark.parametrize("options", [{"translation_buffer": 8 << 20}, {"track_writes": False}], ids=str)
def test_how_the_core_is_built_changes_nothing(
    options: dict[str, int], recording_of: RecordingOf, finish: Finish
) -> None:
    finish(ReplaySession(recording_of("debian", checkpoint_every=CHECKPOINT_EVERY), **options))


def test_digests_at_short_intervals_all_agree(recording_of: RecordingOf, finish: Finish) -> None:
    recording = recording_of("debian", checkpoint_every=CHECKPOINT_EVERY, digest_every=2_000_000)

    finish(ReplaySession(recording))

    assert sum(event.kind is Kind.DIGEST for event in recording.events()) > 40


def test_the_i386_guest_replays_in_a_new_process_under_the_virtual_clock(
    recording_of: RecordingOf, replay_elsewhere: Elsewhere
) -> None:
    recording = recording_of("debian-i386")

    assert_exact(replay_elsewhere(recording), recording)
