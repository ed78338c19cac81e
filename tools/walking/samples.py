"""Recordings to walk through: the golden ones, bundled guests under the host's clock, and Debian."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from goldens.make import opened, read_index
from goldens.table import DIRECTORY
from prove import record_debian

from revirt.image import find
from revirt.monitor.console import NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position

_GOLDEN = Path(__file__).resolve().parents[2] / DIRECTORY
_GUESTS = ("echo", "idle", "packer", "paging", "race", "timer", "vuln")
_LENGTH = 100_000
"""Branches at most: a straight replay of that takes some milliseconds."""
_CHECKPOINT_EVERY, _DIGEST_EVERY = 20_000, 5_000

Make = Callable[[Path], object]
"""Makes a recording in a new directory."""


def makers() -> Mapping[str, Make]:
    """Return what makes the samples, by their names, but those of Debian."""
    golden = {name: partial(_copy_golden, entry["file"]) for name, entry in read_index(_GOLDEN).items()}
    return {**golden, **{f"{name}-live": partial(_record, name) for name in _GUESTS}}


def debian_makers() -> Mapping[str, Make]:
    """Return what makes the samples of Debian: with somebody who types, and with a script."""
    return {
        "debian-host": partial(record_debian, "debian", "host", 1),
        "debian-virtual": partial(record_debian, "debian", "virtual", 1),
    }


def make_samples(makers: Mapping[str, Make], directory: Path) -> list[Path]:
    """Make the samples in *directory*, but for those that are there already; return where all are."""
    directory.mkdir(exist_ok=True)
    for name, make in makers.items():
        if not (directory / name).exists():
            make(directory / name)
    return [directory / name for name in makers]


def _copy_golden(file: str, path: Path) -> None:
    with opened(_GOLDEN / file) as recording:
        shutil.copytree(recording.path, path)


def _record(name: str, path: Path) -> None:
    """Record the guest *name* under the host's clock, so that no two are the same."""
    guest = find(name)
    console = NullConsole() if guest.script is None else ScriptedConsole(Script.load(guest.script))
    options = RecordOptions(
        checkpoint_every=_CHECKPOINT_EVERY, digest_every=_DIGEST_EVERY, until=Position(_LENGTH)
    )
    with console:
        record(guest, console, options, path)
