"""An index tells what replays tell that look at everything."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import stale
from copies import CHECKPOINT_EVERY, copy_of, files_of, finely_indexed
from library import DEBIAN_SCRIPT, RecordingOf, RecordWith
from straight import random_positions, straight_digest

from revirt.core import WATCH_MAYBE, WATCH_WRITE
from revirt.errors import UsageError
from revirt.image import guests
from revirt.index import Index, Interval, build_index
from revirt.monitor.console import NullConsole
from revirt.position import Position
from revirt.recording import Recording
from revirt.recording.ring import RingLimits
from revirt.replay import ReplaySession, count_instructions, total_instructions
from revirt.timeline import Timeline

BUNDLED = [guest.name for guest in guests() if guest.recipe is None]
PAGE_SIZE = 4096


@pytest.mark.parametrize("name", BUNDLED)
def test_events_have_the_counts_of_a_replay_that_goes_straight(
    name: str, recording_of: RecordingOf, tmp_path: Path
) -> None:
    every = CHECKPOINT_EVERY.get(name, 20_000)
    recording = copy_of(recording_of(name, "host", checkpoint_every=every), tmp_path)
    expected = list(count_instructions(recording))

    index = finely_indexed(recording)

    assert list(index.events() or ()) == expected
    assert index.instructions == total_instructions(recording)


@pytest.mark.parametrize("name", sorted({*BUNDLED} - {"timer"}))
def test_a_position_is_the_same_with_an_index(name: str, recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = copy_of(recording_of(name, "host"), tmp_path)
    places = random_positions(Timeline(recording), random.Random(name), 3)
    expected = {place: straight_digest(recording, place) for place in places}
    index = finely_indexed(recording)

    for place in places:
        timeline = Timeline(recording)
        assert timeline.index.interval_count == index.interval_count
        timeline.seek(place)
        assert timeline.machine.digest() == expected[place]
        timeline.seek_end()


@pytest.mark.parametrize("name", ["idle", "paging", "echo"])
def test_counts_grow_by_one_where_something_is_executed(
    name: str, recording_of: RecordingOf, tmp_path: Path
) -> None:
    recording = copy_of(recording_of(name, "host"), tmp_path)
    finely_indexed(recording)
    timeline = Timeline(recording)
    timeline.seek_fraction(0.6)
    timeline.step(3)
    count = timeline.icount()

    for _ in range(60):
        here = timeline.position
        assert timeline.icount() == count
        found = timeline.seek_icount(count)
        assert found == here or (found > here and timeline.icount() == count)
        timeline.seek(here)
        assert timeline.forward()
        after = timeline.icount()
        # Nothing is executed where an interrupt is taken, and where a halted CPU is woken.
        assert after == count + 1 or (after == count and timeline.position.steps == 0)
        count = after


def test_the_first_and_the_last_instruction_are_found(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = copy_of(recording_of("race", "host"), tmp_path)
    finely_indexed(recording)
    timeline = Timeline(recording)

    # The line before the guest's first branch is empty.
    assert timeline.seek_icount(0) == Position(1)
    timeline.seek_end()
    last = timeline.icount()
    assert last == timeline.index.instructions == total_instructions(recording)
    here = timeline.seek_icount(last - 1)
    with pytest.raises(UsageError, match="ends before"):
        timeline.seek_icount(last + 1)
    with pytest.raises(UsageError, match="from 0"):
        timeline.seek_icount(-1)
    assert timeline.position == here


def test_without_an_index_it_is_said_how_to_make_one(recording_of: RecordingOf) -> None:
    recording = recording_of("timer", "virtual")
    timeline = Timeline(recording)
    here = timeline.seek(Position(100, 1))

    for ask in (timeline.icount, lambda: timeline.seek_icount(5), lambda: timeline.index.instructions):
        with pytest.raises(UsageError, match="are not counted") as caught:
            ask()
        assert caught.value.hint == f"revirt index {recording.path.name}"
    assert timeline.position == here


# -- written pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["packer", "paging", "paging32", "echo", "idle"])
def test_pages_are_written_where_watches_see_it(name: str, recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = copy_of(recording_of(name, "host", checkpoint_every=CHECKPOINT_EVERY[name]), tmp_path)
    index = finely_indexed(recording)
    pages = [page for page in range(1 << 11) if index.intervals_writing([page])]
    assert pages

    for page in [*sorted(pages)[:8], max(pages) + 1, 0]:
        lines = lines_writing(recording, page)
        intervals = index.intervals_writing([page])
        for line in lines:
            assert any(each.start <= line < each.end for each in intervals), (page, line)
        for each in intervals:
            assert any(each.start <= line < each.end for line in lines), (page, each)


def test_intervals_follow_each_other_to_the_end(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = copy_of(recording_of("paging", "host", checkpoint_every=CHECKPOINT_EVERY["paging"]), tmp_path)
    everything = Index(recording).intervals_writing([])
    build_index(recording, jobs=1)

    found = Index(recording).intervals_writing(range(1 << 20))

    assert everything[0].start == found[0].start == 0
    assert everything[-1].end == recording.end_branches + 1
    assert found[-1].end >= recording.end_branches
    for before, after in pairwise(found):
        assert before.start < before.end
        assert after.start in (before.end, before.end - 1)
    assert Index(recording).intervals_writing([]) in ([], [Interval(found[-1].end - 1, found[-1].end)])


def test_intervals_are_short_where_much_happens(
    recording_of: RecordingOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = copy_of(recording_of("echo", "host", checkpoint_every=CHECKPOINT_EVERY["echo"]), tmp_path)
    monkeypatch.setattr("revirt.index.counting.STRIDE", 10)
    spacing = recording.end_branches
    quiet = build_index(recording, jobs=1, spacing=spacing).index.interval_count
    monkeypatch.setattr("revirt.index.counting._EVENT", 100 * spacing)

    busy = build_index(recording, jobs=1, spacing=spacing, again=True).index.interval_count

    assert busy > quiet + 5


def test_where_writes_are_not_tracked_all_pages_may_be_written(
    recording_of: RecordingOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = copy_of(recording_of("hello"), tmp_path)
    monkeypatch.setattr("revirt.index.counting.ReplaySession", compared)

    index = build_index(recording, jobs=1).index

    assert index.intervals_writing([recording.load_checkpoint(0).page_count + 1])


def compared(*arguments: object, **options: object) -> ReplaySession:
    """Return a session that finds changed pages as on hosts whose kernel does not tell."""
    return ReplaySession(*arguments, **options, track_writes=False)  # type: ignore[arg-type]


def lines_writing(recording: Recording, page: int) -> set[int]:
    """Return the lines on which *page* is written, as the core's watches tell it."""
    session = ReplaySession(recording)
    core = session.machine.core
    core.set_watches((), [(page * PAGE_SIZE, PAGE_SIZE)], ())
    lines: set[int] = set()
    goes_on = True
    while goes_on:
        stop = session.run(core.branches + 20_000)
        goes_on = stop.ended is None and stop.halted is None
        # An access that goes on into another page, which may be this one: at the edge of every page watched alone.
        lines |= {
            each[1] for each in core.take_hits() if each[0] & (WATCH_WRITE | WATCH_MAYBE) == WATCH_WRITE
        }
    return lines


