"""What who stole the state of a recorder does, to change what was recorded before the theft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

from revirt.recording import Manifest, Recording, RecordingState, Seal, layout
from revirt.recording.manifest import NAME
from revirt.seal import leaves
from revirt.seal.heads import END_TYPE, HEAD_TYPE, End, Evicted, Head, open_head
from revirt.seal.keys import PrivateKey
from revirt.seal.schedule import Schedule
from tampering.book import Book
from tampering.contents import edited
from tampering.edits import edit_field, edit_memory
from tampering.forging import head_path, keep_events, replace_seal
from tampering.making import EPOCHS
from tampering.samples import Sample
from tampering.tampering import Change, Tampering, change


def stolen_receipt(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Change something old, and sign with a stolen key a receipt that does without the heads of epochs before."""
    if len(sample.epochs) < 2 or sample.has_ended:
        return None
    stolen = sample.epochs[-1]
    done = edited(path, rng.choice((edit_field, edit_memory)), rng)
    if done is None:
        return None
    key = PrivateKey.from_raw(bytes(32))
    replace_seal(done[0], path, key, sample.seed, sample.plan, from_epoch=stolen)
    start = done[0].manifest.start
    evicted = Evicted(
        sample.plan.first.first,
        stolen,
        start.segment,
        start.event,
        start.checkpoint,
        start.branches,
        start.guest_ns,
    )
    thief = _thief(sample, done[0].manifest.uuid, stolen)
    target = head_path(path, stolen)
    forged = _head(sample, path, target, evicted)
    target.write_bytes(thief.seal(HEAD_TYPE, forged.to_payload()))
    if forged.leaves <= evicted.leaf:
        return None
    what = f"{done[1]}, with a receipt that was signed in epoch {stolen}"
    return change(what, f"{layout.SEAL}/{layout.head_name(stolen - 1)}", NAME)


def stolen_end(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Cut off the end at an epoch before a theft, and sign with the stolen key that it ended there."""
    if len(sample.epochs) < 2:
        return None
    epoch = rng.choice(sample.epochs[:-1])
    stolen = rng.choice([each for each in sample.epochs if each > epoch])
    sealed = Seal.open(sample.path, Recording.open(sample.path).manifest, sample.key)
    head = next(each.head for each in sealed.heads if each.epoch == epoch)
    book = Book.read(path)
    start = book.manifest.start
    if head.evicted != sealed.head.evicted or head.events <= start.event + 2:
        return None
    keep_events(book, head.events - start.event)
    book.manifest.state = RecordingState.COMPLETE
    book.manifest.end = {"reason": "it ended", "exit_code": 0, "events": 0, "checkpoints": 0}
    book.write(path)
    for each in sample.epochs:
        if each > epoch:
            head_path(path, each).unlink()
    _trim_leaves(path, head.leaves)
    assert book.manifest.end is not None
    end = End(book.manifest.uuid, head.leaves, head.root, book.manifest.state, book.manifest.end)
    data = _thief(sample, book.manifest.uuid, stolen).seal(END_TYPE, end.to_payload())
    (path / layout.SEAL / layout.SEAL_END).write_bytes(data)
    what = f"ended in epoch {epoch}, by a thief in epoch {stolen}"
    # The end is not about the last head; or the head that it is about is missing.
    return change(what, f"{layout.SEAL}/{layout.SEAL_END}", f"{layout.SEAL}/{layout.head_name(stolen)}")


def stolen_and_older(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Put back an older head of the epoch before a theft, change what came behind it, and sign later heads again."""
    epochs = [epoch for epoch in sample.epochs[:-1] if len(sample.life[epoch]) > 1]
    if not epochs:
        return None
    epoch = rng.choice(epochs)
    done = edited(path, rng.choice((edit_field, edit_memory)), rng)
    if done is None:
        return None
    replace_seal(
        done[0], path, PrivateKey.from_raw(bytes(32)), sample.seed, sample.plan, from_epoch=epoch + 1
    )
    head_path(path, epoch).write_bytes(rng.choice(sample.life[epoch][:-1]))
    what = f"{done[1]}, behind an older head of epoch {epoch}"
    heads = (f"{layout.SEAL}/{layout.head_name(each)}" for each in sample.epochs if each <= epoch)
    return change(what, *heads)


THIEVES: dict[str, Tampering] = {
    "thief, receipt": stolen_receipt,
    "thief, end": stolen_end,
    "thief, older head": stolen_and_older,
}
"""Everything that a thief does, by name; but for the plain change of something old, which is a cover of every edit."""


def _trim_leaves(path: Path, count: int) -> None:
    """Keep the first *count* leaves."""
    for each in sorted((path / layout.SEAL).glob("*.leaves")):
        file = leaves.read(each, int(each.stem))
        kept = file.leaves[: max(0, count - file.first)]
        each.unlink()
        if kept:
            packed = [leaf.pack() for leaf in kept]
            each.write_bytes(leaves.encode(file.segment, file.first, file.subtrees, packed))


def _thief(sample: Sample, recording: str, epoch: int) -> Schedule:
    """Return what a recorder knew in *epoch*."""
    key = PrivateKey.from_raw(bytes(32))
    schedule = Schedule.begin(key, recording, epochs=EPOCHS, seed=sample.seed)
    while schedule.epoch < epoch:
        schedule.evolve()
    return schedule


def _head(sample: Sample, path: Path, target: Path, evicted: Evicted) -> Head:
    """Return the head in the file *target*, with another receipt."""
    contents = Manifest.read(path / NAME)
    sealed = Seal.open(sample.path, contents, sample.key)
    return replace(open_head(target.read_bytes(), sealed.batches).head, evicted=evicted)
