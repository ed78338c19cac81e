"""Recordings that forget their beginning."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from busy import busy_in
from library import built

from revirt.checkpoint.pages import PageFile
from revirt.checkpoint.reader import CheckpointReader
from revirt.checkpoint.store import copy_pages
from revirt.checkpoint.writer import CheckpointWriter
from revirt.core import hash_pages
from revirt.errors import CorruptError, RecordingError, UsageError
from revirt.image import Guest
from revirt.log.events import Kind
from revirt.log.writer import LogWriter
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import Recording, RecordingState, RingLimits
from revirt.recording.manifest import Kept, Manifest
from revirt.recording.ring import Ring
from revirt.replay import replay


@pytest.fixture
def busy(tmp_path: Path) -> Guest:
    return busy_in(tmp_path)


def record_ring(
    guest: Guest, path: Path, limits: RingLimits, *, branches: int = 60_000, clock: ClockMode = "virtual"
) -> Recording:
    options = RecordOptions(clock=clock, until=Position(branches), checkpoint_every=1_000, limits=limits)
    with NullConsole() as console:
        record(guest, console, options, path)
    return Recording.open(path)


def bytes_on_disk(path: Path) -> int:
    return sum(
        each.stat().st_size for part in ("log", "checkpoints", "pages") for each in (path / part).iterdir()
    )


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the bytes on disk after every file that is written, of one recording."""
    found: list[int] = []
    replaced = os.replace

    def replace_and_look(source: Path, target: Path) -> None:
        replaced(source, target)
        found.append(bytes_on_disk(Path(target).parent.parent) if Path(target).parent.name != "ring" else 0)

    monkeypatch.setattr(os, "replace", replace_and_look)
    return found


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_what_is_left_of_a_ring_is_intact_and_replays(busy: Guest, tmp_path: Path, clock: ClockMode) -> None:
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=60_000), clock=clock)

    oldest = recording.checkpoints[0]
    assert oldest.number > 0
    assert not list(recording.verify())
    for info in recording.checkpoints:
        assert replay(recording, checkpoint=info.number).exact
    report = replay(recording)
    assert report.exact
    assert report.branches == 60_000
    assert report.digests_checked == len(recording.checkpoints) + 1


def test_a_ring_stays_within_its_size_at_every_moment(busy: Guest, tmp_path: Path, sizes: list[int]) -> None:
    limit = 80_000

    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=limit), branches=300_000)

    assert max(sizes) <= limit * 1.05
    assert recording.event_end > 250_000
    assert recording.manifest.start.branches > 200_000
    assert replay(recording).exact


def test_a_ring_keeps_as_much_time_as_it_was_told_to(busy: Guest, tmp_path: Path) -> None:
    keep_ns = 100_000  # at 10 ns for each branch: ten checkpoints

    recording = record_ring(busy, tmp_path / "ring", RingLimits(keep_ns=keep_ns))

    infos = recording.checkpoints
    assert infos[-1].guest_ns - infos[0].guest_ns >= keep_ns
    assert infos[-1].guest_ns - infos[1].guest_ns < keep_ns
    assert replay(recording).exact


def test_every_event_that_is_kept_is_preceded_by_a_checkpoint(busy: Guest, tmp_path: Path) -> None:
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=60_000))

    events = list(recording.events())

    start = recording.manifest.start
    assert [event.kind for event in events[:2]] == [Kind.DIGEST, Kind.CHECKPOINT]
    assert events[1].number == start.checkpoint == recording.checkpoints[0].number
    assert recording.checkpoints[0].event == start.event + 1
    assert recording.event_count == len(events) == recording.event_end - start.event


def test_whoever_asks_for_what_was_evicted_is_told_the_oldest_left(busy: Guest, tmp_path: Path) -> None:
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=60_000))
    oldest = recording.checkpoints[0]

    with pytest.raises(UsageError, match="checkpoint 0 of ring was evicted") as by_number:
        replay(recording, checkpoint=0)
    with pytest.raises(UsageError, match="position 5:0 of ring was evicted") as by_position:
        replay(recording, until=Position(5))

    assert f"{oldest.number}, at {oldest.branches}:0" in str(by_number.value.hint)
    assert f"{oldest.branches}:0, at checkpoint {oldest.number}" in str(by_position.value.hint)


def test_a_ring_too_small_for_a_checkpoint_keeps_the_newest(busy: Guest, tmp_path: Path) -> None:
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=100))

    assert recording.checkpoints[-1].branches == 59_000
    assert len(recording.checkpoints) <= 2
    assert replay(recording).exact


