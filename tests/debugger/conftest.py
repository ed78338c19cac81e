"""Sessions on the recorded attack on `vuln`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from library import RecordingOf

from revirt.debugger import Session
from revirt.recording import Recording


@pytest.fixture
def attack(recording_of: RecordingOf, tmp_path: Path) -> Recording:
    """The attack, in a directory of its own: notes are written beside it."""
    path = tmp_path / "attack"
    shutil.copytree(recording_of("vuln").path, path)
    return Recording.open(path)


@pytest.fixture
def session(attack: Recording) -> Session:
    """A session at the start of the attack."""
    return Session(attack)
