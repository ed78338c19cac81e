from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import SealError
from revirt.log.strict_json import write_canonical
from revirt.seal.epochs import verify_certificates
from revirt.seal.heads import (
    END_TYPE,
    HEAD_TYPE,
    End,
    Evicted,
    Head,
    SignedEnd,
    SignedHead,
    open_end,
    open_head,
)
from revirt.seal.keys import PrivateKey
from revirt.seal.schedule import Schedule

USER, MALLORY = (PrivateKey.from_raw(bytes([number] * 32)) for number in (1, 2))
UUID = "11111111-2222-3333-4444-555555555555"
EVICTED = Evicted(4, 2, 1, 17, 1, 1_000, 10_000)
HEAD = Head(UUID, bytes(32), 9, bytes([1] * 32), 36, "2026-11-21T12:00:00+00:00", True, EVICTED)
END = End(UUID, 9, bytes([1] * 32), "complete", {"reason": "powered off", "events": 36})


def schedule_at(epoch: int, key: PrivateKey = USER) -> Schedule:
    schedule = Schedule.begin(key, UUID, epochs=4, seed=bytes([9] * 32))
    while schedule.epoch < epoch:
        schedule.evolve()
    return schedule


SCHEDULE = schedule_at(5)
BATCHES = verify_certificates(SCHEDULE.certificates, USER.public, UUID)


def changed(payload: bytes, **changes: Any) -> bytes:
    """*payload* with other fields; those that are ... are left out."""
    values = {**json.loads(payload), **changes}
    return write_canonical({name: value for name, value in values.items() if value is not ...})


# -- what is signed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [HEAD, replace(HEAD, evicted=None, final=False)])
def test_a_head_survives_its_envelope(head: Head) -> None:
    envelope = SCHEDULE.seal(HEAD_TYPE, head.to_payload())

    assert open_head(envelope, BATCHES) == SignedHead(head, 5)


def test_an_end_survives_its_envelope() -> None:
    assert open_end(SCHEDULE.seal(END_TYPE, END.to_payload()), BATCHES) == SignedEnd(END, 5)


def test_a_head_is_json_with_the_fields_that_the_format_describes() -> None:
    payload = HEAD.to_payload()

    assert list(json.loads(payload)) == sorted(each.name for each in fields(Head))
    assert json.loads(payload)["evicted"] == asdict(EVICTED)
    assert payload.isascii()
    assert b" " not in payload.replace(b"powered off", b"")


