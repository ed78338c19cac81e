from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from revirt.image import find
from revirt.image.build import build


@pytest.fixture(scope="session")
def debian_guest() -> Callable[[str], Path]:
    """Return the directory of a Debian guest, built on first use into the user's own cache."""
    return lambda name: build(find(name), progress=print)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make revirt's cache an empty directory, and return it."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("REVIRT_CACHE", str(cache))
    return cache
