"""Seals that are made again for a recording that was changed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from revirt.log.events import Event
from revirt.log.rows import rows_of
from revirt.recording import Seal, layout
from revirt.recording.manifest import Kept
from revirt.recording.sealer import Sealer
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import LeafFile, LeafKind
from revirt.seal.merkle import HistoryTree
from tampering.book import Book, changes_of
from tampering.making import watched


@dataclass(frozen=True, slots=True)
class Plan:
    """How a recording was sealed: of each segment, how many events at a time, and in which epoch each time.

    ``first`` are the leaves that are kept of its first segment, which say what came before; ``epoch`` is the first
    whose head is kept.
    """

    pieces: dict[int, list[tuple[int, int]]]
    first: LeafFile
    epoch: int

    @classmethod
    def of(cls, seal: Seal) -> Plan:
        """Return how *seal* was made."""
        files = list(seal.leaf_files())
        pieces = {
            file.segment: [
                (leaf.detail, _epoch_of(seal, index))
                for index, leaf in enumerate(file.leaves, file.first)
                if leaf.kind == LeafKind.EVENTS
            ]
            for file in files
        }
        return cls(pieces, files[0], seal.evicted.epoch)

    def cut(self, segment: int, events: list[Event]) -> Iterator[tuple[list[Event], int]]:
        """Yield the *events* of *segment* in pieces, each with its epoch; what is too much goes with the last."""
        last = max(self.pieces)
        pieces = self.pieces.get(segment) or [(0, self.pieces[last][-1][1] if self.pieces[last] else 0)]
        start = 0
        for place, (count, epoch) in enumerate(pieces):
            end = start + count if place < len(pieces) - 1 else len(events)
            if events[start:end]:
                yield events[start:end], epoch
            start = end


def forge_seal(
    book: Book, target: Path, key: PrivateKey, seed: bytes, plan: Plan, *, ends: bool, least: int = 0
) -> None:
    """Make a whole seal for *book* in the new directory *target*, of *key* and the epochs that *seed* gives.

    It is made as *plan* says, at least up to epoch *least*; a beginning that was evicted has a receipt.
    """
    due = False
    with watched(seed, lambda: due):
        sealer = Sealer.begin(target, key, book.manifest)
        start = book.manifest.start
        ordinal = start.event
        if start != Kept():
            sealer._tree = HistoryTree.resume(plan.first.first, plan.first.subtrees)
            sealer._events = ordinal
        by_event = {each.info.event: each for each in book.checkpoints}
        before: dict[int, bytes] = {}
        for place, events in enumerate(book.segments):
            index = start.segment + place
            found = by_event.get(ordinal + 1)
            for number, (piece, epoch) in enumerate(plan.cut(index, events)):
                due = True
                while sealer._schedule.epoch < epoch:
                    sealer.tick()
                due = False
                if number == 0 and found is not None:
                    sealer.add_pages(*changes_of(before, found.memory))
                    before = found.memory
                    sealer.add_checkpoint(index, found.info, found.state)
                    if place == 0 and start != Kept():
                        sealer.permit(start)
                        assert sealer._evicted is not None
                        sealer._evicted = replace(sealer._evicted, epoch=plan.epoch)
                sealer.add_events(index, ordinal, rows_of(piece))
                ordinal += len(piece)
        due = True
        while sealer._schedule.epoch < least:
            sealer.tick()
        sealer._sign_head()
        if ends and book.manifest.end is not None:
            sealer.complete(book.manifest.state, book.manifest.end)
        sealer.close()


def replace_leaves(book: Book, path: Path, plan: Plan) -> None:
    """Make the leaves in the recording *path* those of *book*, and leave heads and certificates as they are."""
    with tempfile.TemporaryDirectory() as scratch:
        forged = Path(scratch) / layout.SEAL
        forge_seal(book, forged, PrivateKey.generate(), bytes(32), plan, ends=False)
        for each in (path / layout.SEAL).glob("*.leaves"):
            each.unlink()
        for each in forged.glob("*.leaves"):
            shutil.copy(each, path / layout.SEAL)


def replace_seal(
    book: Book, path: Path, key: PrivateKey, seed: bytes, plan: Plan, *, from_epoch: int = 0
) -> None:
    """Make the seal of the recording *path* one of *book*, with heads from *from_epoch* on; others stay as they are.

    With epochs before that, certificates and the public key stay as they are, too: a thief has no other.
    """
    seal = path / layout.SEAL
    with tempfile.TemporaryDirectory() as scratch:
        forged = Path(scratch) / layout.SEAL
        has_ended = (seal / layout.SEAL_END).exists()
        forge_seal(book, forged, key, seed, plan, ends=has_ended, least=from_epoch)
        for each in [*seal.glob("*.leaves"), *_heads(seal, from_epoch), seal / layout.SEAL_END]:
            each.unlink(missing_ok=True)
        taken = [*forged.glob("*.leaves"), *_heads(forged, from_epoch)]
        taken += [forged / layout.SEAL_END] if has_ended else []
        if not from_epoch:
            taken += [*forged.glob("*.batch"), forged / layout.SEAL_KEY]
        for each in taken:
            (seal / each.name).unlink(missing_ok=True)
            shutil.copy(each, seal)


def head_path(path: Path, epoch: int) -> Path:
    """Return the file with the head of *epoch* of the recording *path*."""
    return path / layout.SEAL / layout.head_name(epoch)


def keep_events(book: Book, count: int) -> None:
    """Keep the first *count* events of *book*, and their checkpoints."""
    segments = []
    for events in book.segments:
        if count <= 0:
            break
        segments.append(events[:count])
        count -= len(events)
    book.segments = segments
    end = book.manifest.start.event + sum(map(len, segments))
    book.checkpoints = [each for each in book.checkpoints if each.info.event < end]


def _heads(directory: Path, first: int) -> list[Path]:
    return [each for each in directory.glob("*.head") if int(each.stem) >= first]


def _epoch_of(seal: Seal, index: int) -> int:
    """Return the epoch in which leaf *index* was sealed first."""
    return next((each.epoch for each in seal.heads if each.head.leaves > index), seal.heads[-1].epoch)
