"""Hostile files by the thousand, all read in one process.

A case is made by nothing but the seed, the kind and its number.  It fails if anything but a `RevirtError` comes out,
if it reaches outside of its directory, takes more than `MEMORY_LIMIT` of memory, or hangs (see `fuzzing.watch`).
"""

from __future__ import annotations

import gc
import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzzing import FuzzError
from fuzzing.boards import Boards
from fuzzing.changes import changer
from fuzzing.forgery import NotForgedError
from fuzzing.indexes import Indexes
from fuzzing.members import Checkpoints, Manifests, Pages, Segments
from fuzzing.pack_files import Packs
from fuzzing.packets import Packets
from fuzzing.recordings import SAMPLES
from fuzzing.seals import Blocks, Envelopes, Keys, Leaves, Proofs
from fuzzing.states import States
from fuzzing.strange import Strange
from fuzzing.targets import Commands, Scene, Target
from fuzzing.watch import Memory, Watch

TARGETS: tuple[type[Target], ...] = (
    *(Segments, Manifests, Checkpoints, Pages, Indexes, Strange, Packs),
    *(Keys, Leaves, Blocks, Envelopes, Proofs),
    Packets,
    *(Boards, States),
)
DEVICE_KINDS = (Boards.kind, States.kind)
"""Those that are no files, but what a guest does to devices."""
KINDS = tuple(target.kind for target in TARGETS)
KINDS_GUIDED = tuple(kind for kind in KINDS if kind != "strange")
"""Those that are told by the bytes of a file."""
MEMORY_LIMIT = 1 << 30
"""Most bytes that a case may have resident beyond what the process had before.

The most that one file can ask for: an event of 8 MiB of zeros is printed as text of 32 MiB, of which Python's writer
of CSV keeps 4 bytes a character, in two copies while it grows, and the line some more.  All else stays below: a
checkpoint unpacks to 72 MiB, a segment to 16 MiB, and to some 60 as events.
"""
ADDRESS_LIMIT = 8 << 30
"""Most bytes of addresses more, touched or not: Unicorn reserves a GiB for each of the four machines that a search for
a divergence may need, and ends the process where it cannot."""
_RAW = 0.4
"""Which part of the cases change files without making any check right."""


@dataclass(slots=True)
class Tally:
    """What came of the cases of a kind; ``refusals`` are messages without names and numbers."""

    cases: int = 0
    accepted: int = 0
    seconds: float = 0.0
    peak: int = 0
    refusals: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that failed, and why, with its traceback."""

    kind: str
    number: int
    problem: str


def make_targets(kinds: Collection[str], samples: Path, directory: Path) -> dict[str, Target]:
    """Return the targets of *kinds*; their files are kept in *directory*, into which the process changes.

    *samples* is what `make_samples` filled.
    """
    scene, commands = Scene(samples, directory, [name for name, *_ in SAMPLES]), Commands()
    os.chdir(scene.directory)
    os.environ["REVIRT_DIR"] = str(scene.directory)
    watch = Watch(scene.directory)
    found = {each.kind: each(scene, watch, commands) for each in TARGETS if each.kind in kinds}
    done: set[str] = set()
    for target in found.values():
        if not isinstance(target, Strange):
            _warm_up(target, done)
    return found


def _warm_up(target: Target, done: set[str]) -> None:
    """Do with a sound file what is done with hostile ones, but for what was *done*: what is loaded once is loaded then.

    Raises FuzzError if it is refused.
    """
    for act in (None, *(act for act in target.acts if act not in done)):
        refused = target.run(0, target.samples()[0], act)
        if refused:
            raise FuzzError(f"{target.kind}: a sound file is refused: {refused}")
    done.update(target.acts)


class Runner:
    """Runs cases against targets, and keeps count."""

    def __init__(self, seed: int, targets: Mapping[str, Target]) -> None:
        self._seed = seed
        self._targets = targets
        self._samples = {kind: target.samples() for kind, target in targets.items()}
        self._memory = Memory()
        self._memory.limit(ADDRESS_LIMIT)
        self.tallies = {kind: Tally() for kind in targets}
        self.failures: list[Failure] = []

    def make(self, kind: str, number: int) -> tuple[int, bytes, str | None]:
        """Return case *number* of *kind*: which place, what to put there, and what to do with it."""
        rng = Random(f"{self._seed}/{kind}/{number}")
        target, samples = self._targets[kind], self._samples[kind]
        place = rng.randrange(len(samples))
        data, change = samples[place], changer(rng)
        if kind != "strange" and rng.random() < _RAW:
            # Bytes of another file of the kind are as likely as any.
            data = change(data if rng.random() < 0.9 else rng.choice(samples))
            if rng.random() < 0.3:
                data = target.reseal(data)
        else:
            for _ in range(rng.choice((1, 1, 2, 3))):
                try:
                    data = target.forge(data, rng, change)
                except NotForgedError:
                    continue
        acts = target.acts
        return place, data, rng.choice(acts) if acts and rng.random() < target.acting else None

    def run(self, kind: str, number: int) -> None:
        """Run case *number* of *kind*."""
        place, data, act = self.make(kind, number)
        tally = self.tallies[kind]
        # Machines refer to themselves; what earlier cases left must not count here.
        gc.collect()
        self._memory.restart()
        started = time.perf_counter()
        try:
            refused = self._targets[kind].run(place, data, act)
            peak = self._memory.peak()
            if peak > MEMORY_LIMIT:
                raise FuzzError(f"{act}: took {peak >> 20} MiB of memory")
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of a library in Rust is no Exception, nor is a WatchError
            self.failures.append(Failure(kind, number, f"{act}: {traceback.format_exc(limit=-12)}"))
            return
        tally.seconds += time.perf_counter() - started
        tally.cases += 1
        tally.peak = max(tally.peak, peak)
        tally.accepted += not refused
        tally.refusals.update(_outline(str(error)) for error in refused)


def _outline(message: str) -> str:
    """Return *message* without what is different each time."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"|(/[^ :,]*)", "~", message[:400])
    return re.sub(r"0x[0-9a-f]+|[0-9a-f]{16,}|\d[\d.,]*", "#", message)