# -- recordings that are not whole -----------------------------------------------------------------------------------


def test_a_guest_that_lives_from_what_its_page_tables_do_not_say_has_an_index(
    record_with: RecordWith, tmp_path: Path
) -> None:
    with NullConsole() as console:
        recording = record_with(stale.guest_in(tmp_path), console, "virtual")
    expected = list(count_instructions(recording))

    index = finely_indexed(recording)

    assert list(index.events() or ()) == expected
    assert index.interval_count > 1
    assert index.checkpoint_before(recording.end_branches) is None
    timeline = Timeline(recording)
    timeline.seek(Position(recording.end_branches))
    assert timeline.machine.digest() == straight_digest(recording, timeline.position)


def test_a_circular_recording_has_an_index_of_what_is_left(recording_of: RecordingOf, tmp_path: Path) -> None:
    limits = RingLimits(size=6_000)
    options = {"until": Position(60_000), "checkpoint_every": 10_000, "digest_every": 5_000, "limits": limits}
    recording = copy_of(recording_of("timer", "virtual", **options), tmp_path)
    timeline = Timeline(recording)
    assert timeline.start.branches > 0

    timeline.build_index(jobs=1)

    assert timeline.icount() == 0
    assert timeline.seek_icount(1_000) > timeline.start
    assert timeline.icount() == 1_000
    assert list(timeline.index.events() or ()) == list(count_instructions(recording))


# -- several processes -----------------------------------------------------------------------------------------------


def test_several_processes_make_what_one_does(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = copy_of(recording_of("race", "host", checkpoint_every=CHECKPOINT_EVERY["race"]), tmp_path)
    assert build_index(recording, jobs=1).made == len(recording.checkpoints) > 2
    expected = files_of(recording)

    again = build_index(recording, jobs=2, again=True)

    assert again.made == len(recording.checkpoints)
    assert files_of(recording) == expected
    assert build_index(recording).made == 0


# -- Debian ------------------------------------------------------------------------------------------------------------


@pytest.mark.debian
def test_debian_is_indexed_and_found_again(recording_of: RecordingOf, tmp_path: Path) -> None:
    recording = copy_of(recording_of("debian", "host", script=DEBIAN_SCRIPT), tmp_path)
    index = build_index(recording).index
    assert index.interval_count > 20
    (place,) = random_positions(Timeline(recording), random.Random(4), 1)
    expected = straight_digest(recording, place)

    timeline = Timeline(recording)
    assert timeline.seek(place) == place
    assert timeline.machine.digest() == expected
    count = timeline.icount()
    timeline.seek(Position(99))
    found = timeline.seek_icount(count)

    assert found >= place
    timeline.seek(place)
    assert timeline.machine.digest() == expected
