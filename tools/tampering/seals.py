"""Changes of seals and manifests, and of what is missing: nothing of what is left of the guest's doing is changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from damage import flip_raw

from revirt.checkpoint.format import checkpoint_name
from revirt.log import segment
from revirt.recording import Manifest, Recording, RecordingState, Seal, layout
from revirt.recording.manifest import NAME, Kept
from revirt.recording.repair import REASON
from revirt.seal import leaves
from revirt.seal.heads import open_head
from revirt.seal.keys import PrivateKey
from tampering.book import Book
from tampering.forging import head_path, keep_events
from tampering.samples import Sample
from tampering.tampering import Change, Due, Tampering, change


def flip(_sample: Sample, path: Path, rng: Random) -> Change | None:
    """Flip a bit of any file."""
    what = flip_raw(path, rng)
    name = what.partition(":")[0]
    (found,) = (each for each in path.rglob(name) if each.is_file())
    places = {str(found.relative_to(path))}
    if found.suffix == ".batch":
        places.add(layout.SEAL)
    if found.suffix == ".leaves":
        places |= {f"{layout.SEAL}/{each.name}" for each in (path / layout.SEAL).glob("*.head")}
    return Change(what, frozenset(places))


def older_head(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Put an older head of an epoch in the place of its last."""
    epochs = [epoch for epoch in sample.epochs if len(sample.life[epoch]) > 1]
    if not epochs:
        return None
    epoch = rng.choice(epochs)
    older = rng.choice(sample.life[epoch][:-1])
    target = head_path(path, epoch)
    if older == target.read_bytes():
        return None
    target.write_bytes(older)
    what, place = f"an older head of epoch {epoch}", f"{layout.SEAL}/{target.name}"
    if epoch < sample.epochs[-1]:
        return change(what, place)
    if sample.has_ended:
        return change(what, place, f"{layout.SEAL}/{layout.SEAL_END}")
    return change(what, due=Due.NOT_INTACT)


