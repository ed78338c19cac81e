"""Processes that replay for this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import revirt


def start_child(module: str, *, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process that runs *module* of the same revirt as this one, with pipes to and from it.

    Its errors go where those of this process go, or to *stderr*.
    """
    # Whatever the current directory holds.
    env = {**os.environ, "PYTHONPATH": str(Path(revirt.__file__).parent.parent)}
    # In a session of its own: Ctrl-C is for this process, which ends the others.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=env,
        start_new_session=True,
    )
