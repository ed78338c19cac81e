"""Searches that other processes take part in find what one process finds."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from library import DEBIAN_SCRIPT, RecordingOf

from revirt.position import Position
from revirt.recording import Recording
from revirt.timeline import (
    Condition,
    Execute,
    Interrupt,
    Privilege,
    StopReason,
    Timeline,
    When,
    Write,
)
from revirt.timeline.scouts import Scouts


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pieces of recordings of bundled guests be worth other processes."""
    monkeypatch.setattr("revirt.timeline.search._PIECE", 6_000)
    monkeypatch.setattr("revirt.timeline.search._WORTH_SCOUTS", 12_000)


@pytest.fixture
def recording(recording_of: RecordingOf, small_pieces: None) -> Recording:
    return recording_of("timer", "host", checkpoint_every=5_000)


def scouts_of(timeline: Timeline) -> Scouts:
    scouts = timeline._searcher._scouts
    assert scouts is not None
    return scouts


def conditions(recording: Recording) -> Iterator[Condition]:
    timeline = Timeline(recording, jobs=1)
    early, late = Position(recording.end_branches // 9), Position(recording.end_branches // 2)
    for place in (early, late):
        timeline.seek(place)
        at = timeline.registers()
        yield Execute(at["rip"])
        yield Write((at["rsp"] - 8) & ~7, 4, physical=True)
    yield Interrupt()
    yield Interrupt(0x99)
    yield Privilege()
    yield When(lambda timeline: timeline.position < late, at=Interrupt())


def test_what_is_found_does_not_depend_on_who_searches(recording: Recording) -> None:
    alone, together = Timeline(recording, jobs=1), Timeline(recording, jobs=3)

    for condition in conditions(recording):
        for timeline in (alone, together):
            timeline.seek_end()
        for _ in range(3):
            assert together.run_back((condition,)) == alone.run_back((condition,))
    assert len(scouts_of(together)._scouts) == 2
    assert not scouts_of(alone)


def test_a_scout_that_dies_is_done_without(recording: Recording) -> None:
    timeline = Timeline(recording, jobs=3)
    assert timeline.seek_end()
    assert timeline.run_back((Interrupt(0x99),)).reason is StopReason.START
    scouts = scouts_of(timeline)._scouts

    scouts[0].process.kill()
    scouts[0].process.wait()
    timeline.seek_end()

    assert timeline.run_back((Interrupt(0x99),)).reason is StopReason.START
    assert len(scouts) == 1


def test_scouts_that_cannot_read_the_recording_do_not_matter(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeline = Timeline(recording, jobs=2)
    monkeypatch.setattr(scouts_of(timeline), "_path", recording.path / "elsewhere")
    timeline.seek_end()

    assert timeline.run_back((Interrupt(0x99),)).reason is StopReason.START
    assert not scouts_of(timeline)


def test_scouts_go_with_their_timeline(recording: Recording) -> None:
    timeline = Timeline(recording, jobs=2)
    timeline.seek_end()
    timeline.run_back((Interrupt(0x99),))
    (scout,) = scouts_of(timeline)._scouts
    assert scout.process.poll() is None

    del timeline
    gc.collect()

    assert scout.process.poll() is not None


def test_a_search_with_scouts_can_be_interrupted(recording_of: RecordingOf) -> None:
    recording = recording_of("debian", "host", script=DEBIAN_SCRIPT, checkpoint_every=10_000_000)
    timeline = Timeline(recording, jobs=2)
    timeline.seek_end()
    timer = threading.Timer(1.0, timeline.interrupt)
    timer.start()

    stopped = timeline.run_back((Execute(0xDEAD_BEEF),))
    timer.join()

    assert stopped.reason is StopReason.INTERRUPTED
    timeline.seek_end()
    found = timeline.run_back((Interrupt(),))
    assert found.reason is StopReason.INTERRUPT
    assert found.position < timeline.end
