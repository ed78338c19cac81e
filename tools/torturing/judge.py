"""Looks at what a recorder left behind, with the commands that a user has; run as a process, prints JSON.

    python -m torturing.judge PATH SEED

A recorder may have come to nothing, to a directory without a manifest, or to a recording without a checkpoint: then
the commands have to say so.  Else it has to verify, and to replay exactly to its last event, from its oldest
checkpoint and from a random one.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measure import environment

from revirt.cli import main as revirt
from revirt.errors import RecordingError, RevirtError
from revirt.recording import Recording, RecordingState
from revirt.replay import replay

TIMEOUT_S = 300.0

NOTHING = "nothing"
NO_RECORDING = "no recording"
NO_CHECKPOINT = "no checkpoint"
BROKEN = "broken"
"""Outcomes, beside the states that a recording may be left in: `RecordingState.INTERRUPTED` and ``COMPLETE``."""


@dataclass(slots=True)
class Verdict:
    """What became of a recording: its *outcome*, what is wrong with it, and what its replay prints (as Latin-1)."""

    outcome: str
    problems: list[str] = field(default_factory=list)
    printed: str = ""


def judge_elsewhere(path: Path, seed: str) -> Verdict:
    """Return the verdict on the recording in *path*, made in a new process; *seed* chooses the checkpoint."""
    if not path.exists():
        return Verdict(NOTHING)
    command = [sys.executable, "-P", "-m", "torturing.judge", str(path), seed]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict(BROKEN, [f"its judge hangs: no verdict within {TIMEOUT_S:.0f} s"])
    if done.returncode != 0:
        return Verdict(BROKEN, [f"its judge ended with status {done.returncode}: {done.stderr[-2000:]}"])
    return Verdict(**json.loads(done.stdout))


def judge(path: Path, seed: str) -> Verdict:
    """Return the verdict on the recording in the directory *path*."""
    info = _say("info", str(path), "--json")
    if info.status == RecordingError.exit_status and "is not a recording" in info.error:
        return Verdict(NO_RECORDING)
    if info.status != 0:
        return Verdict(BROKEN, [f"info: {info}"])
    facts = json.loads(info.output)
    verdict = Verdict(facts["state"])
    if verdict.outcome not in (RecordingState.INTERRUPTED, RecordingState.COMPLETE):
        verdict.problems.append(f"nobody records it, but its state is {verdict.outcome}")
    verdict.problems += _verify(path, verdict.outcome)
    recording = Recording.open(path)
    if recording.checkpoints:
        try:
            verdict.problems += _replay(recording, Random(seed), verdict)
        except RevirtError as error:
            verdict.problems.append(f"replay: {error}")
    else:
        verdict.outcome = NO_CHECKPOINT
        refusal = _say("replay", str(path))
        if refusal.status != RecordingError.exit_status or "nothing to replay" not in refusal.error:
            verdict.problems.append(f"replay without a checkpoint: {refusal}")
    return verdict


def _verify(path: Path, state: str) -> Iterator[str]:
    said = _say("verify", str(path))
    if said.status != 0:
        yield f"verify: {said}"
    elif state == RecordingState.INTERRUPTED and state not in said.output:
        yield f"verify does not say that it is interrupted: {said}"


def _replay(recording: Recording, rng: Random, verdict: Verdict) -> Iterator[str]:
    """Replay from the oldest checkpoint and from a random one; yield what is wrong."""
    count = recording.event_count
    oldest, chosen = recording.checkpoints[0], rng.choice(recording.checkpoints)
    printed = bytearray()
    report = replay(recording, checkpoint=oldest.number, output=printed.extend)
    verdict.printed = printed.decode("latin-1")
    if not report.exact or report.events != count - oldest.event - 1:
        yield f"replay from checkpoint {oldest.number} of {count} events: {report}"
    said = _say("replay", str(recording.path), "--from", str(chosen.number), "--json")
    facts: dict[str, Any] = json.loads(said.output) if said.output else {}
    if said.status != 0 or facts["events"] != count - chosen.event - 1:
        yield f"replay from checkpoint {chosen.number} of {count} events: {said}"


@dataclass(frozen=True, slots=True)
class _Said:
    status: int
    output: str
    error: str


def _say(*words: str) -> _Said:
    """Run a command line of revirt in this process; what it raises is no clear error, and is raised."""
    output, error = io.TextIOWrapper(io.BytesIO(), errors="replace"), io.StringIO()
    with redirect_stdout(output), redirect_stderr(error):
        status = revirt(words)
    output.flush()
    output.seek(0)
    return _Said(status, output.read(), error.getvalue())


def main() -> int:
    """Print the verdict on the recording that the command line names."""
    try:
        verdict = judge(Path(sys.argv[1]), sys.argv[2])
    except Exception:
        verdict = Verdict(BROKEN, [traceback.format_exc()])
    json.dump(asdict(verdict), sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
