"""Random walks: a few of them in every run of the tests, and what the tool makes of those that go wrong."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import walk
from library import RecordingOf
from walking import samples
from walking.moves import Move, survey
from walking.straight import straight
from walking.walks import check, shrink
from walking.walks import walk as walked

from revirt.position import Position
from revirt.recording import Recording
from revirt.timeline import Stopped, StopReason, Timeline


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The recordings that the tool walks through, but for the long ones."""
    found = samples.make_samples(samples.makers(), tmp_path_factory.mktemp("walks") / "samples")
    return [path for path in found if Recording.open(path).end_branches < 150_000]


def test_walks_come_to_what_straight_replays_come_to(paths: list[Path]) -> None:
    assert len(paths) > 15
    for number, path in enumerate(paths):
        outcome = walk.run_walks(path, 15, [number], "again:")

        assert outcome.failures == []
        assert outcome.stops == 21


@pytest.mark.parametrize("name", ["vuln-live", "idle"])
def test_searches_find_what_a_straight_replay_sees(name: str, paths: list[Path]) -> None:
    path = next(each for each in paths if each.name == name)

    outcome = walk.run_finds(path, 15, [1], "again:")

    assert outcome.failures == []


def test_what_a_search_passes_is_told(recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_past(timeline: Timeline, *arguments: Any) -> Stopped:
        stopped = run(timeline, *arguments)
        return stopped if stopped.reason is StopReason.UNTIL else run(timeline, *arguments)

    run = Timeline.run
    monkeypatch.setattr(Timeline, "run", run_past)

    outcome = walk.run_finds(recording_of("vuln").path, 15, [1], "again:")

    assert outcome.failures
    assert all(" search 1: on between " in failure for failure in outcome.failures)


def test_a_walk_is_made_by_its_number_alone(recording_of: RecordingOf) -> None:
    recording = recording_of("vuln")

    one, other = (walk.moves_of(3, 7, survey(recording, Random(1))) for _ in range(2))

    assert one == other
    assert one != walk.moves_of(4, 7, survey(recording, Random(1)))


def test_a_straight_replay_tells_what_is_no_position(recording_of: RecordingOf) -> None:
    recording = recording_of("vuln")
    there, nowhere = Position(1000, 1), Position(1000, 1_000_000)

    found = straight(recording, [nowhere, there])

    assert found[nowhere] is None
    assert found[there] is not None


def test_a_walk_that_goes_wrong_is_cut_down_to_what_does(
    recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_and_tamper(timeline: Timeline, count: int = 1) -> object:
        timeline.machine.core.ram[0x500] ^= 1
        return step(timeline, count)

    step = Timeline.step
    monkeypatch.setattr(Timeline, "step", step_and_tamper)
    recording = recording_of("vuln")
    moves = [Move("seek", (Position(1000),)), Move("checkpoint"), Move("step", (2,)), Move("seek_end")]

    (problem,) = check(recording, [walked(recording, moves)])

    assert problem is not None
    assert problem.startswith("move 2 ended at ")
    assert [str(move) for move in shrink(recording, moves)] == ["timeline.step(2)"]
