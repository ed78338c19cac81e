from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import SealError
from revirt.log.events import Event, Kind
from revirt.log.rows import Rows, rows_of
from revirt.log.strict_json import write_canonical
from revirt.seal.blocks import block_of, event_root
from revirt.seal.fields import encode_bytes
from revirt.seal.heads import HEAD_TYPE, Head
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import Leaf, LeafKind
from revirt.seal.merkle import HistoryTree
from revirt.seal.proofs import FORM, PROOF_LIMIT, EventProof
from revirt.seal.schedule import Schedule

USER, MALLORY = (PrivateKey.from_raw(bytes([number] * 32)) for number in (1, 2))
UUID = "11111111-2222-3333-4444-555555555555"
FIRST = 100
EVENTS = [
    Event(Kind.TRANSMITTED, number, False, 0x7C00, data=b"line %d" % number)
    if number % 3
    else Event(Kind.INTERRUPT, number, True, 0x7C00, 7, 48)
    for number in range(10)
]
"""Events number 100 to 109: of every three, the first is an interrupt."""


def made(ordinal: int, leaf: Leaf | None = None, schedule: Schedule | None = None) -> EventProof:
    """The proof of one of EVENTS, which are the third of five leaves."""
    rows = rows_of(EVENTS)
    leaf = leaf or Leaf(LeafKind.EVENTS, FIRST, len(EVENTS), event_root(rows))
    tree = HistoryTree()
    for each in (bytes([1] * 32), bytes([2] * 32), leaf.hash, bytes([3] * 32), bytes([4] * 32)):
        tree.append(each)
    schedule = schedule or Schedule.begin(USER, UUID, epochs=4, seed=bytes(32))
    head = Head(UUID, bytes(32), 5, tree.root(), 120, "2026-11-21T12:00:00+00:00", True, None)
    return EventProof(
        UUID,
        tuple(schedule.certificates),
        schedule.seal(HEAD_TYPE, head.to_payload()),
        2,
        leaf.pack(),
        tuple(tree.inclusion(2)),
        block_of(rows, ordinal - FIRST),
        ordinal,
        EVENTS[ordinal - FIRST].data or None,
    )


PROOF = made(104)


# -- what is proven ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordinal", range(FIRST, FIRST + len(EVENTS)))
def test_every_event_is_proven_by_what_json_brings(ordinal: int) -> None:
    proven = EventProof.from_json(made(ordinal).to_json()).verify(USER.public)

    assert proven.event == EVENTS[ordinal - FIRST]
    assert (proven.recording, proven.ordinal, proven.epoch) == (UUID, ordinal, 0)
    assert proven.data == proven.event.data
    assert proven.size == len(proven.event.data)
    assert proven.head.events == 120


def test_a_proof_is_json_that_comes_back_as_it_was() -> None:
    again = EventProof.from_json(PROOF.to_json())

    assert again == PROOF
    assert again.to_json() == PROOF.to_json()
    assert json.loads(PROOF.to_json())["form"] == FORM


def test_whitespace_and_order_are_nobodys_business() -> None:
    shown = json.dumps(dict(reversed(json.loads(PROOF.to_json()).items())), indent=4).encode()

    assert EventProof.from_json(shown).verify(USER.public).event == EVENTS[4]


def test_the_bearer_may_keep_the_data() -> None:
    proven = EventProof.from_json(replace(PROOF, data=None).to_json()).verify(USER.public)

    assert proven.data is None
    assert proven.size == len(b"line 4")
    assert proven.event == EVENTS[4]._replace(data=b"")


def test_the_data_of_neighbours_is_not_shown() -> None:
    shown = PROOF.to_json().decode()

    assert encode_bytes(b"line 4") in shown
    assert encode_bytes(b"line 5") not in shown
    assert encode_bytes(b"line 7") not in shown


# -- what proves nothing ----------------------------------------------------------------------------------------


def other_leaf(**changes: Any) -> EventProof:
    leaf = Leaf(LeafKind.EVENTS, FIRST, len(EVENTS), event_root(rows_of(EVENTS)))
    return made(104, leaf=replace(leaf, **changes))


