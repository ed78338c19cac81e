"""Every position of a recording can be reached from every other, and is the same whichever way one came."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from goldens.make import opened
from goldens.table import DIRECTORY
from library import DEBIAN_SCRIPT, RecordingOf
from straight import random_positions, straight_digest, walk

from revirt.errors import CorruptError, UsageError
from revirt.image import guests
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.position import Position
from revirt.recording import Recording
from revirt.recording.ring import RingLimits
from revirt.timeline import Stopped, Timeline, Write, snapshots
from revirt.timeline.conditions import StopReason
from revirt.timeline.timeline import MOST_MARKS

GOLDEN = Path(__file__).parents[2] / DIRECTORY
BUNDLED = [guest.name for guest in guests() if guest.recipe is None]


@pytest.mark.parametrize("clock", ["host", "virtual"])
@pytest.mark.parametrize("name", BUNDLED)
def test_a_position_is_the_same_whichever_way_one_comes(
    name: str, clock: ClockMode, recording_of: RecordingOf
) -> None:
    recording = recording_of(name, clock)
    timeline = Timeline(recording)
    chance = random.Random(f"{name} {clock}")
    places = random_positions(timeline, chance, 4)
    expected = {place: straight_digest(recording, place) for place in places}

    for _ in range(16):
        place = chance.choice(places)
        match chance.randrange(3):
            case 0:
                timeline.seek(place)
            case 1:
                timeline.seek(place)
                done = timeline.step(count := chance.randrange(1, 40))
                if done.reason is StopReason.STEP:
                    timeline.step_back(count)
                else:
                    timeline.seek(place)
            case 2:
                timeline.seek(place)
                count = chance.randrange(1, 40)
                if timeline.step_back(count).reason is StopReason.STEP:
                    timeline.step(count)
                else:
                    timeline.seek(place)

        assert timeline.position == place
        assert timeline.machine.digest() == expected[place]


@pytest.mark.parametrize("name", BUNDLED)
def test_the_way_back_has_the_positions_of_the_way_there(name: str, recording_of: RecordingOf) -> None:
    recording = recording_of(name, "host")
    timeline = Timeline(recording)
    middle = Position((timeline.start.branches + timeline.end.branches) // 2)
    there = walk(timeline, middle, 400)
    digest = timeline.machine.digest()

    back = []
    while timeline.position > middle:
        back.append((timeline.position, timeline.machine.core.pc))
        assert timeline.back()

    assert (timeline.position, timeline.machine.core.pc) == (there[0].position, there[0].pc)
    passed = [(place.position, place.pc) for place in there[1:]]
    assert back[::-1][: len(passed)] == passed
    timeline.step(len(back))
    assert timeline.machine.digest() == digest


@pytest.mark.parametrize("name", BUNDLED)
def test_a_recording_begins_and_ends(name: str, recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of(name, "virtual"))

    assert timeline.position == timeline.start == Position(0)
    assert not timeline.back()
    assert timeline.step_back(3).reason is StopReason.START
    end = timeline.seek_end()
    assert timeline.step(1).reason is StopReason.END
    assert timeline.position == end >= timeline.end


@pytest.mark.parametrize("name", ["timer", "echo", "idle"])
def test_every_event_has_come_where_a_seek_to_it_ends(name: str, recording_of: RecordingOf) -> None:
    recording = recording_of(name, "host")
    timeline = Timeline(recording)
    chance = random.Random(4)
    events = list(recording.events())

    for ordinal in (0, *(chance.randrange(len(events)) for _ in range(20)), len(events) - 1):
        place = timeline.seek_event(ordinal)

        assert place.branches == events[ordinal].branches
        is_to_come = events[ordinal].kind is Kind.INTERRUPT or events[ordinal].halted
        assert (timeline.next_event > ordinal) is not is_to_come
        if is_to_come and timeline.forward():
            assert timeline.next_event > ordinal
        assert timeline.events[ordinal] == events[ordinal]


def test_parts_and_times_of_a_recording_are_found(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))

    assert timeline.seek_fraction(0) == timeline.start
    assert timeline.seek_fraction(1).branches == timeline.end.branches
    middle = timeline.seek_fraction(0.5)
    time = timeline.machine.clock.now_ns
    assert timeline.seek_time(time) <= middle
    assert timeline.machine.clock.now_ns == time
    timeline.back()
    assert timeline.machine.clock.now_ns < time or timeline.position.branches + 1 == middle.branches


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_parts_that_there_are_not_are_refused(fraction: float, recording_of: RecordingOf) -> None:
    with pytest.raises(UsageError, match="is not between 0 and 1"):
        Timeline(recording_of("hello")).seek_fraction(fraction)


def test_what_is_not_there_is_refused_and_nothing_moves(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "virtual"))
    here = timeline.seek(Position(5_000, 1))
    digest = timeline.machine.digest()

    with pytest.raises(UsageError, match="ends before position"):
        timeline.seek(Position(timeline.end.branches + 1))
    with pytest.raises(UsageError, match="instructions follow that branch"):
        timeline.seek(Position(4_000, 10_000))
    with pytest.raises(UsageError, match="there is no event"):
        timeline.seek_event(10**9)
    with pytest.raises(UsageError, match="ends before"):
        timeline.seek_time(10**18)

    assert timeline.position == here
    assert timeline.machine.digest() == digest


def test_what_was_evicted_is_refused_by_name_of_the_oldest(recording_of: RecordingOf) -> None:
    limits = RingLimits(size=6_000)
    options = {"until": Position(60_000), "checkpoint_every": 10_000, "digest_every": 5_000, "limits": limits}
    recording = recording_of("timer", "virtual", **options)
    timeline = Timeline(recording)

    assert timeline.start.branches > 0
    with pytest.raises(UsageError, match="was evicted") as caught:
        timeline.seek(Position(0))
    assert str(timeline.start) in (caught.value.hint or "")
    place = timeline.seek(Position(timeline.start.branches + 500))
    timeline.step_back(50)
    timeline.step(50)
    assert timeline.position == place
    assert timeline.machine.digest() == straight_digest(recording, place)


def test_checkpoints_of_the_recording_are_gone_through(recording_of: RecordingOf) -> None:
    recording = recording_of("race", "host", checkpoint_every=5_000)
    timeline = Timeline(recording)
    assert len(recording.checkpoints) > 3
    place = timeline.seek(Position(recording.checkpoints[2].branches + 3))

    for _ in range(60):
        timeline.back()
    timeline.step(60)

    assert timeline.position == place
    assert timeline.machine.digest() == straight_digest(recording, place)


def test_nothing_of_the_recording_changes(recording_of: RecordingOf) -> None:
    recording = recording_of("vuln", "virtual")
    before = _contents(recording)
    timeline = Timeline(recording)

    timeline.seek_end()
    timeline.step_back(100)
    timeline.run_back(())

    assert _contents(recording) == before


@pytest.mark.parametrize("place", [Position(1_000_000), Position(40_000_000, 2), Position(99_000_001)])
def test_debian_is_the_same_whichever_way_one_comes(place: Position, recording_of: RecordingOf) -> None:
    recording = recording_of("debian", "host", script=DEBIAN_SCRIPT)
    timeline = Timeline(recording)
    # By the host's clock, what follows a branch is something else each time, and may be short.
    timeline.seek(Position(place.branches))
    timeline.step(place.steps)
    place = timeline.position
    expected = straight_digest(recording, place)
    assert timeline.machine.digest() == expected

    timeline.step_back(60)
    timeline.step(60)
    assert timeline.machine.digest() == expected
    timeline.seek(Position(place.branches // 2))
    timeline.seek(place)

    assert timeline.machine.digest() == expected


# -- what went wrong once --------------------------------------------------------------------------------------


def test_what_comes_behind_a_checkpoint_on_its_branch_has_come() -> None:
    """Seen: where a checkpoint of the recording was loaded, the events behind it were still to come."""
    with opened(GOLDEN / "sealed.revirt") as recording:
        info = recording.checkpoints[1]
        events = list(recording.events(info.event + 1))
        assert events[0].branches == info.branches

        timeline = Timeline(recording)
        timeline.seek(Position(info.branches))

        assert timeline.events[timeline.next_event].branches > info.branches
        assert timeline.machine.digest() == straight_digest(recording, timeline.position)


def test_a_cut_ends_where_it_was_cut() -> None:
    with opened(GOLDEN / "cut.revirt") as recording:
        assert recording.manifest.cut_at is not None
        timeline = Timeline(recording)

        end = timeline.seek_end()

        assert end == timeline.end == Position(recording.manifest.cut_at)
        assert end.branches > timeline.events[timeline.events.end - 1].branches
        assert timeline.machine.digest() == straight_digest(recording, end)


def test_a_guest_that_ended_has_nothing_behind_that() -> None:
    """Seen: a machine that came back to where its guest had reset it went on from there."""
    with opened(GOLDEN / "devices-virtual") as recording:
        timeline = Timeline(recording)
        end = timeline.seek_end()
        assert timeline.step().reason is StopReason.END

        assert timeline.run([Write(10, 1, physical=True)]).reason is StopReason.END

        assert timeline.step() == Stopped(StopReason.END, end)
        for _ in range(2):
            with pytest.raises(UsageError, match="0 instructions follow"):
                timeline.seek(Position(end.branches, 1))


def test_there_is_an_end_to_marks(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("hello"))
    for _ in range(MOST_MARKS):
        timeline.checkpoint()

    with pytest.raises(UsageError, match="there are 1000 checkpoints already"):
        timeline.checkpoint()

    timeline.delete_checkpoint(7)
    assert timeline.checkpoint() == MOST_MARKS + 1


def test_memory_stays_within_its_budget(recording_of: RecordingOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: every step forwards left the pages behind that it had changed."""
    budget = 64 << 10
    monkeypatch.setattr(snapshots, "BUDGET", budget)
    recording = recording_of("race", "host", until=Position(30_000))
    timeline = Timeline(recording)
    marks: list[int] = []

    for _ in range(60):
        timeline.step(40)
        timeline.seek(Position(timeline.position.branches + 50))
        marks.append(timeline.checkpoint())
        assert timeline.snapshots_size <= budget * 5 // 4 + (64 << 10)

    # Marks whose memory was let go of are still there.
    for mark in (marks[0], marks[-1]):
        place = timeline.restart(mark)
        assert timeline.machine.digest() == straight_digest(recording, place)


def test_what_is_damaged_leaves_the_machine_where_it_was(recording_of: RecordingOf, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    options = {"until": Position(30_000), "checkpoint_every": 5_000}
    shutil.copytree(recording_of("race", "virtual", **options).path, copy)
    recording = Recording.open(copy)
    info = recording.checkpoints[3]
    timeline = Timeline(recording)
    timeline.seek(Position(100))
    here = timeline.step(3).position
    digest = timeline.machine.digest()
    file = recording.checkpoint_path(info.number)
    file.write_bytes(file.read_bytes()[:-1])

    for _ in range(2):
        with pytest.raises(CorruptError):
            timeline.seek(Position(info.branches + 10))

        assert timeline.position == here
        assert timeline.machine.digest() == digest
    assert timeline.seek(Position(info.branches - 10))


def _contents(recording: Recording) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(recording.path.rglob("*")) if path.is_file()}
