from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import SealError
from revirt.seal import dsse
from revirt.seal.keys import PrivateKey, PublicKey

TYPE = "http://example.com/HelloWorld"
PAYLOAD = b"hello world"
ALICE, BOB = (PrivateKey.from_raw(bytes([number] * 32)) for number in (1, 2))
ENVELOPE = json.loads(dsse.sign(TYPE, PAYLOAD, [ALICE]))


def envelope(**changes: Any) -> bytes:
    return json.dumps({**ENVELOPE, **changes}).encode()


def signature(**changes: Any) -> bytes:
    return envelope(signatures=[{**ENVELOPE["signatures"][0], **changes}])


def test_what_is_signed_is_the_example_of_the_specification() -> None:
    # protocol.md, "Test Vectors".
    assert dsse.pre_authentication(TYPE, PAYLOAD) == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_sizes_are_of_bytes_not_of_characters() -> None:
    assert dsse.pre_authentication("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_the_envelope_of_the_specification_is_read() -> None:
    # protocol.md, "Test Vectors"; its signature is of another kind of key.
    text = (
        b'{"payload": "aGVsbG8gd29ybGQ=",\n "payloadType": "http://example.com/HelloWorld",\n "signatures": [{"sig":'
        b' "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}'
    )

    parsed = dsse.Envelope.parse(text, TYPE)

    assert [(len(each.value), each.key_id) for each in parsed.signatures] == [(64, "")]
    with pytest.raises(SealError, match="without a valid signature"):
        parsed.verify([ALICE.public])


def test_a_payload_comes_back_with_the_keys_that_signed_it() -> None:
    data = dsse.sign(TYPE, PAYLOAD, [ALICE, BOB])
    carol = PrivateKey.from_raw(bytes([3] * 32)).public

    assert dsse.verify(data, TYPE, [BOB.public, carol]) == dsse.Verified(PAYLOAD, (BOB.public,))
    assert dsse.verify(data, TYPE, [ALICE.public, BOB.public]).keys == (ALICE.public, BOB.public)


def test_a_key_that_is_given_twice_counts_once() -> None:
    data = dsse.sign(TYPE, PAYLOAD, [ALICE, ALICE])

    assert dsse.verify(data, TYPE, [ALICE.public, PublicKey(ALICE.public.raw)]).keys == (ALICE.public,)


def test_a_signature_without_key_id_is_tried_with_every_key() -> None:
    data = signature(keyid="")

    assert dsse.verify(data, TYPE, [BOB.public, ALICE.public]).keys == (ALICE.public,)


def test_an_envelope_may_be_printed_otherwise() -> None:
    pretty = json.dumps({"note": 1, **ENVELOPE}, indent=4).encode()

    assert dsse.verify(pretty, TYPE, [ALICE.public]).payload == PAYLOAD


def test_base64_may_be_of_either_alphabet() -> None:
    payload = bytes(range(256))
    plain = json.loads(dsse.sign(TYPE, payload, [ALICE]))
    (made,) = plain["signatures"]
    other = {
        **plain,
        "payload": urlsafe_b64encode(payload).decode(),
        "signatures": [{**made, "sig": made["sig"].translate(str.maketrans("+/", "-_"))}],
    }

    assert other["payload"] != plain["payload"]
    assert dsse.verify(json.dumps(other).encode(), TYPE, [ALICE.public]).payload == payload


@pytest.mark.parametrize(
    "data",
    [
        envelope(payload=b64encode(b"hello world!").decode()),
        signature(sig=b64encode(bytes(64)).decode()),
        signature(sig=""),
        signature(keyid=BOB.key_id),
        dsse.sign(TYPE, PAYLOAD, [BOB]),
    ],
    ids=["payload", "signature", "no signature", "key id", "key"],
)
def test_what_was_not_signed_so_is_refused(data: bytes) -> None:
    with pytest.raises(SealError, match="without a valid signature of a key that is trusted"):
        dsse.verify(data, TYPE, [ALICE.public])


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    with pytest.raises(SealError, match="HelloWorld', where 'text/plain' belongs"):
        dsse.verify(envelope(), "text/plain", [ALICE.public])
    with pytest.raises(SealError, match="without a valid signature"):
        dsse.verify(envelope(payloadType="text/plain"), "text/plain", [ALICE.public])


def test_nothing_is_trusted_where_no_key_is() -> None:
    with pytest.raises(SealError, match="without a valid signature"):
        dsse.verify(envelope(), TYPE, [])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"payload": NaN}', "NaN is not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"payloadType": "a", "payloadType": "b"}', "twice"),
        (b"{}", "'payloadType' is missing or not text"),
        (b" " * (dsse.ENVELOPE_LIMIT + 1), "none has more than"),
        (envelope(payloadType=7), "'payloadType' is missing or not text"),
        (envelope(payloadType="\ud800"), "not Unicode"),
        (envelope(payload=None), "'payload' is missing or not text"),
        (envelope(payload="aGVsbG8gd29ybGQ"), "not base64"),
        (envelope(payload="aGVsbG8gd29ybGR="), "not base64 as its bytes have it"),
        (envelope(payload="aGVsbG8g\nd29ybGQ="), "not base64"),
        (envelope(payload="aGVsbG8gd29ybGQ=="), "not base64"),
        (envelope(payload="é"), "not base64"),
        (envelope(signatures={}), "'signatures' is missing or not a list"),
        (envelope(signatures=[]), "0 signatures"),
        (envelope(signatures=[ENVELOPE["signatures"][0]] * 17), "17 signatures"),
        (envelope(signatures=["x"]), "not an object"),
        (envelope(signatures=[{}]), "'sig' is missing or not text"),
        (signature(sig=5), "'sig' is missing or not text"),
        (signature(keyid=None), "'keyid' is missing or not text"),
        (signature(extension=[]), "'extension' is missing or not an object"),
        (signature(extension={"kind": "a"}), "'ext' is missing or not an object"),
        (signature(extension={"ext": {}}), "'kind' is missing or not text"),
    ],
)
def test_malformed_envelopes_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(SealError, match=problem):
        dsse.verify(data, TYPE, [ALICE.public])


@given(st.data())
def test_whatever_is_done_to_an_envelope_no_other_payload_comes_out(data: st.DataObject) -> None:
    damaged = bytearray(dsse.sign(TYPE, PAYLOAD, [ALICE, BOB]))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        verified = dsse.verify(bytes(damaged), TYPE, [ALICE.public, BOB.public])
    except SealError:
        return
    assert verified.payload == PAYLOAD


def test_an_envelope_that_no_reader_would_take_is_not_made() -> None:
    with pytest.raises(ValueError, match="0 signatures"):
        dsse.sign(TYPE, PAYLOAD, [])
    with pytest.raises(ValueError, match="an envelope of"):
        dsse.sign(TYPE, bytes(dsse.ENVELOPE_LIMIT), [ALICE])