@pytest.mark.parametrize(
    ("proof", "problem"),
    [
        (replace(PROOF, recording="another"), f"certificate 0 is of recording {UUID}, not of another"),
        (replace(PROOF, certificates=()), "no certificate"),
        (replace(PROOF, head=PROOF.certificates[0]), "an envelope of the type"),
        (replace(PROOF, index=1), "the leaf is not in the tree"),
        (replace(PROOF, index=5), "the leaf is not in the tree"),
        (replace(PROOF, path=PROOF.path[1:]), "the leaf is not in the tree"),
        (replace(PROOF, path=PROOF.path[::-1]), "the leaf is not in the tree"),
        (replace(PROOF, leaf=Leaf(LeafKind.EVENTS, 0, 1, bytes(32)).pack()), "the leaf is not in the tree"),
        (replace(PROOF, leaf=b"\7" + PROOF.leaf[1:]), "a leaf of the unknown kind 7"),
        (other_leaf(kind=LeafKind.CHECKPOINT), "the leaf is not about events"),
        (other_leaf(detail=4), "the block is not one of the leaf's"),
        (other_leaf(digest=bytes(32)), "the block is not one of the leaf's"),
        (other_leaf(number=0), "event 104 is not in the leaf"),
        (other_leaf(number=105), "event 104 is not in the leaf"),
        (replace(PROOF, block=made(108).block, ordinal=104), "event 4 is not in block 2"),
        (replace(PROOF, ordinal=108), "event 8 is not in block 1"),
        (replace(PROOF, ordinal=99), "event 99 is not in the leaf"),
        (replace(PROOF, ordinal=110), "event 110 is not in the leaf"),
        (replace(PROOF, data=b"line 5"), "the data is not that of the event"),
        (replace(PROOF, data=b""), "the data is not that of the event"),
        (replace(made(103), data=b""), "the data is not that of the event"),
        (replace(made(103), data=b"x"), "the data is not that of the event"),
    ],
)
def test_a_proof_that_does_not_hold_is_refused(proof: EventProof, problem: str) -> None:
    with pytest.raises(SealError, match=problem):
        proof.verify(USER.public)


def test_a_proof_for_another_user_is_refused() -> None:
    with pytest.raises(SealError, match="certificate 0: an envelope without a valid signature"):
        PROOF.verify(MALLORY.public)


def test_an_event_of_a_kind_that_there_is_not_is_refused() -> None:
    row = rows_of([EVENTS[0]]).rows
    rows = Rows(b"\xee" + row[1:], b"")
    leaf = Leaf(LeafKind.EVENTS, FIRST, 1, event_root(rows))
    proof = replace(made(100, leaf=leaf), block=block_of(rows, 0))

    with pytest.raises(SealError, match="an event of the unknown kind 238"):
        proof.verify(USER.public)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.pop(name)


def put(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.update({name: value})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put("form", "x"), "a proof of the form 'x'; this revirt knows"),
        (without("form"), "proof: 'form' is missing"),
        (put("certificates", {}), "proof: 'certificates' is missing or not a list"),
        (put("certificates", [1] * 1025), "a proof with 1025 certificates"),
        (put("head", []), "proof: 'head' is missing or not an object"),
        (put("leaf", None), "proof: 'leaf' is missing or not an object"),
        (lambda values: values["leaf"].update(index=-1), "proof: leaf: 'index' is out of range"),
        (lambda values: values["leaf"].update(index=1 << 62), "proof: leaf: 'index' is out of range"),
        (lambda values: values["leaf"].update(contents="AAAA"), "'contents' is 3 bytes, not 56"),
        (lambda values: values["leaf"].update(path="?"), "proof: leaf: 'path' is not base64"),
        (lambda values: values["block"].update(rows=None), "block: 'rows' is missing"),
        (put("event", -1), "proof: 'event' is out of range"),
        (put("event", 1 << 64), "proof: 'event' is out of range"),
        (put("data", 5), "proof: 'data' is missing or not text"),
        (put("data", "x"), "proof: 'data' is not base64"),
    ],
)
def test_what_is_no_proof_is_refused(change: Callable[[dict[str, Any]], object], problem: str) -> None:
    values = json.loads(PROOF.to_json())
    change(values)

    with pytest.raises(SealError, match=problem):
        EventProof.from_json(write_canonical(values))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "proof is not JSON"),
        (b"[]", "proof is not a JSON object"),
        (b"[" * 100_000, "proof is not JSON"),
        (b'{"certificates": [1e999]}', "1e999 is too large a number"),
        (b'{"certificates": ' + b"[" * 32 + b"]" * 32 + b"}", "more than 32 levels"),
        (b" " * (PROOF_LIMIT + 1), f"none has more than {PROOF_LIMIT}"),
    ],
)
def test_what_is_not_even_json_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(SealError, match=problem):
        EventProof.from_json(data)


@pytest.mark.parametrize("name", ["head", "certificates"])
def test_nesting_of_any_depth_is_refused_cleanly(name: str) -> None:
    for depth in (*range(900, 1000), 100_000):
        inner = '{"a":' * depth + "1" + "}" * depth
        value = inner if name == "head" else f"[{inner}]"
        values = {**json.loads(PROOF.to_json()), name: "HERE"}

        with pytest.raises(SealError):
            EventProof.from_json(json.dumps(values).replace('"HERE"', value).encode()).verify(USER.public)


@given(st.data())
def test_whatever_is_done_to_a_proof_nothing_else_is_proven(data: st.DataObject) -> None:
    damaged = bytearray(PROOF.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        proven = EventProof.from_json(bytes(damaged)).verify(USER.public)
    except SealError:
        return
    assert (proven.recording, proven.ordinal) == (UUID, 104)
    assert proven.event in (EVENTS[4], EVENTS[4]._replace(data=b""))
