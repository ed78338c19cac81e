"""Making a proof that an event is in a recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from revirt.errors import CorruptError, RecordingError, SealError
from revirt.log import segment
from revirt.log.events import Event
from revirt.log.frame import read_file
from revirt.log.rows import rows_of
from revirt.recording import layout
from revirt.recording.reader import Recording
from revirt.recording.seal import Seal
from revirt.seal.blocks import block_of, verify_block
from revirt.seal.dsse import ENVELOPE_LIMIT
from revirt.seal.keys import PublicKey
from revirt.seal.leaves import Leaf, LeafKind
from revirt.seal.proofs import EventProof


def prove(recording: Recording, ordinal: int, key: PublicKey | None = None) -> EventProof:
    """Return the proof that event *ordinal* is in *recording*, which *key* sealed (default: the one that says so).

    Raises SealError if the recording, or this event, is not sealed; CorruptError if it is not what was sealed;
    RecordingError if there is no such event.
    """
    seal = Seal.open(recording.path, recording.manifest, key)
    first, end = recording.manifest.start.event, recording.event_end
    if not first <= ordinal < end:
        raise RecordingError(
            f"{recording.path} has no event {ordinal}; it has those from {first} to below {end}",
            hint="'revirt events' lists them",
        )
    tree = seal.tree()
    place = _leaf_of(seal, ordinal)
    signed = next((each for each in seal.heads if place and each.head.leaves > place.index), None)
    if place is None or signed is None:
        raise SealError(
            f"event {ordinal} of {recording.path} is not sealed",
            hint=f"those before event {seal.head.events} are",
        )
    index, leaf = place.index, place.leaf
    path = recording.path / layout.LOG / segment.file_name(place.segment)
    events = _events_of(leaf, path)
    block = block_of(rows_of(events), ordinal - leaf.number)
    if not verify_block(block, leaf.detail, leaf.digest):
        raise CorruptError(path, f"event {ordinal} is not what was sealed")
    return EventProof(
        seal.batches[0].recording,
        seal.certificates,
        read_file(seal.directory / layout.head_name(signed.epoch), ENVELOPE_LIMIT),
        index,
        leaf.pack(),
        tuple(tree.inclusion(index, signed.head.leaves)),
        block,
        ordinal,
        events[ordinal - leaf.number].data or None,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A leaf of events, its index in the history tree, and the segment that it is about."""

    index: int
    leaf: Leaf
    segment: int


def _leaf_of(seal: Seal, ordinal: int) -> _Place | None:
    """Return the leaf that event *ordinal* is in."""
    for file in seal.leaf_files():
        for index, leaf in enumerate(file.leaves, file.first):
            if leaf.kind == LeafKind.EVENTS and leaf.number <= ordinal < leaf.number + leaf.detail:
                return _Place(index, leaf, file.segment)
    return None


def _events_of(leaf: Leaf, path: Path) -> list[Event]:
    """Return the events in the segment *path* that *leaf* is about; raises CorruptError if they are not all there."""
    found, events = segment.read(path)
    start = leaf.number - found.ordinal
    if not 0 <= start <= found.count - leaf.detail:
        raise CorruptError(path, f"has not the events from number {leaf.number} on that were sealed")
    return events[start : start + leaf.detail]
