"""What was recorded is changed, and the change hidden as well as can be: nothing more than what a seal is there for."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from revirt.checkpoint.format import checkpoint_name
from revirt.errors import RevirtError
from revirt.log import segment
from revirt.recording import Recording, Seal, layout
from revirt.seal import leaves
from revirt.seal.keys import PrivateKey
from tampering.book import Book
from tampering.edits import EDITS, Edit
from tampering.forging import replace_leaves, replace_seal
from tampering.samples import Sample
from tampering.tampering import Change, Due, Tampering, change

_TRIES = 20


def edited(path: Path, edit: Edit, rng: Random) -> tuple[Book, str] | None:
    """Edit the recording in *path* until something comes of it that can be written; return that, and what it is."""
    original = Book.read(path)
    for _ in range(_TRIES):
        book = deepcopy(original)
        try:
            what = edit(book, rng)
            if what is None:
                continue
            book.write(path)
            Book.read(path)
        except (ValueError, RevirtError):
            continue
        if (book.segments, book.checkpoints) != (original.segments, original.checkpoints):
            return book, what
    original.write(path)
    return None


def _places(sample: Sample, path: Path) -> tuple[set[str], int]:
    """Return the files in which the recording in *path* differs from *sample*, and the first event that does."""
    before, after = (Recording.open(each) for each in (sample.path, path))
    places: set[str] = set()
    old, new = ([segment.read(each.path)[1] for each in recording.segments] for recording in (before, after))
    start = before.manifest.start
    ordinal = start.event
    for at in range(max(len(old), len(new))):
        if at >= len(old) or at >= len(new) or old[at] != new[at]:
            places.add(f"{layout.LOG}/{segment.file_name(start.segment + at)}")
            if at >= len(old) or at >= len(new):
                places.add(layout.LOG)
            if at < len(old) and at < len(new):
                common = (one != two for one, two in zip(old[at], new[at], strict=False))
                same = next(
                    (place for place, differs in enumerate(common) if differs),
                    min(len(old[at]), len(new[at])),
                )
                ordinal += same
            break
        ordinal += len(old[at])
    else:
        ordinal = 1 << 64
    stored = [Book.read(each).checkpoints for each in (sample.path, path)]
    for at in range(max(map(len, stored))):
        if any(at >= len(each) for each in stored) or stored[0][at] != stored[1][at]:
            number = start.checkpoint + at
            places.add(f"{layout.CHECKPOINTS}/{checkpoint_name(number)}")
            known = [each[at].info.event for each in stored if at < len(each)]
            ordinal = min(ordinal, *known)
    return places, ordinal


def alone(edit: Edit, sample: Sample, path: Path, rng: Random) -> Change | None:
    """Edit what was recorded, and leave the seal as it is."""
    done = edited(path, edit, rng)
    if done is None:
        return None
    places, ordinal = _places(sample, path)
    sealed = Seal.open(sample.path, Recording.open(sample.path).manifest, sample.key)
    if ordinal >= sealed.head.events and not sample.has_ended:
        return change(f"{done[1]}, not sealed", due=Due.NOT_INTACT)
    return change(done[1], *places)


def with_leaves(edit: Edit, sample: Sample, path: Path, rng: Random) -> Change | None:
    """Edit what was recorded, and make the leaves of the history tree fit."""
    done = edited(path, edit, rng)
    if done is None:
        return None
    replace_leaves(done[0], path, sample.plan)
    found = _first_changed(sample, path)
    if found.epoch is None:
        return change(f"{done[1]}, not sealed", due=Due.NOT_INTACT)
    return change(f"{done[1]}, leaf {found.leaf}", found.place)


def with_other_key(edit: Edit, sample: Sample, path: Path, rng: Random) -> Change | None:
    """Edit what was recorded, and seal all of it with another key; sometimes leave the key's name as it was."""
    done = edited(path, edit, rng)
    if done is None:
        return None
    named = (path / layout.SEAL / layout.SEAL_KEY).read_bytes()
    replace_seal(done[0], path, PrivateKey.from_raw(rng.randbytes(32)), rng.randbytes(32), sample.plan)
    if rng.random() < 0.5:
        (path / layout.SEAL / layout.SEAL_KEY).write_bytes(named)
    return change(f"{done[1]}, sealed with another key", layout.SEAL, f"{layout.SEAL}/{layout.SEAL_KEY}")


def by_thief(edit: Edit, sample: Sample, path: Path, rng: Random) -> Change | None:
    """Edit what was recorded, and sign all heads again from the epoch of a theft on."""
    epochs = sample.epochs
    if len(epochs) < 2:
        return None
    done = edited(path, edit, rng)
    if done is None:
        return None
    stolen = rng.choice(epochs[1:])
    # Which key stands in a certificate matters to nobody here: the thief leaves it as it is.
    key = PrivateKey.from_raw(bytes(32))
    replace_seal(done[0], path, key, sample.seed, sample.plan, from_epoch=stolen)
    found = _first_changed(sample, path)
    what = f"{done[1]}, leaf {found.leaf}, by a thief in epoch {stolen}"
    if found.epoch is None or found.epoch >= stolen:
        return change(what, due=Due.NOTHING)
    return change(what, found.place)


@dataclass(frozen=True, slots=True)
class _Changed:
    """The first leaf that is not what it was, the first epoch whose head is about it, and where that shows."""

    leaf: int
    epoch: int | None
    place: str


def _first_changed(sample: Sample, path: Path) -> _Changed:
    """Return what changed first among the leaves in *path*."""
    sealed = Seal.open(sample.path, Recording.open(sample.path).manifest, sample.key)
    before = {at: leaf for file in sealed.leaf_files() for at, leaf in enumerate(file.leaves, file.first)}
    now = _leaves(path, sealed.start)
    index = next((at for at in sorted(before) if before[at] != now.get(at)), max(before) + 1)
    signed = next((each for each in sealed.heads if each.head.leaves > index), None)
    if signed is None:
        return _Changed(index, None, layout.SEAL)
    # A head over more leaves than there are is not what is wrong.
    is_short = signed.head.leaves > max(now, default=-1) + 1
    place = layout.SEAL if is_short else f"{layout.SEAL}/{layout.head_name(signed.epoch)}"
    return _Changed(index, signed.epoch, place)


def _leaves(path: Path, start: int) -> dict[int, object]:
    found: dict[int, object] = {}
    for each in sorted((path / layout.SEAL).glob("*.leaves")):
        if int(each.stem) >= start:
            file = leaves.read(each, int(each.stem))
            found |= dict(enumerate(file.leaves, file.first))
    return found


_COVERS = {"": alone, ", leaves": with_leaves, ", other key": with_other_key, ", thief": by_thief}

CONTENTS: dict[str, Tampering] = {
    f"{name}{cover}": partial(act, edit) for name, edit in EDITS.items() for cover, act in _COVERS.items()
}
"""Every edit with every cover, by name."""
