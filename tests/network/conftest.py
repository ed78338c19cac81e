"""What the host has to have for the tests of networks; in CI all of it has to be there."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture
def passt() -> str:
    """The program passt; without it only a test outside CI is skipped."""
    program = shutil.which("passt")
    if program is None and not os.environ.get("CI"):
        pytest.skip("passt is not installed")
    assert program is not None, "CI wants passt: .ci/run installs it"
    return program
