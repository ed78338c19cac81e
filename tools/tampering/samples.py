"""The recordings that are tampered with: of bundled guests, sealed, and with all that an onlooker could have kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from torturing.subjects import make_subject

from revirt.image import Guest, find
from revirt.machine.config import ClockMode
from revirt.monitor.console import NullConsole
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.position import Position
from revirt.recording import Recording, RingLimits, Seal, layout
from revirt.seal import keys
from revirt.seal.keys import PrivateKey, PublicKey
from tampering.forging import Plan
from tampering.making import in_child, watched
from tampering.meaning import meaning_of

_SEED = b"what the recorder knew at first.".ljust(32)
"""From it follow the keys of all epochs: whoever steals those of one has those that follow, too."""
_END_EPOCH = 0.3
"""How likely an epoch is to end whenever the recorder looks."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sealed recording: whose *key* it is, the *seed* of its epochs, and its *life*: all heads that ever were, by
    epoch, in their order.  ``said`` is what it means.
    """

    name: str
    path: Path
    key: PublicKey
    seed: bytes
    life: dict[int, list[bytes]]
    said: dict[str, Any]
    plan: Plan

    @property
    def has_ended(self) -> bool:
        """Whether its end is sealed."""
        return (self.path / layout.SEAL / layout.SEAL_END).exists()

    @property
    def epochs(self) -> list[int]:
        """The epochs of which there are heads, ascending."""
        return sorted(int(each.stem) for each in (self.path / layout.SEAL).glob("*.head"))


@dataclass(frozen=True, slots=True)
class Subject:
    """How a sample is made; ``kill_at`` is before which change of a file its recorder dies."""

    guest: str
    clock: ClockMode
    checkpoint_every: int
    until: int
    ring: int | None = None
    kill_at: int | None = None


SUBJECTS = {
    "complete": Subject("echo", "virtual", 300, 20_000),
    "complete on the host's clock": Subject("race", "host", 30_000, 300_000),
    "killed": Subject("churn", "virtual", 60_000, 10_000_000, kill_at=150),
    "circular": Subject("churn", "virtual", 60_000, 6_000_000, ring=3_000_000),
    "circular, killed": Subject("churn", "virtual", 60_000, 10_000_000, ring=3_000_000, kill_at=1_600),
    "circular, nothing evicted": Subject("timer", "virtual", 20_000, 100_000, ring=1 << 30),
}
"""Every sample, by name."""


def make_samples(directory: Path) -> list[Sample]:
    """Record all samples below *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    secret = directory / "user.key"
    keys.create(secret)
    return [
        make_sample(name, subject, directory / f"sample-{number}", secret)
        for number, (name, subject) in enumerate(SUBJECTS.items())
    ]


def make_sample(name: str, subject: Subject, directory: Path, secret: Path) -> Sample:
    """Record *subject* into the new *directory*, sealed with the key in the file *secret*."""
    path, seen = directory / "recording", directory / "seen"
    seen.mkdir(parents=True)
    guest = _guest(subject.guest, directory)
    seed = bytes(each ^ len(name) for each in _SEED)
    in_child(_recorder(subject, guest, path, seen, secret, seed), kill_at=subject.kill_at, below=path)
    (path / layout.LOCK).unlink(missing_ok=True)
    key = keys.load_public(keys.public_path(secret))
    recording = Recording.open(path)
    life: dict[int, list[bytes]] = {}
    for each in sorted(seen.iterdir()):
        life.setdefault(int(each.suffix[1:]), []).append(each.read_bytes())
    said = meaning_of(path)
    assert said is not None
    return Sample(name, path, key, seed, life, said, Plan.of(Seal.open(path, recording.manifest, key)))


def copy(sample: Sample, target: Path) -> Path:
    """Make the new *target* a copy of *sample*."""
    shutil.copytree(sample.path, target)
    return target


def user_key(directory: Path) -> PrivateKey:
    """Return the key that the samples in *directory* were sealed with."""
    return keys.load_private(directory / "user.key")


def _recorder(
    subject: Subject, guest: Guest, path: Path, seen: Path, secret: Path, seed: bytes
) -> Callable[[], None]:
    chance = Random(path.name)
    count = 0

    def see(name: str, data: bytes) -> None:
        nonlocal count
        if name.endswith(".head"):
            (seen / f"{count:06}.{int(name.partition('.')[0])}").write_bytes(data)
            count += 1

    def run() -> None:
        options = RecordOptions(
            clock=subject.clock,
            until=Position(subject.until),
            checkpoint_every=subject.checkpoint_every,
            digest_every=subject.checkpoint_every // 3,
            limits=RingLimits(size=subject.ring) if subject.ring is not None else None,
            sign=secret,
        )
        console = ScriptedConsole(Script.load(guest.script)) if guest.script else NullConsole()
        with watched(seed, lambda: chance.random() < _END_EPOCH, see), console:
            record(guest, console, options, path)

    return run


def _guest(name: str, directory: Path) -> Guest:
    if name != "churn":
        return find(name)
    subject = make_subject(name, directory)
    image = Path(subject.words[subject.words.index("--kernel") + 1])
    return Guest(name="churn", summary="never ends", memory=8 << 20, file=image)
