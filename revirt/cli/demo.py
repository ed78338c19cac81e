"""``revirt demo``: the main job on bundled guests, with nothing to download.

A service is attacked with a virtual clock; two guests whose outcome hangs on the moments of their timer
interrupts run with the host's clock.  Each recording is replayed in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import revirt
from revirt.errors import DivergenceError, RecordingExistsError, RevirtError
from revirt.image import Guest, find
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.recording import Recording
from revirt.render import Format, emit, grouped, printable, size, styled

_RUNS: tuple[tuple[str, ClockMode], ...] = (("vuln", "virtual"), ("timer", "host"), ("race", "host"))
_TIMEOUT_S = 600
_SHOWN_LINES = 2
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One guest, recorded and replayed; sizes in bytes."""

    guest: str
    proves: str
    clock: str
    path: Path
    said: list[str]
    reason: str
    branches: int
    events: int
    log_bytes: int
    record_seconds: float
    exact: bool
    digests_checked: int
    replay_seconds: float


@dataclass(slots=True)
class Place:
    """Where a demonstration leaves its recordings, and whether they stay."""

    path: Path
    is_kept: bool


@contextmanager
def placed(output: Path | None) -> Iterator[Place]:
    """Make a directory for a demonstration: *output*, or one that goes unless somebody says that it is kept.

    Raises RecordingExistsError if *output* exists.
    """
    place = Place(output or Path(tempfile.mkdtemp(prefix="revirt-demo-")), output is not None)
    if output is not None:
        _make(output)
    try:
        yield place
    except BaseException:
        place.is_kept |= any(place.path.iterdir())
        raise
    finally:
        if not place.is_kept:
            shutil.rmtree(place.path)


def run(arguments: argparse.Namespace) -> int:
    """Record and replay the demonstration; return 0 if every replay was exact."""
    if arguments.network:
        from revirt.cli import demo_network

        return demo_network.run(arguments)
    with placed(arguments.output) as place:
        is_exact = _demonstrate(place.path, arguments.form)
        # A replay that differs leaves its recording behind, to be looked into.
        place.is_kept |= not is_exact
        if arguments.form is Format.TABLE:
            print("every replay was exact" if is_exact else "NOT every replay was exact")
            if place.is_kept:
                print(f"the recordings are in {printable(str(place.path))}")
    return 0 if is_exact else 1


def _demonstrate(directory: Path, form: Format) -> bool:
    rows = []
    for row in demo_rows(directory):
        rows.append(row)
        if form is Format.TABLE:
            _show(row)
    if form is not Format.TABLE:
        emit(rows, (), form, sys.stdout)
    return all(row.exact for row in rows)


def demo_rows(directory: Path) -> Iterator[DemoRow]:
    """Record each guest of the demonstration into *directory* and replay it in a new process."""
    for name, clock in _RUNS:
        guest = find(name)
        summary = record(guest, _console(guest), RecordOptions(clock=clock), directory / name)
        report = replay_report(directory / name)
        yield DemoRow(
            guest=name,
            proves=guest.summary,
            clock=clock,
            path=directory / name,
            said=_last_lines(Recording.open(directory / name)),
            reason=summary.reason,
            branches=summary.branches,
            events=summary.events,
            log_bytes=summary.log_bytes,
            record_seconds=summary.seconds,
            exact=report["exact"],
            digests_checked=report["digests_checked"],
            replay_seconds=report["seconds"],
        )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except FileExistsError as error:
        raise RecordingExistsError(directory) from error


def _console(guest: Guest) -> NullConsole:
    return NullConsole() if guest.script is None else ScriptedConsole(Script.load(guest.script))


def revirt_process(*command: str) -> subprocess.Popen[str]:
    """Start ``revirt`` with the arguments *command* in a new process."""
    # The same revirt as this one, whatever the current directory holds.
    env = {**os.environ, "PYTHONPATH": str(Path(revirt.__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "revirt", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def run_revirt(*command: str, status: int = 0) -> str:
    """Run ``revirt`` in a new process and return what it printed; raises RevirtError if it fails.

    It fails with an exit status that is neither 0 nor *status*.
    """
    with revirt_process(*command) as process:
        try:
            printed, problem = process.communicate(timeout=_TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    if process.returncode not in (0, status):
        raise RevirtError(f"revirt {command[0]} failed: {problem.strip()[-500:]}")
    return printed


def replay_report(path: Path) -> dict[str, Any]:
    """Replay the recording in a new process and return what its ``--json`` says."""
    report: dict[str, Any] = json.loads(
        run_revirt("replay", str(path), "--json", status=DivergenceError.exit_status)
    )
    return report


def _last_lines(recording: Recording) -> list[str]:
    """Return the last lines that the guest printed."""
    text = b"".join(event.data for event in recording.events() if event.is_serial_output)
    lines = [line.strip() for line in text.decode(errors="backslashreplace").splitlines()]
    return [line for line in lines if line][-_SHOWN_LINES:]


def _show(row: DemoRow) -> None:
    out = sys.stdout
    verdict = styled("exact", "green", out) if row.exact else styled("NOT EXACT", "red", out)
    print(f"{styled(row.guest, 'bold', out)}: {printable(row.proves)}")
    took = f"{row.record_seconds:.2f} s by the {row.clock} clock"
    cost = size(row.log_bytes)
    if row.branches >= _MILLION:
        cost += f", {row.log_bytes * _MILLION / row.branches:.0f} bytes per million branches"
    print(f"  recorded  {took}, {grouped(row.branches)} branches")
    print(f"  log       {grouped(row.events)} events in {cost}")
    print(f"  ended     {printable(row.reason)}")
    for line in row.said:
        print(f"  guest     {printable(line)}")
    again = f"{row.replay_seconds:.2f} s in a new process, {row.digests_checked} digests checked"
    print(f"  replayed  {again}: {verdict}")
    print(flush=True)
