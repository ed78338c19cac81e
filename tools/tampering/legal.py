"""Recordings with which nothing is wrong, whatever happens to their recorders and to them."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from revirt.errors import RecordingError, RevirtError
from revirt.recording import (
    Recording,
    RecordingState,
    RingLimits,
    Verdict,
    move,
    pack,
    repair,
    store,
    unpack,
)
from revirt.seal import keys
from revirt.seal.keys import PublicKey
from tampering.making import in_child, watched
from tampering.scribe import Scribe

_SECRET = bytes(range(32))
_SOUND = {
    RecordingState.COMPLETE: {Verdict.INTACT},
    RecordingState.INTERRUPTED: {Verdict.INTERRUPTED},
    RecordingState.RECORDING: {Verdict.RECORDING},
}


@dataclass(slots=True)
class Legal:
    """A legal recording: *what* it was, how it ended, how often it was verified, and what was said against it."""

    what: str
    outcome: str = ""
    looks: int = 0
    problems: list[str] = field(default_factory=list)


def try_legal(rng: Random, directory: Path) -> Legal:
    """Make a legal recording in *directory*, let things happen to it, and verify it between."""
    path, sign = directory / "recording", directory / "user.key"
    sign.write_bytes(keys.PrivateKey.from_raw(_SECRET).to_pem())
    sign.chmod(0o600)
    key = keys.PrivateKey.from_raw(_SECRET).public
    limits = rng.choice(
        (
            None,
            RingLimits(size=rng.choice((3_000, 8_000, 20_000, 80_000))),
            RingLimits(keep_ns=rng.choice((1_000, 50_000, 300_000))),
            RingLimits(size=30_000, keep_ns=200_000),
        )
    )
    kill_at = rng.randrange(250) if rng.random() < 0.5 else None
    legal = Legal(f"{limits}, killed before change {kill_at}")
    watcher = _Watcher(path, key, legal) if kill_at is None and rng.random() < 0.3 else None
    seed, script = rng.randbytes(32), rng.getrandbits(64)
    act = _recorder(path, sign, limits, seed, Random(script), watcher)
    if watcher is not None:
        act()
    else:
        in_child(act, kill_at=kill_at, below=path)
    if not store.is_recording(path):
        legal.outcome = "nothing yet"
        return legal
    legal.outcome = Recording.open(path).state
    look(path, key, legal)
    _handle(rng, path, key, legal)
    return legal


def look(path: Path, key: PublicKey, legal: Legal) -> None:
    """Verify the recording in *path*, and note what should not be."""
    legal.looks += 1
    try:
        recording = Recording.open(path)
        verification = recording.verify(key)
        findings = list(verification)
    except Exception:
        legal.problems.append(traceback.format_exc())
        return
    repaired = verification.verdict is Verdict.INTERRUPTED and recording.state is RecordingState.COMPLETE
    if findings or not (repaired or verification.verdict in _SOUND[recording.state]):
        legal.problems.append(f"{recording.state} is called {verification.verdict}: {findings}")


class _Watcher:
    """Verifies a recording whenever its recorder is about to do something, now and then."""

    def __init__(self, path: Path, key: PublicKey, legal: Legal) -> None:
        self._path = path
        self._key = key
        self._legal = legal
        self._count = 0

    def see(self, _name: str, _data: bytes) -> None:
        """Verify at every seventh file of the seal."""
        self._count += 1
        if self._count % 7 == 0 and store.is_recording(self._path):
            look(self._path, self._key, self._legal)


def _recorder(
    path: Path,
    sign: Path,
    limits: RingLimits | None,
    seed: bytes,
    rng: Random,
    watcher: _Watcher | None,
) -> Callable[[], None]:
    often = rng.choice((0.0, 0.1, 0.5))
    ticks = Random(rng.getrandbits(32))
    epochs = rng.choice((2, 3, 64))

    def run() -> None:
        see = watcher.see if watcher is not None else None
        with watched(seed, lambda: ticks.random() < often, see, epochs=epochs):
            scribe = Scribe(path, rng, sign, limits)
            scribe.checkpoint()
            for _ in range(rng.randrange(2, 25)):
                scribe.note(rng.randrange(30))
                match rng.random():
                    case chance if chance < 0.4:
                        scribe.checkpoint()
                    case chance if chance < 0.6:
                        scribe.writer.flush()
                    case chance if chance < 0.7:
                        scribe.digest()
                    case chance if chance < 0.73:
                        scribe.writer.freeze()
            if rng.random() < 0.85:
                scribe.writer.complete(scribe.end())
            else:
                scribe.writer.abort({"reason": "the recorder was told to"})

    return run


def _handle(rng: Random, path: Path, key: PublicKey, legal: Legal) -> None:
    """Move, pack, unpack, copy or repair the recording in *path*, some of it, and verify what comes of it."""
    for _ in range(rng.randrange(3)):
        act = rng.choice(("move", "copy", "pack", "repair"))
        target = path.with_name(f"{path.name}-{act}")
        if target.exists():
            continue
        try:
            match act:
                case "move":
                    path = move(path, target)
                case "copy":
                    shutil.copytree(path, target)
                    path = target
                case "pack":
                    packed = path.with_name(f"{path.name}.pack")
                    pack(path, packed)
                    unpack(packed, target)
                    path = target
                case "repair":
                    repair(path)
        except RecordingError as error:
            # What ended before its first checkpoint, or is complete, cannot be repaired.
            if act != "repair":
                legal.problems.append(f"{act}: {error}")
            continue
        except RevirtError:
            legal.problems.append(traceback.format_exc())
            return
        legal.what += f", {act}"
        look(path, key, legal)
