"""Proves what revirt promises, at full length: exact replays of Debian, and that no changed bit goes unnoticed.

    python tools/prove.py [--recordings 20] [--flips 1000] [--guest debian] [--jobs 2] [--seed N] [--directory DIR]

*Exact*: Debian is recorded as often as asked, half of it under the host's clock with input typed at random moments,
half under the virtual clock with a script.  Each recording is replayed in a new process; then with stops at 1,000
random branches, counting instructions, with a small translation buffer, without write tracking, and from each of
its checkpoints.  All digests have to agree, and the virtual recordings have to have the same events.

*Detected*: single random bits are flipped in copies of a recording (see `damage`): in values of events, pages of
memory, page maps and machine states, written anew with checks that are right, and in the raw files.  Each has to be
reported.

Prints JSON: counts, and for every failure what it was and where its recording lies, which is kept.  The exit status is
0 if there was none.  Takes some 25 minutes on two cores; `--recordings 0` or `--flips 0` leaves out half of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import damage
from typist import COMMANDS, RandomTypist

import revirt
from revirt.errors import RevirtError
from revirt.image import find
from revirt.image.build import build
from revirt.image.debian import PROMPT, READY
from revirt.log.events import Kind
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.recording import Recording
from revirt.replay import ReplaySession

CHECKPOINT_EVERY = 24_000_000
DIGEST_EVERY = 8_000_000
STOPS = 1_000
SMALL_BUFFER = 8 << 20

FLIP_WEIGHTS = {"event": 10, "page": 5, "map": 2, "state": 2, "raw": 1}

_LINES = "".join(f'send "{line}\\n"\n' for line in COMMANDS)
SCRIPT = f'timeout 300\nexpect "{READY}"\nexpect "{PROMPT}"\n{_LINES}send "poweroff -f\\n"\n'


@dataclass(slots=True)
class Proof:
    """What a bar came to: how many *trials*, how often which *outcomes*, and the *failures* in words."""

    trials: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """Return the proof as what JSON has."""
        return {
            "trials": self.trials,
            "failed": len(self.failures),
            "seconds": self.seconds,
            "outcomes": dict(sorted(self.outcomes.items())),
            "failures": self.failures,
        }


# -- exact -----------------------------------------------------------------------------------------------------


def record_debian(guest: str, clock: ClockMode, seed: int, path: Path) -> None:
    """Record *guest* in *path*."""
    console: NullConsole
    if clock == "host":
        console = RandomTypist((READY, PROMPT), COMMANDS, "poweroff -f", seed=seed)
    else:
        console = ScriptedConsole(Script.parse(SCRIPT))
    options = RecordOptions(clock=clock, checkpoint_every=CHECKPOINT_EVERY, digest_every=DIGEST_EVERY)
    with closing(console):
        record(find(guest), console, options, path)


def replay_elsewhere(recording: Recording) -> str | None:
    """Replay *recording* in a new process; return what was wrong, None if it was exact with all digests equal."""
    command = [sys.executable, "-P", "-m", "revirt", "replay", str(recording.path), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(revirt.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        return f"exit status {done.returncode}: {done.stdout or done.stderr}"
    report = json.loads(done.stdout)
    digests = sum(event.kind is Kind.DIGEST for event in recording.events())
    if not report["exact"] or report["digests_checked"] != digests:
        return f"{report['digests_checked']} of {digests} digests: {done.stdout}"
    return None


def run_stopping(recording: Recording, seed: int) -> ReplaySession:
    """Replay to a branch before the end, with stops."""
    session = ReplaySession(recording)
    last = (recording.manifest.end or {})["branches"]
    chance = random.Random(seed)
    for branches in sorted(chance.randrange(1, last) for _ in range(STOPS)):
        session.run(branches)
    return session


def run_counting(recording: Recording) -> ReplaySession:
    """Prepare a replay that counts instructions."""
    session = ReplaySession(recording)
    session.machine.core.counting = True
    return session


def variations(recording: Recording, seed: int) -> Iterator[tuple[str, Callable[[], ReplaySession]]]:
    """Yield ways of replaying *recording*: a name, and a function that returns a session still to be run on."""
    yield "stops", partial(run_stopping, recording, seed)
    yield "counting instructions", partial(run_counting, recording)
    yield "small translation buffer", partial(ReplaySession, recording, translation_buffer=SMALL_BUFFER)
    yield "no write tracking", partial(ReplaySession, recording, track_writes=False)
    for info in recording.checkpoints:
        yield "from a checkpoint", partial(ReplaySession, recording, checkpoint=info.number)


def prove_recording(guest: str, clock: ClockMode, seed: int, path: Path) -> Proof:
    """Record once and replay in every way."""
    proof = Proof()
    record_debian(guest, clock, seed, path)
    recording = Recording.open(path)
    wrong = replay_elsewhere(recording)
    count(proof, f"{clock}: new process", wrong and f"{path}: in a new process: {wrong}")
    for name, start in variations(recording, seed):
        try:
            session = start()
            session.run()
            wrong = None if session.replayer.is_exhausted else "did not come to the end"
        except RevirtError as error:
            wrong = str(error)
        count(proof, f"{clock}: {name}", wrong and f"{path}: {name}: {wrong}")
    return proof


def count(proof: Proof, outcome: str, failure: str | None) -> None:
    """Add a trial to *proof*."""
    proof.trials += 1
    proof.outcomes[outcome if failure is None else f"failed: {outcome}"] += 1
    if failure is not None:
        proof.failures.append(failure)


def prove_exact(pool: ProcessPoolExecutor, guest: str, recordings: int, seed: int, directory: Path) -> Proof:
    """Record and replay *recordings* times."""
    clocks: list[ClockMode] = ["virtual" if each % 2 else "host" for each in range(recordings)]
    paths = [directory / f"{guest}-{clock}-{number}" for number, clock in enumerate(clocks)]
    futures = [
        pool.submit(prove_recording, guest, clock, seed + number, path)
        for number, (clock, path) in enumerate(zip(clocks, paths, strict=True))
    ]
    proof = collect("exact", futures)
    virtual = [
        path for clock, path in zip(clocks, paths, strict=True) if clock == "virtual" and path.exists()
    ]
    for path in virtual[1:]:
        is_same = list(Recording.open(path).events()) == list(Recording.open(virtual[0]).events())
        failure = None if is_same else f"{path}: not the events of {virtual[0]}"
        count(proof, "virtual: same events", failure)
    for path in paths:
        if not any(str(path) in failure for failure in proof.failures):
            shutil.rmtree(path, ignore_errors=True)
    return proof


# -- detected --------------------------------------------------------------------------------------------------


def prove_flip(source: Path, kind: str, seed: str, copy: Path) -> Proof:
    """Flip a bit in a copy of the recording *source*, and replay it."""
    proof = Proof()
    damage.copy(source, copy)
    changed = damage.FLIPS[kind](copy, random.Random(seed))
    try:
        verdict = damage.judge(copy)
        failure = None if verdict.is_detected else f"{copy}: {changed}: {verdict.word} ({verdict.detail})"
        count(proof, f"{kind}: {verdict.word}", failure)
    except Exception:
        count(proof, kind, f"{copy}: {changed}: {traceback.format_exc()}")
    if not proof.failures:
        shutil.rmtree(copy)
    return proof


def prove_detected(pool: ProcessPoolExecutor, guest: str, flips: int, seed: int, directory: Path) -> Proof:
    """Flip *flips* bits, one at a time."""
    sources = []
    for clock in ("host", "virtual"):
        sources.append(directory / f"{guest}-{clock}-source")
        pool.submit(record_debian, guest, clock, seed, sources[-1]).result()
    chance = random.Random(seed)
    kinds = chance.choices(list(FLIP_WEIGHTS), list(FLIP_WEIGHTS.values()), k=flips)
    futures = [
        pool.submit(prove_flip, sources[number % 2], kind, f"{seed} {number}", directory / f"flip-{number}")
        for number, kind in enumerate(kinds)
    ]
    return collect("detected", futures)


# -- both ------------------------------------------------------------------------------------------------------


def collect(name: str, futures: Sequence[Future[Proof]]) -> Proof:
    """Return the sum of proofs, telling on standard error how far they are."""
    total, started = Proof(), time.monotonic()
    for done, future in enumerate(as_completed(futures), start=1):
        try:
            proof = future.result()
            total.trials += proof.trials
            total.outcomes += proof.outcomes
            total.failures += proof.failures
        except Exception as error:
            count(total, "broken", f"{type(error).__name__}: {error}")
        print(f"{name}: {done} of {len(futures)}, {len(total.failures)} failed", file=sys.stderr)
    total.seconds = round(time.monotonic() - started, 1)
    return total


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Prove exactness and detection at full length.")
    parser.add_argument("--recordings", type=int, default=20, metavar="N", help="recordings to make (20)")
    parser.add_argument("--flips", type=int, default=1000, metavar="N", help="bits to flip (1000)")
    parser.add_argument("--guest", default="debian", help="debian or debian-i386")
    parser.add_argument(
        "--jobs", type=int, default=multiprocessing.cpu_count(), metavar="N", help="processes"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), metavar="N")
    parser.add_argument("--directory", type=Path, help="where recordings go (a new temporary directory)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = parse(arguments)
    guest = find(options.guest)
    if not guest.is_built:
        build(guest, progress=lambda line: print(line, file=sys.stderr))
    directory = options.directory or Path(tempfile.mkdtemp(prefix="revirt-proof-"))
    directory.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"guest": options.guest, "seed": options.seed, "directory": str(directory)}
    proofs = []
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        if options.recordings:
            proofs.append(prove_exact(pool, options.guest, options.recordings, options.seed, directory))
            result["exact"] = proofs[-1].to_plain()
        if options.flips:
            proofs.append(prove_detected(pool, options.guest, options.flips, options.seed, directory))
            result["detected"] = proofs[-1].to_plain()
    json.dump(result, sys.stdout, indent=2)
    print()
    has_failed = any(proof.failures for proof in proofs)
    if not has_failed and options.directory is None:
        shutil.rmtree(directory)
    return int(has_failed)


if __name__ == "__main__":
    raise SystemExit(main())