@pytest.mark.parametrize("name", [each.name for each in fields(Head)])
def test_everything_in_a_head_is_signed(name: str) -> None:
    others = {
        **dict.fromkeys(("leaves", "events"), 8),
        **dict.fromkeys(("subject", "root"), "A" * 43 + "="),
        "recording": "another",
        "time": "2026-11-21T12:00:01+00:00",
        "final": False,
        "evicted": None,
    }
    others["subject"] = "AQ" + "A" * 41 + "="
    envelope = json.loads(SCHEDULE.seal(HEAD_TYPE, HEAD.to_payload()))
    other = json.loads(SCHEDULE.seal(HEAD_TYPE, changed(HEAD.to_payload(), **{name: others[name]})))

    assert envelope["payload"] != other["payload"]
    with pytest.raises(SealError, match="without a valid signature"):
        open_head(json.dumps({**envelope, "payload": other["payload"]}).encode(), BATCHES)


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"leaves": -1}, "head: 'leaves' is out of range"),
        ({"leaves": 1 << 62}, "head: 'leaves' is out of range"),
        ({"leaves": 9.0}, "head: 'leaves' is missing or not a whole number"),
        ({"leaves": True}, "head: 'leaves' is missing or not a whole number"),
        ({"events": 1 << 64}, "head: 'events' is out of range"),
        ({"root": "AAAA"}, "head: 'root' is 3 bytes, not 32"),
        ({"subject": ...}, "head: 'subject' is missing or not text"),
        ({"recording": None}, "head: 'recording' is missing or not text"),
        ({"time": "noon"}, "head: Invalid isoformat string: 'noon'"),
        ({"final": 1}, "head: 'final' is missing or not true or false"),
        ({"final": ...}, "head: 'final' is missing or not true or false"),
        ({"evicted": []}, "head: 'evicted' is missing or not an object"),
        ({"evicted": {}}, "head: evicted: 'leaf' is missing"),
        ({"evicted": {**asdict(EVICTED), "guest_ns": -1}}, "head: evicted: 'guest_ns' is out of range"),
        ({"evicted": {**asdict(EVICTED), "more": 1}}, "head: not as revirt writes one"),
        ({"evicted": ...}, "head: not as revirt writes one"),
        ({"more": 1}, "head: not as revirt writes one"),
    ],
)
def test_what_is_no_head_is_refused_though_it_is_signed(changes: dict[str, Any], problem: str) -> None:
    envelope = SCHEDULE.seal(HEAD_TYPE, changed(HEAD.to_payload(), **changes))

    with pytest.raises(SealError, match=problem):
        open_head(envelope, BATCHES)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"leaves": 1 << 62}, "end: 'leaves' is out of range"),
        ({"root": ""}, "end: 'root' is 0 bytes, not 32"),
        ({"state": 1}, "end: 'state' is missing or not text"),
        ({"end": None}, "end: 'end' is missing or not an object"),
        ({"recording": ...}, "end: 'recording' is missing"),
        ({"more": 1}, "end: not as revirt writes one"),
    ],
)
def test_what_is_no_end_is_refused_though_it_is_signed(changes: dict[str, Any], problem: str) -> None:
    envelope = SCHEDULE.seal(END_TYPE, changed(END.to_payload(), **changes))

    with pytest.raises(SealError, match=problem):
        open_end(envelope, BATCHES)


@pytest.mark.parametrize("write", [json.dumps, lambda values: json.dumps(values, indent=1, sort_keys=True)])
def test_no_other_form_of_a_head_is_taken(write: Callable[[Any], str]) -> None:
    other = write(json.loads(HEAD.to_payload())).encode()

    with pytest.raises(SealError, match="head: not as revirt writes one"):
        Head.from_payload(other)


def test_statements_of_another_recording_are_refused() -> None:
    head = replace(HEAD, recording="another").to_payload()
    end = replace(END, recording="another").to_payload()

    with pytest.raises(SealError, match=f"of recording another, not of {UUID}"):
        open_head(SCHEDULE.seal(HEAD_TYPE, head), BATCHES)
    with pytest.raises(SealError, match=f"of recording another, not of {UUID}"):
        open_end(SCHEDULE.seal(END_TYPE, end), BATCHES)


def test_one_statement_does_not_pass_for_the_other() -> None:
    with pytest.raises(SealError, match=f"an envelope of the type '{HEAD_TYPE}'".replace("+", r"\+")):
        open_end(SCHEDULE.seal(HEAD_TYPE, HEAD.to_payload()), BATCHES)
    with pytest.raises(SealError, match=f"an envelope of the type '{END_TYPE}'".replace("+", r"\+")):
        open_head(SCHEDULE.seal(END_TYPE, END.to_payload()), BATCHES)


def test_statements_by_keys_that_the_user_did_not_certify_are_refused() -> None:
    stranger = Schedule.begin(MALLORY, UUID, epochs=4)

    with pytest.raises(SealError, match="epoch 0: the key is not the one that was certified"):
        open_head(stranger.seal(HEAD_TYPE, HEAD.to_payload()), BATCHES)


@given(st.binary(max_size=300))
def test_whatever_comes_is_refused(data: bytes) -> None:
    for read in (Head.from_payload, End.from_payload):
        with pytest.raises(SealError):
            read(data)
    with pytest.raises(SealError):
        open_head(data, BATCHES)
