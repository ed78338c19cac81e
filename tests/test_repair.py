"""Interrupted recordings, made complete."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from library import COMMAND, built

from revirt.errors import NoRecordingError, RecordingError
from revirt.monitor import session
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import Recording, RecordingState, RingLimits, repair
from revirt.replay import replay


class DiedError(Exception):
    """Stands in for the death of a recorder: nothing is closed in order after it."""


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a recording whose recorder failed before its end."""
    return interrupt(tmp_path / "interrupted", monkeypatch, None)


def interrupt(path: Path, monkeypatch: pytest.MonkeyPatch, limits: RingLimits | None) -> Path:
    def die(*_: object) -> None:
        raise DiedError

    monkeypatch.setattr(session._Recording, "finish", die)
    options = RecordOptions(clock="virtual", until=Position(25_500), checkpoint_every=2_000, limits=limits)
    with NullConsole() as console, pytest.raises(DiedError):
        record(built("timer"), console, options, path)
    return path


def test_a_repaired_recording_is_complete_intact_and_replays(interrupted: Path) -> None:
    assert Recording.open(interrupted).state is RecordingState.INTERRUPTED

    done = repair(interrupted)

    recording = Recording.open(interrupted)
    assert recording.state is RecordingState.COMPLETE
    assert not list(recording.verify())
    report = replay(recording)
    assert report.exact
    assert report.events == done.events - 2
    assert done.lost == []


def test_what_is_behind_a_damaged_segment_is_put_aside(interrupted: Path) -> None:
    segments = sorted((interrupted / "log").iterdir())
    damaged = segments[4]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}

    done = repair(interrupted)

    recording = Recording.open(interrupted)
    assert not list(recording.verify())
    assert replay(recording).exact
    lost = {each.path for each in done.lost}
    assert lost >= {*segments[4:]}
    for path in lost:
        assert path.with_name(path.name + ".damaged").read_bytes() == before[path]
    assert recording.checkpoints[-1].event < recording.event_end


def test_half_written_files_are_put_aside(interrupted: Path) -> None:
    half = interrupted / "pages" / "00000099.pages.tmp"
    half.write_bytes(b"half")

    done = repair(interrupted)

    assert [(each.path, each.problem) for each in done.lost] == [(half, "was being written")]
    assert replay(Recording.open(interrupted)).exact


def test_what_was_put_aside_before_is_not_overwritten(interrupted: Path) -> None:
    half = interrupted / "pages" / "00000099.pages.tmp"
    half.write_bytes(b"half")
    before = half.with_name(half.name + ".damaged")
    before.write_bytes(b"earlier")

    repair(interrupted)

    assert before.read_bytes() == b"earlier"
    assert before.with_name(before.name + "-2").read_bytes() == b"half"


def test_nothing_is_written_through_a_link_that_was_laid(interrupted: Path, tmp_path: Path) -> None:
    """What was seen: the manifest in a new file outside, where a name for what is being written led to."""
    (interrupted / "manifest.json.tmp").symlink_to(tmp_path / "outside")

    done = repair(interrupted)

    assert not (tmp_path / "outside").exists()
    assert [each.path.name for each in done.lost] == ["manifest.json.tmp"]
    assert Recording.open(interrupted).state is RecordingState.COMPLETE


def test_a_ring_is_repaired_from_where_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = interrupt(tmp_path / "ring", monkeypatch, RingLimits(size=12_000))
    first = Recording.open(path).checkpoints[0].number

    repair(path)

    recording = Recording.open(path)
    assert recording.checkpoints[0].number == first > 0
    assert not list(recording.verify())
    assert replay(recording).exact


def test_a_complete_recording_is_not_repaired(interrupted: Path) -> None:
    repair(interrupted)
    before = (interrupted / "manifest.json").read_bytes()

    with pytest.raises(RecordingError, match="is complete"):
        repair(interrupted)

    assert (interrupted / "manifest.json").read_bytes() == before


def test_a_recording_without_a_checkpoint_cannot_be_repaired(interrupted: Path) -> None:
    for path in (interrupted / "log").iterdir():
        path.unlink()
    before = sorted(interrupted.rglob("*"))

    with pytest.raises(RecordingError, match="before its first checkpoint"):
        repair(interrupted)

    assert sorted(interrupted.rglob("*")) == before


def test_what_is_no_recording_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(NoRecordingError):
        repair(tmp_path)

    assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_lost(interrupted: Path, tmp_path: Path) -> None:
    (interrupted / "log" / "00000099.seg.tmp").write_bytes(b"half")
    other = shutil.copytree(interrupted, tmp_path / "other")
    command = [*COMMAND, "repair"]

    words = subprocess.run([*command, interrupted], check=True, capture_output=True, text=True).stdout
    facts = json.loads(
        subprocess.run([*command, other, "--json"], check=True, capture_output=True, text=True).stdout
    )

    assert "repaired" in words
    assert "00000099.seg.tmp: was being written" in words
    assert facts["checkpoints"] == len(Recording.open(other).checkpoints)
    assert [each["problem"] for each in facts["lost"]] == ["was being written"]
