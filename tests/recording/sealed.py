"""Sealed recordings, made by hand: no guest runs, and time passes when a test says so."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from revirt.checkpoint import CheckpointInfo
from revirt.core import hash_pages
from revirt.errors import HostError
from revirt.log.chain import SEALED, Chain
from revirt.log.events import Event, Kind
from revirt.log.frame import check_of
from revirt.machine.config import MachineConfig
from revirt.recording import Finding, Manifest, Recording, RecordingWriter, Verdict
from revirt.recording import sealer as sealer_module
from revirt.recording.manifest import NAME
from revirt.seal.keys import PrivateKey, PublicKey

USER = PrivateKey.from_raw(bytes([7] * 32))
MEMORY = 1 << 16
PAGE = 4096
PC = 0x7C00


class Clock:
    """What a sealer takes for the time."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


def stop_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have sealers go by a clock that stands still until it is moved."""
    clock = Clock()
    monkeypatch.setattr(sealer_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def key_file(directory: Path, key: PrivateKey = USER) -> Path:
    """Write *key* to a file in *directory*, if it is not there yet; return that."""
    path = directory / f"{key.key_id[:8]}.key"
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(key.to_pem())
    return path


def manifest() -> Manifest:
    return Manifest(
        guest={"name": "echo"},
        machine=MachineConfig(memory=MEMORY, clock="virtual", epoch=0, ns_per_branch=10).to_plain(),
        clock="virtual",
        versions={"revirt": "0.1.0"},
        command=["revirt", "record", "echo"],
    )


class SealedWriter(RecordingWriter):
    """Records what a guest might have done; what a method recorded is written and sealed when it returns."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.chain = Chain()
        self.memory = bytearray(MEMORY)
        self.branches = 0

    def append(self, event: Event) -> None:
        if event.kind in SEALED:
            event = self.chain.seal(event)
        else:
            self.chain.add(event)
        super().append(event)

    def ticks(self, count: int = 10) -> None:
        """Record *count* interrupts, each 100 branches after the one before."""
        for _ in range(count):
            self.branches += 100
            self.append(Event(Kind.INTERRUPT, self.branches, False, PC, 0xBEEF, 8))
        self.settle()

    def sends(self, data: bytes) -> None:
        """Record that the guest sent *data*."""
        self.branches += 100
        self.append(Event(Kind.TRANSMITTED, self.branches, False, PC, data=data))
        self.settle()

    def checkpoint(self, *values: int) -> None:
        """Add a checkpoint with its events, after pages 0, 1 ... were filled with *values*."""
        number, state = self.checkpoints, b"state %d" % self.checkpoints
        contents = b"".join(bytes([value]) * PAGE for value in values)
        self.memory[: len(contents)] = contents
        info = CheckpointInfo(number, self.branches, False, PC, self.branches * 10, self.events + 1)
        numbers = b"".join(page.to_bytes(4, "little") for page in range(len(values)))
        self.add_checkpoint(info, state, [(numbers, contents)])
        digests = bytes(16) + check_of(hash_pages(self.memory)) + bytes(16)
        self.append(Event(Kind.DIGEST, self.branches, False, PC, data=digests))
        self.append(Event(Kind.CHECKPOINT, self.branches, False, PC, number=number, data=check_of(state)))
        self.settle()

    def fills(self, rounds: int = 3) -> None:
        """Record *rounds* checkpoints with 10 interrupts behind each: 12 events a round."""
        for _ in range(rounds):
            self.checkpoint(1, 2, 3 + self.checkpoints)
            self.ticks()

    def settle(self) -> None:
        """Wait until all that was recorded is written; the last segment may still grow."""
        self.flush()
        done = threading.Event()
        with self._log._changed:
            self._log._enqueue(done.set, 0)
        # A log that failed runs no more jobs.
        while not done.wait(0.01) and self._log._failure is None:
            pass

    def idle(self) -> None:
        """Have the writing thread do what it does when nothing was recorded for a second."""
        with self._log._changed:
            self._log._enqueue(self._tick, 0)
        self.settle()


def die(writer: SealedWriter) -> None:
    """End the recorder as its death would: nothing more is written, and the lock is free."""
    assert writer._lock is not None
    with suppress(HostError):
        writer._log.close()
    os.close(writer._lock)
    writer._lock = None


def create(path: Path, key: PrivateKey | None = USER, **options: Any) -> SealedWriter:
    """Begin a recording in *path*, sealed with *key*."""
    sign = key_file(path.parent, key) if key is not None else None
    return SealedWriter.create(path, manifest(), sign=sign, **options)


def verdict(path: Path, key: PublicKey | None = USER.public) -> Verdict:
    """Return what a verification of *path* comes to for who has *key*."""
    verification = Recording.open(path).verify(key)
    for _ in verification:
        pass
    return verification.verdict


def findings(path: Path) -> list[Finding]:
    """Return what is wrong with *path*, to who has the user's public key."""
    return list(Recording.open(path).verify(USER.public))


def problems(path: Path) -> list[tuple[str, str]]:
    """Return `findings`, each as the file's name in the recording and the problem."""
    return [(each.path.relative_to(path).as_posix(), each.problem) for each in findings(path)]


def rewrite_manifest(path: Path, change: Callable[[Manifest], None]) -> None:
    """Change the manifest of the recording *path*, and give it the right check."""
    contents = Manifest.read(path / NAME)
    change(contents)
    (path / NAME).write_text(contents.to_json())
