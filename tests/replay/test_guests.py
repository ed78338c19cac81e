"""Every bundled guest, recorded under both clocks, comes out the same in another process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from library import RecordingOf, RecordWith, built, console_for

from revirt.image import guests
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.recording import Recording
from revirt.replay import ReplaySession

BUNDLED = [guest.name for guest in guests() if guest.recipe is None]
CLOCKS: tuple[ClockMode, ...] = ("host", "virtual")


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", BUNDLED)
def test_replay_in_a_new_process_is_exact(
    name: str,
    clock: ClockMode,
    recording_of: RecordingOf,
    replay_elsewhere: Callable[..., dict[str, Any]],
    digest_count: Callable[[Recording], int],
) -> None:
    recording = recording_of(name, clock)

    report = replay_elsewhere(recording)

    assert (report["status"], report["exact"]) == (0, True), report
    assert report["digests_checked"] == digest_count(recording)
    assert report["branches"] == recording.manifest.end["branches"]


# What is plugged into the last of them its own test does: tests/test_plugged.py.
@pytest.mark.parametrize("name", sorted({*BUNDLED} - {"plugged"}))
def test_two_virtual_recordings_have_the_same_events(name: str, record_with: RecordWith) -> None:
    guest = built(name)

    runs = []
    for _ in range(2):
        with console_for(guest, None) as console:
            runs.append(list(record_with(guest, console, "virtual").events()))

    assert runs[0] == runs[1]


@pytest.mark.parametrize("clock", CLOCKS)
def test_digests_as_often_as_asked_for_are_all_compared(
    clock: ClockMode, recording_of: RecordingOf, finish: Callable[[ReplaySession], None]
) -> None:
    recording = recording_of("race", clock, digest_every=500_000)
    branches = recording.manifest.end["branches"]

    finish(ReplaySession(recording))

    digests = [event for event in recording.events() if event.kind is Kind.DIGEST]
    assert len(digests) >= branches // 500_000


def test_a_replay_prints_what_the_guest_printed(
    recording_of: RecordingOf, finish: Callable[[ReplaySession], None]
) -> None:
    recording = recording_of("vuln", "host")
    output = bytearray()

    finish(ReplaySession(recording, output=output.extend))

    assert output == b"".join(event.data for event in recording.events() if event.kind is Kind.TRANSMITTED)
    assert b"flag{replayed bit for bit}\r\n" in output
