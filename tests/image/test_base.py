"""Disk images that are only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from revirt.image.base import BaseImage


@pytest.mark.parametrize("offset", [4096, 1 << 62, 1 << 72])
def test_what_a_guest_asks_for_behind_the_end_needs_no_reading(tmp_path: Path, offset: int) -> None:
    """A sector number of 64 bits is an offset that no system call takes: it raised OverflowError."""
    (tmp_path / "image").write_bytes(bytes(4096))
    image = BaseImage.open(tmp_path / "image")

    image.fetch(offset, 512)
    assert image.is_in_memory(offset, 512)
