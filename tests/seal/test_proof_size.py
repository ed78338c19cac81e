"""Everything that the proof of one event is made of, as large as it gets."""

from __future__ import annotations

import json
import os

from revirt.log.events import Event, Kind
from revirt.log.rows import Rows, rows_of
from revirt.seal.blocks import BLOCK_EVENTS, block_of, event_root, verify_block
from revirt.seal.epochs import verify_certificates, verify_epoch_signature
from revirt.seal.fields import encode_bytes
from revirt.seal.keys import PrivateKey
from revirt.seal.merkle import HistoryTree, leaf_hash, verify_inclusion
from revirt.seal.schedule import EPOCHS, Schedule

USER = PrivateKey.from_raw(bytes(32))
UUID = "11111111-2222-3333-4444-555555555555"
BLOCKS = 2048
LEAVES = 1_000_000
MIDDLE = LEAVES // 2
BAR = 4096
"""Bytes: what a proof may have."""


def full_segment() -> Rows:
    """As many blocks as a segment has, all events of which carry data, and numbers that take all their digits."""
    tail = (1 << 63) - 1
    return rows_of(
        [
            Event(Kind.RECEIVED, tail, True, tail, 0xFFFF, tail, os.urandom(4))
            for _ in range(BLOCKS * BLOCK_EVENTS)
        ]
    )


def long_history(leaf: bytes) -> HistoryTree:
    """A million leaves, with *leaf* in the middle, where the path is longest."""
    tree = HistoryTree()
    others = leaf_hash(b"another segment")
    for index in range(LEAVES):
        tree.append(leaf if index == MIDDLE else others)
    return tree


def schedule_at(epoch: int) -> Schedule:
    schedule = Schedule.begin(USER, UUID)
    while schedule.epoch < epoch:
        schedule.evolve()
    return schedule


def test_a_proof_is_under_4_kb_throughout_the_first_batch() -> None:
    segment = full_segment()
    root = event_root(segment)
    history = long_history(leaf_hash(root))
    schedule = schedule_at(EPOCHS - 1)

    head = json.dumps({"recording": UUID, "size": LEAVES, "root": encode_bytes(history.root())}).encode()
    block = block_of(segment, segment.count - 1)
    path = history.inclusion(MIDDLE)
    signature = schedule.sign("head", head)
    proof = json.dumps(
        {
            "block": block.to_json(),
            "history": {"index": MIDDLE, "size": LEAVES, "path": encode_bytes(b"".join(path))},
            "signature": signature.to_json(),
            "certificates": [json.loads(each) for each in schedule.certificates],
        },
        separators=(",", ":"),
    )

    assert verify_block(block, segment.count, root)
    assert verify_inclusion(leaf_hash(root), MIDDLE, LEAVES, path, history.root())
    batches = verify_certificates(schedule.certificates, USER.public, UUID)
    verify_epoch_signature("head", head, signature, batches)
    assert (len(block.path), len(path), len(signature.path)) == (11, 20, (EPOCHS - 1).bit_length())
    assert len(block.contents) == BLOCK_EVENTS * (32 + 32)
    assert len(proof) < BAR


def test_a_further_batch_adds_one_certificate_and_nothing_else() -> None:
    before, after = schedule_at(EPOCHS - 1), schedule_at(EPOCHS)

    signatures = [json.dumps(each.sign("head", b"").to_json()) for each in (before, after)]

    assert len(signatures[0]) == len(signatures[1])
    assert [len(each.certificates) for each in (before, after)] == [1, 2]
    assert all(len(each) < 600 for each in after.certificates)
