"""What every test may need: guests that were run and recorded, and Debian, built.

A recording is made once for all tests that ask for the same; they must not change it.  When a test fails, the
recordings that it used are named in its report, with the command that replays them.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from revirt.image import Guest, find
from revirt.image.build import build
from revirt.image.debian import READY
from revirt.machine.config import ClockMode
from revirt.monitor.console import Console, NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.recording import Recording

# Some tests run with what tools/ has.
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

DEBIAN_SCRIPT = rf"""
timeout 120
expect "{READY}"
expect "# "
send "echo $((6 * 7)); cat /proc/interrupts | head -3; ls / | sort -r; (exit 3); echo status $?\n"
expect "status 3"
send "poweroff -f\n"
"""
"""What the tests do in Debian unless they do something else."""


class RecordingOf(Protocol):
    """Records a guest, or returns the recording of one that was made in the same way."""

    def __call__(
        self, name: str, clock: ClockMode = ..., *, script: str | None = ..., **options: Any
    ) -> Recording: ...


@dataclass(slots=True)
class Library:
    """Recordings that were made, by what they are of; those *used* by the test that runs."""

    directory: Path
    made: dict[object, Path] = field(default_factory=dict)
    used: list[Path] = field(default_factory=list)

    def get(self, name: str, clock: ClockMode, script: str | None, options: dict[str, Any]) -> Recording:
        key = (name, clock, script, *sorted(options.items()))
        if key not in self.made:
            self.made[key] = self.new_path(f"{name}-{clock}")
            guest = built(name)
            with console_for(guest, script) as console:
                record(guest, console, RecordOptions(clock=clock, **options), self.made[key])
        return self.open(self.made[key])

    def open(self, path: Path) -> Recording:
        """Return the recording in *path*, named if the test fails."""
        self.used.append(path)
        return Recording.open(path)

    def new_path(self, stem: str) -> Path:
        """Return a path where there is no recording yet."""
        return self.directory / f"{stem}-{len(list(self.directory.iterdir()))}"


def built(name: str) -> Guest:
    """Return the bundled guest *name*, built into the user's own cache if it has to be built."""
    guest = find(name)
    if not guest.is_built:
        build(guest, progress=print)
    return guest


def console_for(guest: Guest, script: str | None) -> NullConsole:
    """Return a console that runs *script*, else what *guest* is used with."""
    if script is None and guest.recipe is not None:
        script = DEBIAN_SCRIPT
    if script is not None:
        return ScriptedConsole(Script.parse(script))
    return ScriptedConsole(Script.load(guest.script)) if guest.script else NullConsole()


_library = pytest.StashKey[Library]()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Library:
    """The recordings of this run of the tests."""
    pytestconfig.stash[_library] = Library(tmp_path_factory.mktemp("recordings"))
    return pytestconfig.stash[_library]


@pytest.fixture
def recording_of(library: Library) -> RecordingOf:
    """Return a function that records a bundled guest: `RecordOptions` are keywords."""

    def get(name: str, clock: ClockMode = "virtual", *, script: str | None = None, **options: Any) -> Recording:
        return library.get(name, clock, script, options)

    return get


@pytest.fixture
def record_with(library: Library) -> Callable[..., Recording]:
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
        command = [sys.executable, "-m", "revirt", "replay", str(recording.path), "--json", *arguments]
        done = subprocess.run(command, cwd=recording.path, capture_output=True, text=True, timeout=300)
        report = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
        return {**report, "status": done.returncode}

    return run


@pytest.fixture(autouse=True)
def _no_recording_is_used_yet(pytestconfig: pytest.Config) -> Iterator[None]:
    library = pytestconfig.stash.get(_library, None)
    if library is not None:
        library.used.clear()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Name the recordings of a test that failed, and how to replay them."""
    report = yield
    library = item.config.stash.get(_library, None)
    if library is not None and report.failed and library.used:
        lines = [f"revirt replay {shlex.quote(os.fspath(path))}" for path in dict.fromkeys(library.used)]
        report.sections.append(("recordings: replay them with", "\n".join(lines)))
    return report
