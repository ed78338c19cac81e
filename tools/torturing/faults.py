"""Recorders whose disk fails: the N-th system call that would change something, for every N in turn."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure

from revirt.errors import HostError
from revirt.recording import RecordingState
from torturing import Options, Trial
from torturing.judge import NO_RECORDING, judge_elsewhere
from torturing.recorder import Run, record
from torturing.subjects import Subject

ENDS_S = 5.0
"""How long a recorder may take to end after a fault."""

_SOURCE = Path(__file__).with_name("faults.c")
_OFFER = "what was recorded before that: revirt replay"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a call fails: with *number* (0: the process is killed), for good or *once*, perhaps *half* done."""

    number: int
    is_once: bool = False
    is_half: bool = False


FAULTS = {
    "enospc": Fault(errno.ENOSPC),
    "enospc-once": Fault(errno.ENOSPC, is_once=True),
    "torn": Fault(errno.ENOSPC, is_half=True),
    "eio": Fault(errno.EIO),
    "eio-once": Fault(errno.EIO, is_once=True),
    "rofs": Fault(errno.EROFS),
    "kill": Fault(0, is_half=True),
}
"""A full disk, full for a moment, full in mid-write; a broken one, now and then; one that is made read-only; and
SIGKILL between any two calls, or in mid-write."""


def build_library(directory: Path) -> Path:
    """Compile what is loaded into recorders; return its path.  Raises HostError without a working compiler."""
    path = directory / "faults.so"
    measure.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", path, _SOURCE])
    return path


def let_fail(at: int, name: str, subject: Subject, library: Path, root: Path, options: Options) -> Trial:
    """Record *subject* with the fault *name* in the *at*-th call that changes something below its directory.

    Its files are in a directory of its own below *root*.
    """
    fault = FAULTS[name]
    directory = root / f"{subject.name}-{name}-{at}"
    recordings, note = directory / "recordings", directory / "note"
    recordings.mkdir(parents=True)
    extra = {
        "LD_PRELOAD": str(library),
        "TORTURE_BELOW": str(recordings),
        "TORTURE_AT": str(at),
        "TORTURE_ERRNO": str(fault.number),
        "TORTURE_NOTE": str(note),
        **({"TORTURE_ONCE": "1"} if fault.is_once else {}),
        **({"TORTURE_HALF": "1"} if fault.is_half else {}),
    }
    words = [*subject.words, *options.words]
    run = record(words, recordings, timeout_s=subject.life_s + ENDS_S, extra=extra)
    call, moment, path = note.read_text().split(maxsplit=2) if note.exists() else ("", "inf", "")
    if float(moment) > run.began + subject.life_s:
        return Trial(outcome="no fault", hit=False, files=directory)
    place = Path(path.strip())
    trial = _judge(run, fault, f"{name}/{at}", options)
    trial.files = directory
    trial.name = f"{subject.name}: {name} at call {at}, {call} of {os.path.relpath(place, recordings)}"
    # A recorder does without a link to what is the latest, and goes on.
    if place.is_relative_to(run.path) or not fault.is_once:
        trial.ended_s = run.ended - float(moment)
    if trial.ended_s > ENDS_S:
        trial.problems.append(f"it went on for {trial.ended_s:.1f} s")
    return trial


def _judge(run: Run, fault: Fault, seed: str, options: Options) -> Trial:
    verdict = judge_elsewhere(run.path, seed, run.path.parents[1], options.public_key)
    problems = list(verdict.problems)
    if run.status == -signal.SIGKILL:
        # By the fault, or by us: that it went on too long is said elsewhere.
        pass
    elif fault.number == 0:
        problems.append(f"killed, it ended with status {run.status}: {run.said}")
    elif run.status == 0:
        # What failed was not needed, or went well when it was tried again.
        if verdict.outcome != RecordingState.COMPLETE:
            problems.append(f"it calls that done, but left: {verdict.outcome}")
    else:
        problems += check_message(run, fault, verdict.outcome)
    try:
        run.lost_s(verdict.printed.encode("latin-1"), is_cut=verdict.begins > 0)
    except ValueError as error:
        problems.append(str(error))
    return Trial(outcome=verdict.outcome, problems=problems, has_turned=verdict.begins > 0)


def check_message(run: Run, fault: Fault, outcome: str) -> Sequence[str]:
    """Return what is wrong with how a recorder that failed says so."""
    problems = []
    if run.status != HostError.exit_status:
        problems.append(f"ended with status {run.status}: {run.said}")
    if "revirt: cannot " not in run.said or os.strerror(fault.number) not in run.said:
        problems.append(f"its message does not tell what is wrong: {run.said}")
    if "Traceback" in run.said or "Exception" in run.said:
        problems.append(f"a traceback: {run.said}")
    if (_OFFER in run.said) != (outcome in (RecordingState.INTERRUPTED, RecordingState.COMPLETE)):
        problems.append(f"left: {outcome}, and says: {run.said}")
    # Whoever cannot delete cannot clean up either.
    cleans_up = fault.is_once or fault.number == errno.ENOSPC
    if outcome == NO_RECORDING and cleans_up:
        problems.append("it left a directory that is no recording")
    return problems
