"""What `revirt verify` says of recordings that are sound."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from library import RecordingOf

from revirt.cli import main
from revirt.recording import Manifest, RecordingState
from revirt.recording.manifest import NAME


@pytest.fixture
def died(recording_of: RecordingOf, tmp_path: Path) -> Path:
    """A recording as a recorder leaves it that is killed just before its end."""
    path = tmp_path / "died"
    shutil.copytree(recording_of("hello").path, path)
    manifest = Manifest.read(path / NAME)
    manifest.state, manifest.end = RecordingState.RECORDING, None
    (path / NAME).write_text(manifest.to_json())
    return path


def test_verify_calls_a_whole_recording_intact(
    recording_of: RecordingOf, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording_of("hello").path

    status = main(["verify", str(path)])

    assert status == 0
    assert capsys.readouterr().out == f"intact: {path}\n"


def test_verify_says_that_a_recorder_died(died: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["verify", str(died)])

    assert status == 0
    assert capsys.readouterr().out == f"interrupted, intact up to there: {died}\n"
