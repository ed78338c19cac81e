from __future__ import annotations

import json
import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import SealError
from revirt.log.events import Event, Kind
from revirt.log.rows import Rows, rows_of
from revirt.seal.blocks import Block, block_of, event_root, verify_block


def events_of(count: int, *, every: int = 3) -> list[Event]:
    """Events of which each *every*-th carries data."""
    return [
        Event(
            Kind.TRANSMITTED, number, False, 4096, 7, 48, b"line %d" % number if number % every == 0 else b""
        )
        for number in range(count)
    ]


def test_the_root_is_the_one_that_the_format_describes() -> None:
    events = events_of(7)

    def row(number: int) -> bytes:
        size = len(b"line %d" % number) if number % 3 == 0 else 0
        return struct.pack("<BBHIQQQ", 3, 0, 7, size, number, 4096, 48)

    digests = [sha256(b"line %d" % number).digest() for number in (0, 3, 6)]
    first = sha256(b"\0" + row(0) + row(1) + row(2) + row(3) + digests[0] + digests[1]).digest()
    second = sha256(b"\0" + row(4) + row(5) + row(6) + digests[2]).digest()

    assert event_root(rows_of(events)) == sha256(b"\1" + first + second).digest()


def test_a_segment_of_one_block_has_that_as_its_root() -> None:
    rows = rows_of([Event(Kind.END, 1, True, 2, 3, 4, b"halted")])

    assert event_root(rows) == sha256(b"\0" + rows.rows + sha256(b"halted").digest()).digest()


@pytest.mark.parametrize("every", [1, 3, 1000])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 100])
def test_every_event_can_be_proven(count: int, every: int) -> None:
    events = events_of(count, every=every)
    rows = rows_of(events)
    root = event_root(rows)

    for index, event in enumerate(events):
        block = Block.from_json(json.loads(json.dumps(block_of(rows, index).to_json())))

        assert verify_block(block, count, root)
        row, digest = block.event(index)
        assert row == rows_of([event]).rows
        assert digest == (sha256(event.data).digest() if event.data else None)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 60), st.binary(max_size=40)), min_size=1, max_size=60), st.data()
)
def test_any_change_of_an_event_changes_the_root(
    contents: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    events = [Event(Kind.RECEIVED, branches, False, 0, data=text) for branches, text in contents]
    index = data.draw(st.integers(0, len(events) - 1))
    changed = list(events)
    changed[index] = data.draw(
        st.sampled_from(
            [
                events[index]._replace(pc=1),
                events[index]._replace(halted=True),
                events[index]._replace(data=events[index].data + b"!"),
                events[index]._replace(kind=Kind.TRANSMITTED),
            ]
        )
    )

    assert event_root(rows_of(changed)) != event_root(rows_of(events))


def test_data_cannot_move_from_one_event_to_the_next() -> None:
    one = [Event(Kind.RECEIVED, 1, False, 0, data=data) for data in (b"ab", b"c")]
    other = [Event(Kind.RECEIVED, 1, False, 0, data=data) for data in (b"a", b"bc")]

    assert event_root(rows_of(one)) != event_root(rows_of(other))


def test_a_proof_that_is_changed_is_refused() -> None:
    rows = rows_of(events_of(100, every=1))
    root = event_root(rows)
    block = block_of(rows, 40)

    assert verify_block(block, 100, root)
    assert not verify_block(replace(block, index=1), 100, root)
    assert not verify_block(replace(block, index=-1), 100, root)
    assert not verify_block(replace(block, index=25), 100, root)
    assert not verify_block(replace(block, rows=b"\4" + block.rows[1:]), 100, root)
    assert not verify_block(replace(block, rows=block.rows[:-32]), 100, root)
    assert not verify_block(replace(block, rows=block.rows[:-1]), 100, root)
    assert not verify_block(replace(block, digests=block.digests[1:]), 100, root)
    assert not verify_block(replace(block, digests=block.digests[::-1]), 100, root)
    assert not verify_block(replace(block, path=block.path[1:]), 100, root)
    assert not verify_block(block, 30, root)
    assert not verify_block(block, 42, root)
    assert not verify_block(block, 100, bytes(32))


def test_a_hash_cannot_pass_for_a_row() -> None:
    # The last block is the only one whose length says nothing: its bytes split once more would be 3 rows, no hash.
    events = [Event(Kind.RECEIVED, 1, False, 0), Event(Kind.RECEIVED, 2, False, 0, data=b"x")]
    rows = rows_of(events)
    block = block_of(rows, 0)

    forged = replace(block, rows=block.rows + block.digests[0], digests=())

    assert forged.contents == block.contents
    assert verify_block(block, 2, event_root(rows))
    assert not verify_block(forged, 3, event_root(rows))


def test_a_row_cannot_pass_for_a_hash() -> None:
    rows = rows_of([Event(Kind.RECEIVED, 1, False, 0), Event(Kind.RECEIVED, 2, False, 0)])
    block = block_of(rows, 0)

    forged = replace(block, rows=block.rows[:32], digests=(block.rows[32:],))

    assert forged.contents == block.contents
    assert not verify_block(forged, 1, event_root(rows))


def test_an_event_of_another_block_is_refused() -> None:
    block = block_of(rows_of(events_of(40, every=2)), 20)

    with pytest.raises(ValueError, match="event 19 is not in block 5"):
        block.event(19)
    with pytest.raises(ValueError, match="event 24 is not in block 5"):
        block.event(24)
    with pytest.raises(SealError, match="block 5 has 0 hashes for 2 events with data"):
        replace(block, digests=()).event(20)


@pytest.mark.parametrize("index", [-1, 40])
def test_an_event_that_is_not_there_has_no_block(index: int) -> None:
    with pytest.raises(ValueError, match=f"no event {index} in a segment of 40"):
        block_of(rows_of(events_of(40)), index)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (Rows(bytes(31), b""), "31 bytes of rows"),
        (Rows(bytes(32), b"x"), "1 bytes of data where the rows say 0"),
        (Rows(struct.pack("<BBHIQQQ", 2, 0, 0, 5, 0, 0, 0), b"abc"), "3 bytes of data where the rows say 5"),
    ],
)
def test_rows_and_data_that_do_not_fit_are_refused(rows: Rows, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        event_root(rows)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"index": -1}, "'index' is out of range"),
        ({"index": 1 << 32}, "'index' is out of range"),
        ({"index": True}, "'index' is missing or not a whole number"),
        ({"rows": None}, "'rows' is missing or not text"),
        ({"rows": "!"}, "'rows' is not base64"),
        ({"digests": "AAAA"}, "'digests' is 3 bytes, which are no hashes"),
        ({"path": "AAAA"}, "'path' is 3 bytes, which are no hashes"),
    ],
)
def test_a_malformed_block_is_refused(change: dict[str, object], problem: str) -> None:
    values = block_of(rows_of(events_of(40)), 20).to_json()

    with pytest.raises(SealError, match=problem):
        Block.from_json({**values, **change})
