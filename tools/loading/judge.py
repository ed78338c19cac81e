"""Whether a recording under load replays exactly: run as a process, prints JSON.

    python -m loading.judge PATH STATE [--whole]

It has to verify as what it is: complete, or interrupted.  It has to replay exactly to its last event, all digests,
frames and writes being equal; and so from every checkpoint, there as far as the next, unless all the
way is asked for: two machines that are equal in all three digests go on alike.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.measure import environment

from revirt.cli import main as revirt
from revirt.errors import RevirtError
from revirt.log.events import Kind
from revirt.position import Position
from revirt.recording import Recording, RecordingState
from revirt.replay import replay

_VERDICTS = {RecordingState.COMPLETE: "intact", RecordingState.INTERRUPTED: "interrupted"}
_REACH = 1
"""How many checkpoints further a replay from one of them goes."""


def judge_elsewhere(path: Path, state: RecordingState, *, is_whole: bool) -> dict[str, Any]:
    """Return what `judge` does, in a new process."""
    command = [sys.executable, "-P", "-m", "loading.judge", str(path), str(state.value)]
    command += ["--whole"] * is_whole
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode != 0:
        return {
            "problems": [f"its judge ended with status {done.returncode}: {done.stderr[-2000:]}"],
            "counts": {},
        }
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def judge(path: Path, state: RecordingState, *, is_whole: bool) -> dict[str, Any]:
    """Return ``problems``, ``counts`` of what was compared, and the ``seconds`` of the replay from the beginning."""
    recording = Recording.open(path)
    problems = list(_verify(recording, state))
    counts = _count(recording)
    started = time.monotonic()
    problems += _replay(recording, counts, None, None)
    seconds = time.monotonic() - started
    infos = recording.checkpoints
    for place, info in enumerate(infos[1:], start=1):
        is_last = is_whole or place + _REACH >= len(infos)
        until = None if is_last else infos[place + _REACH].branches + 1
        problems += _replay(recording, counts, info.number, until)
    return {"problems": problems, "counts": counts, "seconds": seconds}


def _verify(recording: Recording, state: RecordingState) -> Iterator[str]:
    if recording.state is not state:
        yield f"its state is {recording.state.value}, not {state.value}"
    output, errors = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        status = revirt(["verify", str(recording.path), "--json"])
    output.seek(0)
    said = output.read()
    found = json.loads(said)["verdict"] if said else None
    if status != 0 or found != _VERDICTS[state]:
        yield f"verify: status {status}, {found}: {said[-1000:]} {errors.getvalue()[-1000:]}"


def _count(recording: Recording) -> dict[str, int]:
    counts: Counter[str] = Counter(
        frames_in=0, frames_out=0, writes=0, disk_done=0, digests=0, checkpoints=0, bytes_in=0, bytes_out=0
    )
    names = {
        Kind.FRAME_IN: "frames_in",
        Kind.FRAME_OUT: "frames_out",
        Kind.STORED: "writes",
        Kind.DISK: "disk_done",
        Kind.DIGEST: "digests",
        Kind.CHECKPOINT: "checkpoints",
    }
    for event in recording.events():
        if event.kind in names:
            counts[names[event.kind]] += 1
        if event.kind is Kind.FRAME_IN:
            counts["bytes_in"] += len(event.data)
        elif event.kind is Kind.FRAME_OUT:
            counts["bytes_out"] += len(event.data)
    return dict(counts)


def _replay(
    recording: Recording, counts: dict[str, int], checkpoint: int | None, until: int | None
) -> Iterator[str]:
    """Replay from *checkpoint*, and not beyond *until* branches; yield what is wrong."""
    place = f"from checkpoint {checkpoint}" if checkpoint is not None else "from the beginning"
    counts["replays"] = counts.get("replays", 0) + 1
    try:
        report = replay(
            recording, checkpoint=checkpoint, until=Position(until) if until is not None else None
        )
    except RevirtError as error:
        yield f"replay {place}: {error}"
        return
    if not report.exact:
        yield f"replay {place}: {report.divergence or report.reason}"
    elif checkpoint is None and report.digests_checked != counts["digests"]:
        yield f"replay {place}: {report.digests_checked} of {counts['digests']} digests were compared"
    elif until is not None and report.branches < until - 1:
        yield f"replay {place}: it ended at {report.branches} branches, not at {until}"


def main() -> int:
    """Print the verdict on the recording that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("state", type=RecordingState)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    try:
        found = judge(options.path, options.state, is_whole=options.whole)
    except Exception:
        found = {"problems": [traceback.format_exc()], "counts": {}, "seconds": 0.0}
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
