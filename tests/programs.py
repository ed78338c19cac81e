"""Programs that nobody here wrote, which tests are done with; in CI all of them have to be there."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def needed(name: str) -> str:
    """Return the path of the program *name*; without it only a test outside CI is skipped."""
    path = shutil.which(name)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert path is not None, f"CI wants {name}: .ci/run installs it"
    return path


def run(name: str, *arguments: object) -> str:
    """Run the program *name*, which has to work, and return what it prints."""
    command = [needed(name), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
