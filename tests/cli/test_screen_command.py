"""``revirt screen`` as people and programs call it."""

from __future__ import annotations

from pathlib import Path

import pytest
from library import RecordingOf

from revirt.cli import main


def test_a_recording_without_a_screen_says_so(
    recording_of: RecordingOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = recording_of("hello")
    picture = tmp_path / "shot.png"

    assert main(["screen", str(recording.path), "--at", "end", "-o", str(picture)]) == 2

    assert f"the machine of {recording.path.name} has no screen" in capsys.readouterr().err
    assert not picture.exists()


@pytest.mark.parametrize("words", [["screen", "-o"], ["disk", "-o"], ["console", "--cast"]])
def test_no_file_is_called_as_others_call_standard_output(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main([*words, "-"]) == 2

    assert "- is no name for a new file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
