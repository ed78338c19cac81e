"""Guests that tests run, and the recordings that were made of them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from plugged_guest import GUEST as PLUGGED
from plugged_guest import Hands, plugs

import revirt
from revirt.image import Guest, find
from revirt.image.build import build
from revirt.image.debian import READY
from revirt.machine.config import ClockMode
from revirt.monitor.console import Console, NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.recording import Recording

DEBIAN_SCRIPT = rf"""
timeout 120
expect "{READY}"
expect "# "
send "echo $((6 * 7)); cat /proc/interrupts | head -3; ls / | sort -r; (exit 3); echo status $?\n"
expect "status 3"
send "poweroff -f\n"
"""
"""What the tests do in Debian unless they do something else."""


class Watcher:
    """Implements `revirt.render.Progress`: keeps what it was told, branch counts and of how many."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None]] = []

    def update(self, branches: int, guest_ns: int, total: int | None) -> None:
        self.told.append((branches, total))

    @property
    def totals(self) -> list[int | None]:
        """The totals, each once, in order."""
        return list(dict.fromkeys(total for _, total in self.told))


class RecordWith(Protocol):
    """Records a guest with a console, anew each time."""

    def __call__(
        self, guest: Guest, console: Console, clock: ClockMode = ..., **options: Any
    ) -> Recording: ...


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
            hands = Hands() if name == PLUGGED.name else None
            wired = {"plugs": plugs(hands.keys)} if hands is not None else {}
            with console_for(guest, script, hands) as console:
                record(guest, console, RecordOptions(clock=clock, **wired, **options), self.made[key])
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


def console_for(guest: Guest, script: str | None, hands: Hands | None = None) -> NullConsole:
    """Return a console that runs *script*, else what *guest* is used with; *hands* press its keys."""
    if script is None and guest.recipe is not None:
        script = DEBIAN_SCRIPT
    if script is not None:
        return ScriptedConsole(Script.parse(script), hands=hands)
    return ScriptedConsole(Script.load(guest.script), hands=hands) if guest.script else NullConsole()


COMMAND = [sys.executable, "-P", "-m", "revirt"]
"""How a process runs the revirt that is tested here, from wherever it is; with this `environment`."""


def environment() -> dict[str, str]:
    """Return the environment of a process that is to run the revirt that is tested here."""
    paths = [str(Path(revirt.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
