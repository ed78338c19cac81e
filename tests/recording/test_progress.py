"""How far a verification has come."""

from __future__ import annotations

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from library import RecordingOf

from revirt.recording import Recording


def test_a_verification_tells_how_many_bytes_of_how_many_are_done(recording_of: RecordingOf) -> None:
    recording = recording_of("paging")
    told = list[tuple[str, int, int | None]]()

    assert not list(recording.verify(progress=lambda *each: told.append(each)))

    assert {what for what, _, _ in told} == {"checking"}
    assert all(before < after for (_, before, _), (_, after, _) in pairwise(told))
    assert told[-1][1:] == (recording.log_bytes + recording.checkpoint_bytes,) * 2


@pytest.mark.parametrize("name", ["log", "checkpoints", "pages"])
def test_what_is_missing_is_no_reason_to_stop_telling(
    name: str, recording_of: RecordingOf, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(recording_of("paging").path, tmp_path / "paging"))
    first = min((path / name).iterdir())
    os.truncate(first, 0)
    told = list[int]()

    assert list(Recording.open(path).verify(progress=lambda _, done, _total: told.append(done)))

    assert told == sorted(told) != []


@pytest.mark.parametrize("name", ["log", "checkpoints", "pages"])
def test_what_lies_behind_a_link_is_not_counted(name: str, recording_of: RecordingOf, tmp_path: Path) -> None:
    """What was seen: a directory outside of the recording was listed, to know how much there is to check."""
    path = Path(shutil.copytree(recording_of("paging").path, tmp_path / "paging"))
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    told = list[int | None]()

    found = list(Recording.open(path).verify(progress=lambda _, _done, total: told.append(total)))

    assert "is a link" in {each.problem for each in found}
    assert set(told) <= {None}
