"""Reads a recording over and over while it is made; run as a process, prints JSON when its standard input ends.

    python -m torturing.onlooker PATH [PUBLIC-KEY]

What is being recorded has to open, to verify, and to replay from its newest checkpoint as far as it goes, at any
moment.  What a circular one takes on the disk is added up all the while.  Two sums in a row have to be of the same
files, or they do not count: while a directory is listed, files come and go.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.measure import environment

from revirt.errors import NoRecordingError, RecordingError
from revirt.recording import Recording, RecordingState, Verdict
from revirt.recording.layout import DIRECTORIES
from revirt.replay import replay
from revirt.seal.keys import PublicKey, load_public

_PERIOD_S = 0.01
_PAUSE_S = 0.1
"""Between two readings: they are not to starve the recorder."""
_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Sight:
    """What was seen: the most bytes that were taken, how often the recording was read, and what was wrong."""

    most: int = 0
    readings: int = 0
    problems: list[str] = field(default_factory=list)


class Onlooker:
    """An onlooker in a process of its own, from now until `finish`; ends with the block."""

    def __init__(self, path: Path, public_key: Path | None) -> None:
        command: list[str | Path] = [sys.executable, "-P", "-m", "torturing.onlooker", path]
        if public_key is not None:
            command.append(public_key)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )

    def __enter__(self) -> Onlooker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def finish(self) -> Sight:
        """Return what was seen; the reading that is on is done first."""
        try:
            output, _ = self._process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return Sight(problems=[f"reading it meanwhile hangs, for {_TIMEOUT_S:.0f} s"])
        if self._process.returncode != 0:
            return Sight(problems=[f"its onlooker ended with status {self._process.returncode}"])
        return Sight(**json.loads(output))


def bytes_on_disk(path: Path) -> int:
    """Return the bytes of all files in the parts of the recording in *path*, those being written included."""
    return sum(size for _, size in _files(path))


def _files(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the inode and the size of each file in the parts of *path*, but for those that go meanwhile."""
    for part in DIRECTORIES:
        try:
            with os.scandir(path / part) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield status.st_ino, status.st_size
        except FileNotFoundError:
            continue


def _weigh(path: Path, sight: Sight, over: threading.Event) -> None:
    while not over.wait(_PERIOD_S):
        before, after = dict(_files(path)), dict(_files(path))
        if before == after:
            sight.most = max(sight.most, sum(after.values()))


def look(path: Path, key: PublicKey | None, sight: Sight) -> None:
    """Read the recording in *path* once, if it is there and being recorded."""
    try:
        recording = Recording.open(path)
        if recording.state is not RecordingState.RECORDING or not recording.checkpoints:
            return
    except NoRecordingError:
        return
    verification = recording.verify(key)
    findings = list(verification)
    # It may have come to its end, or to its death, since it was opened.
    if verification.verdict is not Verdict.RECORDING:
        sight.problems.append(f"while it was recorded, it was {verification.verdict}: {findings}")
    recording = Recording.open(path)
    newest = recording.checkpoints[-1].number
    try:
        report = replay(recording, checkpoint=newest)
    except RecordingError as error:
        if "was evicted" not in str(error):
            sight.problems.append(f"while it was recorded, its replay from {newest}: {error}")
        return
    if not report.exact:
        sight.problems.append(f"while it was recorded, its replay from {newest}: {report}")
    sight.readings += 1


def main() -> int:
    """Look until standard input ends, then print what was seen."""
    path = Path(sys.argv[1])
    key = load_public(Path(sys.argv[2])) if len(sys.argv) > 2 else None
    os.nice(19)
    sight, over = Sight(), threading.Event()
    scale = threading.Thread(target=_weigh, args=(path, sight, over))
    scale.start()
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0] and not sight.problems:
        try:
            look(path, key, sight)
        except Exception:
            sight.problems.append(f"while it was recorded: {traceback.format_exc()}")
    over.set()
    scale.join()
    json.dump(asdict(sight), sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