def test_whenever_something_goes_there_is_a_checkpoint_to_replay_from(
    busy: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = tmp_path / "ring", list[int]()
    evict = CheckpointWriter.evict

    def evict_and_look(self: CheckpointWriter, oldest: int, *, all_of_it: bool = False) -> None:
        evict(self, oldest, all_of_it=all_of_it)
        if oldest > 0:
            left.append(len(Recording.open(path).checkpoints))

    monkeypatch.setattr(CheckpointWriter, "evict", evict_and_look)
    record_ring(busy, path, RingLimits(size=100))

    # Killed right there, the recorder once left checkpoints whose events were still to be written.
    assert left
    assert min(left) >= 1


def test_without_limits_nothing_goes(busy: Guest, tmp_path: Path) -> None:
    options = RecordOptions(clock="virtual", until=Position(9_500), checkpoint_every=1_000)
    with NullConsole() as console:
        record(busy, console, options, tmp_path / "whole")

    recording = Recording.open(tmp_path / "whole")
    assert recording.manifest.ring is None
    assert [info.number for info in recording.checkpoints] == list(range(10))


def test_a_ring_that_turns_can_be_read_all_the_while(busy: Guest, tmp_path: Path) -> None:
    path, opened = tmp_path / "ring", list[int]()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            if (path / "manifest.json").exists():
                recording = Recording.open(path)
                if recording.state is RecordingState.RECORDING and recording.checkpoints:
                    opened.append(recording.checkpoints[0].number)

    reader = threading.Thread(target=look)
    reader.start()
    record_ring(busy, path, RingLimits(size=60_000), branches=300_000)
    over.set()
    reader.join()

    assert opened == sorted(opened)
    assert opened[-1] > 0


@pytest.fixture
def turning(busy: Guest, tmp_path: Path) -> Iterator[Path]:
    """Return a ring that is still being recorded, to whoever looks: here it keeps still."""
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=60_000))
    write_manifest(recording.path, state=RecordingState.RECORDING, end=None)
    with open(recording.path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield recording.path


def write_manifest(path: Path, **changes: Any) -> None:
    changed = replace(Manifest.read(path / "manifest.json"), **changes)
    (path / "manifest.json").write_text(changed.to_json())


def test_what_goes_while_a_ring_is_verified_is_no_damage(
    turning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_pages, recording = CheckpointReader.verify_pages, Recording.open(turning)
    assert recording.state is RecordingState.RECORDING
    oldest, then, *_ = recording.checkpoints
    (begins,) = (each for each in recording.segments if each.ordinal == then.event - 1)

    def turn_at_first(self: CheckpointReader, number: int) -> None:
        if number == oldest.number:
            # The manifest says what is kept from now on, and then the recorder deletes the rest, file by file.
            kept = Kept(begins.index, begins.ordinal, then.number, then.branches, then.guest_ns)
            write_manifest(turning, kept=asdict(kept))
            recording.checkpoint_path(number).unlink()
            for each in recording.segments[: recording.segments.index(begins)]:
                each.path.unlink()
            raise CorruptError(recording.checkpoint_path(number), "missing")
        verify_pages(self, number)

    monkeypatch.setattr(CheckpointReader, "verify_pages", turn_at_first)

    assert list(recording.verify()) == []
    assert list(Recording.open(turning).verify()) == []


def test_damage_to_a_ring_that_is_being_recorded_is_found(turning: Path) -> None:
    newest = max((turning / "pages").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])

    findings = list(Recording.open(turning).verify())

    assert newest in {finding.path for finding in findings}


def test_who_reads_what_was_evicted_meanwhile_is_told_so_and_the_oldest_left(turning: Path) -> None:
    recording = Recording.open(turning)
    first, then = recording.segments[:2], recording.checkpoints[1]
    for segment in first:
        segment.path.unlink()
    write_manifest(turning, kept={**recording.manifest.kept, "checkpoint": then.number, "branches": 77})

    with pytest.raises(RecordingError, match=r"ring is being recorded, and what .* was evicted") as raised:
        list(recording.events(recording.manifest.start.event))

    assert raised.value.hint == f"the oldest checkpoint left is {then.number}, at 77:0"


@pytest.fixture
def interrupted(
    busy: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """Return a ring whose recorder failed while it was letting go, in the method named by the parameter."""
    owner, name = request.param
    method, calls = getattr(owner, name), []

    def fail_at_third(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, fail_at_third)
    with pytest.raises(Exception, match="No space left"):
        record_ring(busy, tmp_path / "ring", RingLimits(size=60_000))
    monkeypatch.undo()
    return tmp_path / "ring"


@pytest.mark.parametrize(
    "interrupted",
    [(LogWriter, "evict"), (CheckpointWriter, "evict")],
    indirect=True,
    ids=["log", "checkpoints"],
)
def test_a_recorder_that_fails_while_it_evicts_leaves_what_it_kept(interrupted: Path) -> None:
    recording = Recording.open(interrupted)

    assert recording.state is RecordingState.INTERRUPTED
    assert recording.checkpoints[0].number > 0
    assert not list(recording.verify())
    assert replay(recording).exact


def test_a_segment_of_what_is_kept_that_is_missing_is_noticed(busy: Guest, tmp_path: Path) -> None:
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=60_000))
    first = min((recording.path / "log").iterdir())
    first.unlink()

    assert any("is missing" in finding.problem for finding in Recording.open(recording.path).verify())
    with pytest.raises(CorruptError, match="is missing"):
        replay(Recording.open(recording.path))


