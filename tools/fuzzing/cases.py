"""A case: made by nothing but a seed and its number, run in a process of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzzing.batches import run_batch
from fuzzing.drivers import run_driver
from fuzzing.guests import run_random_guest
from fuzzing.packs import damage_pack
from fuzzing.recordings import damage_recording
from revirt.errors import RevirtError

CASE_SECONDS = 60.0
"""After this a case is asked to stop, as SIGTERM asks: a replay of wrong numbers may have far to go, and so may a
random guest without branches."""
STOP_SECONDS = 10.0
MEMORY_LIMIT = 2 << 30
"""Most bytes that a case may have resident."""

Act = Callable[[Random, Path, Path], None]
"""Does something random: with samples to start from, and a directory for its files."""

ACTS: dict[str, Act] = {
    "recording": damage_recording,
    "guest": run_random_guest,
    "driver": run_driver,
    "pack": damage_pack,
    "files": run_batch,
}


@dataclass(slots=True)
class Case:
    """A case that runs in the process *pid*."""

    number: int
    kind: str
    directory: Path
    pid: int
    deadline: float
    is_asked_to_stop: bool = False

    def said(self) -> str:
        """Return the end of what it wrote."""
        return (self.directory / "output").read_bytes()[-2000:].decode(errors="backslashreplace")


def start(seed: int, number: int, samples: Path, root: Path, kind: str | None = None) -> Case:
    """Start case *number* of *seed*, with files under *root*; chance says of which *kind* unless somebody does."""
    rng = Random(f"{seed}/{number}")
    kind = kind or rng.choice(sorted(ACTS))
    directory = root / f"case-{number}"
    directory.mkdir()
    pid = os.fork()
    if pid == 0:
        os._exit(_run(ACTS[kind], rng, samples, directory))
    return Case(number, kind, directory, pid, time.monotonic() + CASE_SECONDS)


def outcome(case: Case) -> str | None:
    """Return what became of *case*: "" if it went well, a failure in words, None while it runs."""
    pid, status, usage = os.wait4(case.pid, os.WNOHANG)
    if pid == 0:
        late = time.monotonic() - case.deadline
        if late > STOP_SECONDS:
            os.kill(case.pid, signal.SIGKILL)
        elif late > 0 and not case.is_asked_to_stop:
            case.is_asked_to_stop = True
            os.kill(case.pid, signal.SIGTERM)
        return None
    code = os.waitstatus_to_exitcode(status)
    if case.is_asked_to_stop and code < 0:
        return f"did not end within {CASE_SECONDS:.0f} s, nor when asked to"
    if code:
        return f"died of signal {-code}" if code < 0 else "raised"
    if usage.ru_maxrss << 10 > MEMORY_LIMIT:
        return f"took {usage.ru_maxrss >> 10} MiB of memory"
    return ""


def _run(act: Act, rng: Random, samples: Path, directory: Path) -> int:
    output = os.open(directory / "output", os.O_WRONLY | os.O_CREAT, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    faulthandler.enable()
    os.environ["REVIRT_DIR"] = str(directory)
    try:
        act(rng, samples, directory)
    except RevirtError as error:
        print(f"refused: {error}")
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    return 0
