"""Making a proof that an event is in a recording."""

from __future__ import annotations

from revirt.errors import CorruptError, RecordingError, SealError
from revirt.log import segment
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
    index, leaf, number = _leaf_of(seal, ordinal) or (tree.size, None, 0)
    signed = next((each for each in seal.heads if each.head.leaves > index), None)
    if leaf is None or signed is None:
        raise SealError(
            f"event {ordinal} of {recording.path} is not sealed",
            hint=f"those before event {seal.head.events} are",
        )
    found = next((each for each in recording.segments if each.index == number), None)
    if found is None:
        raise CorruptError(recording.path / layout.LOG / segment.file_name(number), "missing")
    _, events = segment.read(found.path)
    start = leaf.number - found.ordinal
    rows = rows_of(events[max(start, 0) : max(start, 0) + leaf.detail])
    if start < 0 or rows.count != leaf.detail:
        raise CorruptError(found.path, f"has not the events from number {leaf.number} on that were sealed")
    block = block_of(rows, ordinal - leaf.number)
    if not verify_block(block, leaf.detail, leaf.digest):
        raise CorruptError(found.path, f"event {ordinal} is not what was sealed")
    return EventProof(
        seal.batches[0].recording,
        seal.certificates,
        read_file(seal.directory / layout.head_name(signed.epoch), ENVELOPE_LIMIT),
        index,
        leaf.pack(),
        tuple(tree.inclusion(index, signed.head.leaves)),
        block,
        ordinal,
        events[ordinal - found.ordinal].data or None,
    )


def _leaf_of(seal: Seal, ordinal: int) -> tuple[int, Leaf, int] | None:
    """Return the leaf that event *ordinal* is in, with its index before and its segment behind it."""
    for file in seal.leaf_files():
        for index, leaf in enumerate(file.leaves, file.first):
            if leaf.kind == LeafKind.EVENTS and leaf.number <= ordinal < leaf.number + leaf.detail:
                return index, leaf, file.segment
    return None