def drop_head(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Delete a head that is not the last."""
    if len(sample.epochs) < 2:
        return None
    target = head_path(path, rng.choice(sample.epochs[:-1]))
    target.unlink()
    return change(f"{target.name} deleted", f"{layout.SEAL}/{target.name}")


def swap_heads(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Let the heads of two epochs change places."""
    if len(sample.epochs) < 2:
        return None
    one, two = (head_path(path, epoch) for epoch in rng.sample(sample.epochs, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return change("two heads swapped", *(f"{layout.SEAL}/{each.name}" for each in (one, two)))


def foreign_seal(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Take a part of the seal, or all of it, from another recording that the same user sealed."""
    others = [
        each for each in sorted(sample.path.parent.parent.glob("sample-*")) if each != sample.path.parent
    ]
    other = rng.choice(others) / "recording" / layout.SEAL
    part = rng.choice(("all", "batch", "head", "end"))
    seal = path / layout.SEAL
    if part == "all":
        shutil.rmtree(seal)
        shutil.copytree(other, seal)
        return change("the seal of another recording", layout.SEAL)
    taken = other / layout.SEAL_END if part == "end" else rng.choice(sorted(other.glob(f"*.{part}")))
    if not taken.exists():
        return None
    name = taken.name if part != "head" else head_path(path, rng.choice(sample.epochs)).name
    (seal / name).write_bytes(taken.read_bytes())
    places = [layout.SEAL] if part == "batch" else [f"{layout.SEAL}/{name}"]
    return change(f"{part} of another recording", *places)


def other_key(_sample: Sample, path: Path, rng: Random) -> Change:
    """Replace the public key."""
    key = PrivateKey.from_raw(rng.randbytes(32)).public
    (path / layout.SEAL / layout.SEAL_KEY).write_bytes(key.to_pem())
    return change("key.pub replaced", f"{layout.SEAL}/{layout.SEAL_KEY}")


def no_seal(_sample: Sample, path: Path, _rng: Random) -> Change:
    """Take the seal away."""
    shutil.rmtree(path / layout.SEAL)
    return change("no seal", layout.SEAL)


def drop_part(_sample: Sample, path: Path, rng: Random) -> Change | None:
    """Delete one of the files that a recording needs; what follows it may be what is found."""
    kept = Recording.open(path)
    logs = [_segment_name(each.index) for each in kept.segments]
    stored = [f"{layout.CHECKPOINTS}/{checkpoint_name(each.number)}" for each in kept.checkpoints]
    named = [f"{layout.SEAL}/{leaves.file_name(each.index)}" for each in kept.segments]
    certificate = f"{layout.SEAL}/{layout.batch_name(0)}"
    name = rng.choice([certificate, *(each for each in (*logs, *stored, *named) if (path / each).exists())])
    (path / name).unlink()
    places = {name, layout.SEAL if name.startswith(layout.SEAL) else layout.LOG}
    for group in (logs, stored):
        if name in group:
            places.update(group[group.index(name) + 1 :][:1])
    return Change(f"{name} deleted", frozenset(places))


def edit_manifest(_sample: Sample, path: Path, rng: Random) -> Change | None:
    """Change a value of the manifest, at any depth; its check is made right."""
    contents = Recording.open(path).manifest
    name = rng.choice([each.name for each in fields(Manifest) if each.name not in ("format", "check")])
    plain = asdict(contents)
    before = json.dumps(plain, sort_keys=True)
    if name in ("state", "end"):
        return None
    plain[name] = _other(plain[name], rng)
    if json.dumps(plain, sort_keys=True) == before:
        return None
    _write_manifest(path, Manifest(**plain))
    # A seal names the recording that it is of: either may be the wrong one.
    return change(f"manifest: {name}", NAME, *([layout.SEAL] if name == "uuid" else []))


def edit_end(_sample: Sample, path: Path, rng: Random) -> Change | None:
    """Change what a manifest says of the end."""
    contents = Recording.open(path).manifest
    if contents.end is None:
        contents.state = RecordingState.COMPLETE
        count = {
            "events": Recording.open(path).event_end,
            "checkpoints": len(Recording.open(path).checkpoints),
        }
        contents.end = {"reason": "it ended", "exit_code": 0, **count}
        _write_manifest(path, contents)
        return change("called complete", NAME)
    name = rng.choice(sorted(contents.end))
    contents.end[name] = _other(contents.end[name], rng)
    _write_manifest(path, contents)
    return change(f"manifest: end.{name}", NAME)


def call_interrupted(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Let a complete recording look as if its recorder had died."""
    if not sample.has_ended:
        return None
    contents = Recording.open(path).manifest
    how = rng.choice(("died", "unsealed", "repaired", "aborted", "half"))
    if how != "died":
        (path / layout.SEAL / layout.SEAL_END).unlink(missing_ok=how != "half")
    if how in ("died", "unsealed"):
        contents.state, contents.end = RecordingState.RECORDING, None
    elif how == "repaired":
        contents.end = {**(contents.end or {}), "reason": REASON}
    elif how == "aborted":
        contents.state = RecordingState.INTERRUPTED
    else:
        return change("the sealed end deleted", NAME)
    _write_manifest(path, contents)
    return change(f"made to look {how}", due=Due.NOT_INTACT)


def change_state(sample: Sample, path: Path, _rng: Random) -> Change | None:
    """Call a recording whose end is sealed interrupted, and say how."""
    if not sample.has_ended:
        return None
    contents = Recording.open(path).manifest
    contents.state = RecordingState.INTERRUPTED
    _write_manifest(path, contents)
    return change("state: interrupted", NAME)


def cut_end(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Cut off the end with all heads after it, at any head that ever was; sometimes put something new behind it."""
    epoch = rng.choice(sample.epochs)
    head = rng.choice(sample.life[epoch])
    sealed = Seal.open(sample.path, Recording.open(sample.path).manifest, sample.key)
    opened = open_head(head, sealed.batches).head
    book = Book.read(path)
    start = book.manifest.start
    # What was evicted since is not there any more: an older receipt is for something else.
    if opened.evicted != sealed.head.evicted or opened.events <= start.event + 2:
        return None
    keep_events(book, opened.events - start.event)
    book.manifest.state, book.manifest.end = RecordingState.RECORDING, None
    what = f"cut at event {opened.events}"
    if rng.random() < 0.5:
        book.segments[-1].append(book.segments[-1][-1]._replace(number=3))
        what += ", with one more"
    book.write(path)
    for each in sample.epochs:
        if each > epoch:
            head_path(path, each).unlink()
    head_path(path, epoch).write_bytes(head)
    (path / layout.SEAL / layout.SEAL_END).unlink(missing_ok=True)
    return change(what, due=Due.NOT_INTACT)


def claim_eviction(_sample: Sample, path: Path, rng: Random) -> Change | None:
    """Take the beginning away as an eviction does, without a receipt."""
    recording = Recording.open(path)
    contents, start = recording.manifest, recording.manifest.start
    later = [each for each in recording.checkpoints if each.number > start.checkpoint]
    if not later:
        return None
    chosen = rng.choice(later)
    found = next(each for each in recording.segments if each.ordinal == chosen.event - 1)
    kept = Kept(found.index, chosen.event - 1, chosen.number, chosen.branches, chosen.guest_ns)
    _write_manifest(path, replace(contents, kept=asdict(kept)))
    for each in recording.segments:
        if each.index < kept.segment:
            each.path.unlink()
            (path / layout.SEAL / leaves.file_name(each.index)).unlink()
    for info in recording.checkpoints:
        if info.number < kept.checkpoint:
            (path / layout.CHECKPOINTS / checkpoint_name(info.number)).unlink()
    return change(
        f"nothing before checkpoint {chosen.number}, no receipt", NAME, layout.SEAL, _leaves_name(start)
    )


def older_receipt(sample: Sample, path: Path, rng: Random) -> Change | None:
    """Let the manifest begin where an older receipt said, whatever is left of that."""
    sealed = Seal.open(sample.path, Recording.open(sample.path).manifest, sample.key)
    heads = [open_head(each, sealed.batches).head for life in sample.life.values() for each in life]
    receipts = {each.evicted for each in heads if each.evicted and each.evicted != sealed.head.evicted}
    if not receipts:
        return None
    old = rng.choice(sorted(receipts, key=lambda each: each.leaf))
    kept = Kept(old.segment, old.event, old.checkpoint, old.branches, old.guest_ns)
    contents = Recording.open(path).manifest
    _write_manifest(path, replace(contents, kept=asdict(kept)))
    places = {NAME, _leaves_name(kept)}
    return Change(f"begins where it did before, at event {old.event}", frozenset(places))


SEALS: dict[str, Tampering] = {
    "bit": flip,
    "older head": older_head,
    "head dropped": drop_head,
    "heads swapped": swap_heads,
    "another's seal": foreign_seal,
    "key.pub": other_key,
    "no seal": no_seal,
    "file dropped": drop_part,
    "manifest": edit_manifest,
    "manifest's end": edit_end,
    "state": change_state,
    "interrupted": call_interrupted,
    "end cut off": cut_end,
    "eviction": claim_eviction,
    "older receipt": older_receipt,
}
"""Every change of a seal, by name."""


def _segment_name(index: int) -> str:
    return f"{layout.LOG}/{segment.file_name(index)}"


def _leaves_name(kept: Kept) -> str:
    return f"{layout.SEAL}/{leaves.file_name(kept.segment)}"


def _write_manifest(path: Path, contents: Manifest) -> None:
    (path / NAME).unlink()
    (path / NAME).write_text(contents.to_json())


def _other(value: Any, rng: Random) -> Any:
    """Return something else of the kind of *value*."""
    match value:
        case bool():
            return not value
        case int():
            return value + rng.choice((1, 2, 1000))
        case str():
            return rng.choice((value + "x", value[:-1], value.swapcase()))
        case list():
            return rng.choice(([*value, "x"], value[:-1], ["revirt", "record", "other"]))
        case dict() if value:
            name = rng.choice(sorted(value))
            return {**value, name: _other(value[name], rng)}
        case _:
            return {"size": 1, "keep_ns": None}
