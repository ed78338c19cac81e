"""Runs of a machine that hostile files describe, each of which ends soon."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgpack

from revirt.cli import audit as audit_command
from revirt.cli import replay as replay_command
from revirt.errors import CorruptError
from revirt.machine.config import MachineConfig
from revirt.machine.inputs import Arrival, Halt, Moment
from revirt.machine.machine import Machine
from revirt.recording import LoadedCheckpoint, Recording
from revirt.render import Format, emit_record
from revirt.replay import audit, replay

PATIENCE_S = 1.0
"""How long a replay runs before it is asked to stop: wrong numbers may have far to go."""
_TRANSLATION_BUFFER = 32 << 20
_BRANCHES, _STEPS, _TIMES_ASKED = 3_000, 1_000, 300


def replay_in_patience(path: Path) -> None:
    """Replay the recording *path*, not for long, and print what ``revirt replay`` would."""
    with stopped_after(PATIENCE_S) as on_start:
        recording = Recording.open(path)
        report = replay(recording, output=lambda _: None, on_start=on_start)
    emit_record(replay_command.report_fields(recording, report), Format.JSON, sys.stdout)


def audit_in_patience(path: Path) -> None:
    """Audit the recording *path*, not for long, and print what ``revirt audit`` would."""
    with stopped_after(PATIENCE_S) as on_start:
        recording = Recording.open(path)
        report = audit(recording, on_start=on_start)
    emit_record(audit_command.audit_fields(recording, report), Format.JSON, sys.stdout)


def boot(path: Path, number: int, sound: LoadedCheckpoint | None) -> None:
    """Run on from checkpoint *number* of the recording *path*, whatever the log says of it.

    A replay compares the machine with the log first; but who forges a state can forge a log, too.  The machine runs if
    CPU and memory are as in *sound*; else it is stepped only: it may go through gigabytes of zeros before it comes to
    a branch to stop at.
    """
    recording = Recording.open(path)
    loaded = recording.load_checkpoint(number)
    config = MachineConfig.from_plain(recording.manifest.machine)
    machine = Machine(config, _Nobody(), translation_buffer=_TRANSLATION_BUFFER)
    try:
        for numbers, contents in loaded.batches():
            machine.core.write_pages(numbers, contents)
        machine.restore(loaded.state)
    except ValueError as error:
        raise CorruptError(path, f"checkpoint {number}: {error}") from error
    machine.digest()
    if sound is not None and loaded.page_map == sound.page_map and _cpu(loaded) == _cpu(sound):
        machine.run(machine.core.branches + _BRANCHES)
    else:
        machine.step(_STEPS)
    machine.digest()
    machine.save()


def _cpu(loaded: LoadedCheckpoint) -> object:
    return msgpack.unpackb(loaded.state)["cpu"]


@contextmanager
def stopped_after(seconds: float) -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Give something to pass as *on_start*: what starts with it is ended, in order, when *seconds* are over.

    Zeros are code, too: run through a whole segment of real mode they take 32,768 instructions to a branch.
    """
    timers: list[threading.Timer] = []

    def arm(stop: Callable[[str], None]) -> None:
        timers.append(threading.Timer(seconds, stop, ["time is over"]))
        timers[-1].start()

    try:
        yield arm
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()


class _Nobody:
    """Inputs of which nothing ever comes, and which halt the machine when it has asked often."""

    def __init__(self) -> None:
        self._left = _TIMES_ASKED

    def horizon(self, branches: int) -> int:
        return branches + 1_000

    def printed(self, _moment: Moment, _port: int, _data: bytes) -> None: ...

    def sent(self, _moment: Moment, _nic: int, _frame: bytes) -> None: ...

    def stored(self, _moment: Moment, _disk: int, _sector: int, _data: bytes) -> None: ...

    def arrivals(self, _moment: Moment) -> Sequence[Arrival]:
        self._left -= 1
        return () if self._left > 0 else (Halt("asked often enough"),)

    def idle(self, _moment: Moment, _wake_ns: int | None) -> Sequence[Arrival]:
        return ()

    def interrupted(self, _moment: Moment, _vector: int) -> None:
        pass

    def transmitted(self, _character: bytes) -> None:
        pass
