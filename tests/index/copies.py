"""Copies of recordings, with an index: a recording that others use must not change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from revirt.index import Index, build_index
from revirt.recording import Recording

CHECKPOINT_EVERY = {
    "timer": 12_000_000,
    "race": 5_000_000,
    "packer": 20_000,
    "paging": 20_000,
    "paging32": 40_000,
    "echo": 1_000,
    "idle": 200,
}
"""Branches between checkpoints, so that a recording of a bundled guest has several."""


def copy_of(recording: Recording, directory: Path) -> Recording:
    """Return a copy of *recording* in *directory*."""
    return Recording.open(Path(shutil.copytree(recording.path, directory / recording.path.name)))


def finely_indexed(recording: Recording) -> Index:
    """Make the index of *recording*, with counts and intervals closer than those of longer ones; return it."""
    spacing = max(10, recording.end_branches // 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("revirt.index.counting.STRIDE", max(1, spacing // 4))
        return build_index(recording, jobs=1, spacing=spacing).index


def files_of(recording: Recording) -> dict[str, bytes]:
    """Return the contents of the index of *recording*, by name."""
    directory = recording.path / "index"
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
