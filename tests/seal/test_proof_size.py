"""Everything that the proof of one event is made of, as large as it gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

from revirt.log.columns import MAX_EVENTS
from revirt.log.events import Event, Kind
from revirt.log.rows import Rows, rows_of
from revirt.seal.blocks import BLOCK_EVENTS, block_of, event_root, verify_block
from revirt.seal.epochs import open_sealed, verify_certificates
from revirt.seal.fields import encode_bytes, write_json
from revirt.seal.keys import PrivateKey
from revirt.seal.merkle import HistoryTree, leaf_hash, verify_inclusion
from revirt.seal.schedule import EPOCHS, Schedule

USER = PrivateKey.from_raw(bytes(32))
UUID = "11111111-2222-3333-4444-555555555555"
LEAVES = 1_000_000
MIDDLE = LEAVES // 2
HEAD_TYPE = "application/vnd.revirt.head.v1+json"
HEAD_SIZE = 520
"""Bytes: the payload of a head, at most."""
BAR = 4096
"""Bytes: what a proof may have."""


def full_segment() -> Rows:
    """As many events as a segment may have, all with data, and numbers that take all their digits."""
    tail = (1 << 63) - 1
    event = Event(Kind.RECEIVED, tail, True, tail, 0xFFFF, tail)
    return rows_of([event._replace(data=os.urandom(4)) for _ in range(MAX_EVENTS)])


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

    head = history.root().hex().ljust(HEAD_SIZE).encode()
    block = block_of(segment, segment.count - 1)
    path = history.inclusion(MIDDLE)
    envelope = schedule.seal(HEAD_TYPE, head)
    proof = write_json(
        {
            "block": block.to_json(),
            "history": {"index": MIDDLE, "size": LEAVES, "path": encode_bytes(b"".join(path))},
            "head": json.loads(envelope),
            "certificates": [json.loads(each) for each in schedule.certificates],
        }
    )

    assert verify_block(block, segment.count, root)
    assert verify_inclusion(leaf_hash(root), MIDDLE, LEAVES, path, history.root())
    batches = verify_certificates(schedule.certificates, USER.public, UUID)
    assert open_sealed(envelope, HEAD_TYPE, batches).payload == head
    assert (len(block.path), len(path), len(batches)) == (14, 20, 1)
    assert len(block.contents) == BLOCK_EVENTS * (32 + 32)
    assert len(proof) < BAR


def test_a_further_batch_adds_one_certificate_and_nothing_else() -> None:
    before, after = schedule_at(EPOCHS - 1), schedule_at(EPOCHS)

    signatures = [json.dumps(each.sign("head", b"").to_json()) for each in (before, after)]

    assert len(signatures[0]) == len(signatures[1])
    assert [len(each.certificates) for each in (before, after)] == [1, 2]
    assert all(len(each) < 600 for each in after.certificates)


def test_the_page_says_which_proof_this_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sealing.md").read_text()
    text = text.partition("\n## How large a proof is\n")[2]

    assert BLOCK_EVENTS == 4
    assert text.startswith("\nFour events that all have data, ")
    for number in (MAX_EVENTS, LEAVES, HEAD_SIZE, BAR):
        assert f" {number:,} " in text
