"""What every test may need: guests that were run and recorded, and replays in processes of their own.

A recording is made once for all tests that ask for the same; they must not change it.  When a test fails, the
recordings that it used are named in its report, with the command that replays them.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Helpers of the tests, and the tools, some of which tests run with.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tools")]

from library import COMMAND, Library, RecordingOf, RecordWith, environment  # noqa: E402

from revirt.image import Guest  # noqa: E402
from revirt.machine.config import ClockMode  # noqa: E402
from revirt.monitor.console import Console  # noqa: E402
from revirt.monitor.session import RecordOptions, record  # noqa: E402
from revirt.recording import Recording  # noqa: E402

# How long an example takes says something about the host, not about revirt.
settings.register_profile("any host", deadline=None)
settings.load_profile("any host")

_library = pytest.StashKey[Library]()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Library:
    """The recordings of this run of the tests."""
    pytestconfig.stash[_library] = Library(tmp_path_factory.mktemp("recordings"))
    return pytestconfig.stash[_library]


@pytest.fixture
def recording_of(library: Library) -> RecordingOf:
    """Return a function that records a bundled guest: `RecordOptions` are keywords."""

    def get(
        name: str, clock: ClockMode = "virtual", *, script: str | None = None, **options: Any
    ) -> Recording:
        return library.get(name, clock, script, options)

    return get


@pytest.fixture
def record_with(library: Library) -> RecordWith:
    """Return a function that records *guest* with *console*, anew each time."""

    def make(guest: Guest, console: Console, clock: ClockMode = "host", **options: Any) -> Recording:
        path = library.new_path(guest.name)
        record(guest, console, RecordOptions(clock=clock, **options), path)
        return library.open(path)

    return make


@pytest.fixture
def replay_elsewhere() -> Callable[..., dict[str, Any]]:
    """Return a function that replays a recording in a new process; its report, with the exit ``status``."""

    def run(recording: Recording, *arguments: str) -> dict[str, Any]:
        command = [*COMMAND, "replay", str(recording.path), "--json", *arguments]
        done = subprocess.run(
            command, cwd=recording.path, env=environment(), capture_output=True, text=True, timeout=300
        )
        report = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
        return {"exact": None, **report, "status": done.returncode}

    return run


@pytest.fixture(autouse=True)
def _no_recording_is_used_yet(pytestconfig: pytest.Config) -> None:
    library = pytestconfig.stash.get(_library, None)
    if library is not None:
        library.used.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the recordings of a test that failed, and how to replay them."""
    report = yield
    library = item.config.stash.get(_library, None)
    if library is not None and report.failed and library.used:
        lines = [f"revirt replay {shlex.quote(os.fspath(path))}" for path in dict.fromkeys(library.used)]
        report.sections.append(("recordings: replay them with", "\n".join(lines)))
    return report
