"""Looks at what a recorder left behind, with the commands that a user has; run as a process, prints JSON.

    python -m torturing.judge PATH SEED SCRATCH [PUBLIC-KEY]

A recorder may have come to nothing, to a directory without a manifest, or to a recording without a checkpoint: then
the commands have to say so.  Else it has to verify, and to replay exactly to its last event, from its oldest
checkpoint and from a random one; a circular one must not take more than it was allowed to.  A copy of it, in the
directory SCRATCH, has to be repaired without losing an event, and then to pass as complete.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measure import environment

from revirt.cli import main as revirt
from revirt.errors import RecordingError, RevirtError
from revirt.machine.devices import SECTOR_SIZE
from revirt.recording import Recording, RecordingState
from revirt.recording import Verdict as Verified
from revirt.recording.writes import recorded_writes
from revirt.replay import replay
from revirt.timeline import Timeline
from torturing.onlooker import bytes_on_disk

TIMEOUT_S = 300.0

NOTHING = "nothing"
NO_RECORDING = "no recording"
NO_CHECKPOINT = "no checkpoint"
BROKEN = "broken"
"""Outcomes, beside the states that a recording may be left in: `RecordingState.INTERRUPTED` and ``COMPLETE``."""


SLACK = 1.05
"""How much of the size that it was given a circular recording may take."""


@dataclass(slots=True)
class Verdict:
    """What became of a recording: its *outcome*, what is wrong with it, and what its replay prints (as Latin-1).

    *begins* is the first event that is kept, *limit* how many bytes it may take, 0 for any number.
    """

    outcome: str
    problems: list[str] = field(default_factory=list)
    printed: str = ""
    begins: int = 0
    limit: int = 0


def judge_elsewhere(path: Path, seed: str, scratch: Path, public_key: Path | None = None) -> Verdict:
    """Return the verdict on the recording in *path*, made in a new process; *seed* chooses the checkpoint.

    It is compared with *public_key* if it should be sealed; *scratch* is a directory for copies.
    """
    if not path.exists():
        return Verdict(NOTHING)
    words = [path, seed, scratch, *([public_key] if public_key else [])]
    command = [sys.executable, "-P", "-m", "torturing.judge", *map(str, words)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict(BROKEN, [f"its judge hangs: no verdict within {TIMEOUT_S:.0f} s"])
    if done.returncode != 0:
        return Verdict(BROKEN, [f"its judge ended with status {done.returncode}: {done.stderr[-2000:]}"])
    return Verdict(**json.loads(done.stdout))


def judge(path: Path, seed: str, scratch: Path, public_key: Path | None = None) -> Verdict:
    """Return the verdict on the recording in the directory *path*; the rest as for `judge_elsewhere`."""
    info = _say("info", str(path), "--json")
    if info.status == RecordingError.exit_status and "is not a recording" in info.error:
        return Verdict(NO_RECORDING)
    if info.status != 0:
        return Verdict(BROKEN, [f"info: {info}"])
    facts = json.loads(info.output)
    verdict = Verdict(facts["state"])
    if verdict.outcome not in (RecordingState.INTERRUPTED, RecordingState.COMPLETE):
        verdict.problems.append(f"nobody records it, but its state is {verdict.outcome}")
    verdict.problems += _verify(path, verdict.outcome, public_key)
    recording = Recording.open(path)
    verdict.problems += _weigh(recording, verdict)
    if not recording.checkpoints:
        verdict.outcome = NO_CHECKPOINT
        for command in ("replay", "repair"):
            verdict.problems += _refuses(command, path, "nothing to replay")
        return verdict
    try:
        verdict.problems += _replay(recording, Random(seed), verdict)
        verdict.problems += _read_disks(recording)
    except RevirtError as error:
        verdict.problems.append(f"replay: {error}")
    if verdict.outcome == RecordingState.COMPLETE:
        verdict.problems += _refuses("repair", path, "is complete")
    elif not verdict.problems:
        verdict.problems += _repair(recording, Random(seed), scratch, public_key)
    return verdict


def _verify(path: Path, state: str, public_key: Path | None) -> Iterator[str]:
    said = _say("verify", str(path), "--json", *(["--key", str(public_key)] if public_key else []))
    found = json.loads(said.output)["verdict"] if said.output else None
    expected = Verified.INTACT if state == RecordingState.COMPLETE else Verified.INTERRUPTED
    if said.status != 0 or found != expected:
        yield f"verify: {found} where {expected} is expected: {said}"


def _refuses(command: str, path: Path, why: str) -> Iterator[str]:
    refusal = _say(command, str(path))
    if refusal.status != RecordingError.exit_status or why not in refusal.error:
        yield f"{command} does not say why it cannot: {refusal}"


def _weigh(recording: Recording, verdict: Verdict) -> Iterator[str]:
    """Compare a circular recording with its limits."""
    verdict.begins = recording.manifest.start.event
    ring = recording.manifest.ring or {}
    verdict.limit = int(SLACK * (ring.get("size") or 0))
    taken = bytes_on_disk(recording.path)
    if verdict.limit and taken > verdict.limit:
        yield f"it takes {taken} bytes, of {ring['size']}"
    infos, keep_ns = recording.checkpoints, ring.get("keep_ns")
    if keep_ns and len(infos) > 1 and infos[-1].guest_ns - infos[1].guest_ns >= keep_ns:
        yield f"its checkpoints from number {infos[1].number} on span all of the {keep_ns} ns to keep"


def _replay(recording: Recording, rng: Random, verdict: Verdict) -> Iterator[str]:
    """Replay from the oldest checkpoint and from a random one; yield what is wrong."""
    end = recording.event_end
    oldest, chosen = recording.checkpoints[0], rng.choice(recording.checkpoints)
    printed = bytearray()
    report = replay(recording, checkpoint=oldest.number, output=printed.extend)
    verdict.printed = printed.decode("latin-1")
    if not report.exact or report.events != end - oldest.event - 1:
        yield f"replay from checkpoint {oldest.number} to event {end}: {report}"
    said = _say("replay", str(recording.path), "--from", str(chosen.number), "--json")
    facts: dict[str, Any] = json.loads(said.output) if said.output else {}
    if said.status != 0 or facts["events"] != end - chosen.event - 1:
        yield f"replay from checkpoint {chosen.number} to event {end}: {said}"


def _read_disks(recording: Recording) -> Iterator[str]:
    """Compare what disks hold at the end with the hashes of what was written last; yield what is wrong."""
    last = {
        (write.disk, write.sector + number): write.ordinal
        for write in recorded_writes(recording)
        for number in range(write.size // SECTOR_SIZE)
    }
    if not last:
        return
    timeline = Timeline(recording, jobs=1)
    timeline.seek_end()
    for write in recorded_writes(recording):
        count = write.size // SECTOR_SIZE
        owners = {last[write.disk, write.sector + number] for number in range(count)}
        if owners == {write.ordinal}:
            found = timeline.machine.disks[write.disk].read(write.sector, count)
            if blake2b(found, digest_size=8).digest() != write.digest:
                yield f"disk {write.disk} does not hold at sector {write.sector} what event {write.ordinal} wrote"


def _repair(recording: Recording, rng: Random, scratch: Path, public_key: Path | None) -> Iterator[str]:
    """Repair a copy of what was interrupted, and is sound but for that; yield what is wrong."""
    path = scratch / "repaired"
    shutil.copytree(recording.path, path)
    said = _say("repair", str(path), "--json")
    if said.status != 0:
        yield f"repair: {said}"
        return
    whole = [each for each in json.loads(said.output)["lost"] if each["problem"] != "was being written"]
    repaired = Recording.open(path)
    if repaired.event_end != recording.event_end or len(repaired.checkpoints) != len(recording.checkpoints):
        yield f"repair lost events or checkpoints: {said}"
    if any(each["path"].endswith(".seg") for each in whole):
        yield f"repair lost a segment: {said}"
    if repaired.state is not RecordingState.COMPLETE:
        yield f"repair left it {repaired.state}"
    # What the recorder did not come to seal nobody can: to the seal it stays interrupted.
    sealed = RecordingState.INTERRUPTED if public_key else RecordingState.COMPLETE
    problems = [*_verify(path, sealed, public_key), *_replay(repaired, rng, Verdict("repaired"))]
    problems += _refuses("repair", path, "is complete")
    yield from (f"after repair: {problem}" for problem in problems)
    if not problems:
        shutil.rmtree(path)


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
        key = Path(sys.argv[4]) if len(sys.argv) > 4 else None
        verdict = judge(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), key)
    except Exception:
        verdict = Verdict(BROKEN, [traceback.format_exc()])
    json.dump(asdict(verdict), sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
