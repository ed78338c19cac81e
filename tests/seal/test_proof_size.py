"""The proof of one event, as large as it gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

from revirt.log.columns import MAX_EVENTS
from revirt.log.events import Event, Kind
from revirt.log.rows import Rows, rows_of
from revirt.seal.blocks import BLOCK_EVENTS, block_of, event_root
from revirt.seal.heads import HEAD_TYPE, Evicted, Head
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import Leaf, LeafKind
from revirt.seal.merkle import HistoryTree, leaf_hash
from revirt.seal.proofs import EventProof
from revirt.seal.schedule import EPOCHS, Schedule

USER = PrivateKey.from_raw(bytes(32))
UUID = "11111111-2222-3333-4444-555555555555"
LEAVES = 1_000_000
MIDDLE = LEAVES // 2
LARGE = (1 << 48) - 1
"""A number that a recording of years does not reach."""
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


def test_a_proof_without_data_is_under_4_kb_throughout_the_first_batch() -> None:
    segment = full_segment()
    leaf = Leaf(LeafKind.EVENTS, LARGE, segment.count, event_root(segment))
    history = long_history(leaf.hash)
    evicted = Evicted(MIDDLE - 100, EPOCHS - 1, LARGE & 0xFFFFFFFF, LARGE, LARGE & 0xFFFFFFFF, LARGE, LARGE)
    head = Head(
        UUID, bytes(32), LEAVES, history.root(), 2 * LARGE, "2026-11-21T12:00:00+00:00", False, evicted
    )
    schedule = schedule_at(EPOCHS - 1)

    proof = EventProof(
        UUID,
        tuple(schedule.certificates),
        schedule.seal(HEAD_TYPE, head.to_payload()),
        MIDDLE,
        leaf.pack(),
        tuple(history.inclusion(MIDDLE)),
        block_of(segment, segment.count - 1),
        LARGE + segment.count - 1,
        None,
    )

    assert proof.verify(USER.public).event.pc == (1 << 63) - 1
    assert len(proof.certificates) == 1
    assert len(proof.block.contents) == BLOCK_EVENTS * (32 + 32)
    assert len(proof.to_json()) < BAR, len(proof.to_json())


def test_the_page_says_how_large() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sealing.md").read_text()
    text = page.partition("## How large a proof is\n")[2]

    assert f"under {BAR:,} bytes" in text
    assert f"a segment of {MAX_EVENTS:,} events" in text
    assert f"a history of {LEAVES:,} leaves" in text


def test_a_further_batch_adds_one_certificate_and_nothing_else() -> None:
    before, after = schedule_at(EPOCHS - 1), schedule_at(EPOCHS)

    signatures = [json.dumps(each.sign("head", b"").to_json()) for each in (before, after)]

    assert len(signatures[0]) == len(signatures[1])
    assert [len(each.certificates) for each in (before, after)] == [1, 2]
    assert all(len(each) < 600 for each in after.certificates)