def test_pages_that_are_dropped_while_a_file_is_verified_are_no_damage(busy: Guest, tmp_path: Path) -> None:
    """What was seen: a ring called damaged, because its recorder wrote such a file anew meanwhile."""
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=60_000))
    path = max((recording.path / "pages").iterdir())
    opened = PageFile.open(path)
    copy_pages(opened, list(opened.ids)[1::2], path)

    opened.verify(hash_pages)

    data = bytearray(path.read_bytes())
    data[80] ^= 1  # in its first chunk
    path.write_bytes(data)
    with pytest.raises(CorruptError):
        opened.verify(hash_pages)


def test_damage_to_pages_of_a_checkpoint_that_went_is_noticed(busy: Guest, tmp_path: Path) -> None:
    recording = record_ring(busy, tmp_path / "ring", RingLimits(size=60_000))
    old = min((recording.path / "pages").iterdir())
    assert int(old.stem) < recording.checkpoints[0].number
    data = bytearray(old.read_bytes())
    data[80] ^= 1  # in its first chunk
    old.write_bytes(data)

    findings = list(Recording.open(recording.path).verify())

    assert [(finding.path, finding.problem) for finding in findings] == [
        (old, "chunk 0 does not match its check")
    ]


def test_a_ring_of_a_real_guest_replays(tmp_path: Path) -> None:
    recording = record_ring(built("timer"), tmp_path / "ring", RingLimits(size=80_000), branches=300_000)

    assert recording.checkpoints[0].number > 0
    assert replay(recording).exact


# ---- the ring itself -----------------------------------------------------------------------------------------------


ALL = 1 << 32
"""As `written`: all events are on disk."""


def filled(limits: RingLimits, count: int) -> Ring:
    ring = Ring(limits)
    for number in range(count):
        ring.add(Kept(number, number * 10, number, number * 1_000, number * 1_000_000))
    return ring


def test_a_ring_turns_for_as_long_as_it_is_over_its_size() -> None:
    ring = filled(RingLimits(size=100), 5)

    starts = [ring.turn(used, ALL) for used in (101, 150, 100, 101, 101, 101, 101)]

    assert [start and start.checkpoint for start in starts] == [1, 2, None, 3, 4, None, None]


def test_a_ring_waits_for_the_event_of_the_checkpoint_that_is_to_be_its_first() -> None:
    ring = filled(RingLimits(size=100), 3)  # events of number 1 are the log's numbers 10 and 11

    assert ring.turn(101, 11) is None
    assert ring.turn(101, 12) == Kept(1, 10, 1, 1_000, 1_000_000)


def test_a_frozen_ring_does_not_turn() -> None:
    ring = filled(RingLimits(size=100, keep_ns=1), 5)

    ring.is_frozen = True

    assert ring.turn(1_000, ALL) is None
    assert not ring.is_over(1_000)


def test_a_ring_by_time_keeps_the_checkpoint_that_the_time_begins_behind() -> None:
    ring = filled(RingLimits(keep_ns=2_500_000), 6)

    starts = [ring.turn(0, ALL) for _ in range(4)]

    assert [start and start.checkpoint for start in starts] == [1, 2, None, None]


def test_both_limits_hold() -> None:
    chance = Random(1)
    for _ in range(200):
        ring = filled(RingLimits(size=100, keep_ns=3_000_000), chance.randrange(2, 12))
        used = chance.randrange(0, 200)
        starts = []
        while (start := ring.turn(used, ALL)) is not None:
            starts.append(start)
            used -= 10
        assert all(later.checkpoint == earlier.checkpoint + 1 for earlier, later in pairwise(starts))
