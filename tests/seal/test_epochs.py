from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import SealError
from revirt.seal import dsse
from revirt.seal.epochs import (
    BATCH_TYPE,
    EPOCH_KIND,
    Batch,
    EpochSignature,
    open_sealed,
    verify_certificates,
    verify_epoch_signature,
)
from revirt.seal.keys import PrivateKey
from revirt.seal.schedule import Schedule

USER, MALLORY = (PrivateKey.from_raw(bytes([number] * 32)) for number in (1, 2))
UUID = "11111111-2222-3333-4444-555555555555"


def schedule_at(epoch: int, *, key: PrivateKey = USER, seed: int = 9) -> Schedule:
    schedule = Schedule.begin(key, UUID, epochs=4, seed=bytes([seed] * 32))
    while schedule.epoch < epoch:
        schedule.evolve()
    return schedule


SCHEDULE = schedule_at(9)
BATCHES = verify_certificates(SCHEDULE.certificates, USER.public, UUID)
SIGNATURE = SCHEDULE.sign("test", b"payload")
ENVELOPE = SCHEDULE.seal("test", b"payload")


def certificate(signer: PrivateKey = USER, **changes: Any) -> bytes:
    """The certificate of batch 0, with *changes*, signed again."""
    values = {**json.loads(BATCHES[0].to_payload()), **changes}
    payload = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    return dsse.sign(BATCH_TYPE, payload, [signer])


def test_a_certificate_says_what_it_is_about() -> None:
    (first, *_) = BATCHES

    assert (first.number, first.epochs, first.recording) == (0, 4, UUID)
    assert Batch.from_payload(first.to_payload()) == first


@pytest.mark.parametrize("epoch", [0, 3, 4, 9])
def test_a_signature_survives_json(epoch: int) -> None:
    signature = schedule_at(epoch).sign("test", b"payload")

    again = EpochSignature.from_json(json.loads(json.dumps(signature.to_json())))

    assert again == signature
    verify_epoch_signature("test", b"payload", again, BATCHES)


@pytest.mark.parametrize(
    ("payload_type", "payload", "signature", "problem"),
    [
        ("test", b"other", SIGNATURE, "epoch 9: the signature does not match"),
        ("other", b"payload", SIGNATURE, "epoch 9: the signature does not match"),
        ("test", b"payload", replace(SIGNATURE, signature=bytes(64)), "the signature does not match"),
        ("test", b"payload", replace(SIGNATURE, epoch=8), "epoch 8: the key is not the one"),
        ("test", b"payload", replace(SIGNATURE, epoch=5), "epoch 5: the key is not the one"),
        ("test", b"payload", replace(SIGNATURE, epoch=12), "epoch 12: no certificate reaches"),
        ("test", b"payload", replace(SIGNATURE, key=MALLORY.public.raw), "the key is not the one"),
        ("test", b"payload", replace(SIGNATURE, path=()), "the key is not the one"),
        ("test", b"payload", replace(SIGNATURE, path=SIGNATURE.path[::-1]), "the key is not the one"),
    ],
)
def test_a_signature_that_is_not_of_its_epoch_is_refused(
    payload_type: str, payload: bytes, signature: EpochSignature, problem: str
) -> None:
    with pytest.raises(SealError, match=problem):
        verify_epoch_signature(payload_type, payload, signature, BATCHES)


@pytest.mark.parametrize(
    ("certificates", "problem"),
    [
        ([], "no certificate"),
        (schedule_at(9, key=MALLORY).certificates, "certificate 0: an envelope without a valid signature"),
        (SCHEDULE.certificates[1:], "certificate 0: an envelope without a valid signature"),
        ([SCHEDULE.certificates[0], SCHEDULE.certificates[2]], "certificate 1: an envelope without a valid"),
        ([SCHEDULE.certificates[0]] * 2, "certificate 1: an envelope without a valid"),
        (
            [SCHEDULE.certificates[0], schedule_at(9, seed=8).certificates[1]],
            "certificate 1: an envelope without a valid",
        ),
        ([SCHEDULE.certificates[0], certificate(USER)], "certificate 1: an envelope without a valid"),
        ([certificate(batch=1)], "certificate 0 calls itself 1"),
        ([certificate(epochs=0)], "certificate 0 is for 0 epochs"),
        ([certificate(epochs=65_537)], "'epochs' is out of range"),
        ([certificate(epochs="4")], "'epochs' is missing or not a whole number"),
        ([certificate(recording="other")], "certificate 0 is of recording other, not of 1111"),
        ([certificate(root="AAAA")], "'root' is 3 bytes, not 32"),
        ([certificate(successor="")], "'successor' is 0 bytes, not 32"),
        ([certificate(time="yesterday")], "certificate: Invalid isoformat string: 'yesterday'"),
        ([certificate(more=1)], "not as revirt writes one"),
        ([dsse.sign(BATCH_TYPE, b"x", [USER])], "certificate 0: certificate is not JSON"),
        ([dsse.sign("text/plain", BATCHES[0].to_payload(), [USER])], "of the type 'text/plain'"),
        ([b"x"], "certificate 0: envelope is not JSON"),
    ],
)
def test_certificates_that_do_not_lead_to_the_user_are_refused(
    certificates: list[bytes], problem: str
) -> None:
    with pytest.raises(SealError, match=problem):
        verify_certificates(certificates, USER.public, UUID)


def test_a_later_batch_must_be_as_large_as_the_first() -> None:
    last = schedule_at(3)
    wrong = replace(BATCHES[1], epochs=8)
    signed = dsse.sign(BATCH_TYPE, wrong.to_payload(), [last._current_key()])

    with pytest.raises(SealError, match="certificate 1 is for 8 epochs"):
        verify_certificates([last.certificates[0], signed], USER.public, UUID)


def test_certificates_of_another_recording_are_refused() -> None:
    with pytest.raises(SealError, match=f"certificate 0 is of recording {UUID}, not of another"):
        verify_certificates(SCHEDULE.certificates, USER.public, "another")


def test_an_envelope_may_carry_a_second_signature() -> None:
    plain = json.loads(ENVELOPE)
    other = json.loads(dsse.sign("test", b"payload", [MALLORY]))
    plain["signatures"] = other["signatures"] + plain["signatures"]

    assert open_sealed(json.dumps(plain).encode(), "test", BATCHES).payload == b"payload"


def changed(**extension: Any) -> bytes:
    plain = json.loads(ENVELOPE)
    plain["signatures"][0]["extension"]["ext"].update(extension)
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (dsse.sign("test", b"payload", [USER]), "not signed by the key of an epoch"),
        (ENVELOPE.replace(EPOCH_KIND.encode(), b"other"), "not signed by the key of an epoch"),
        (changed(epoch=8), "epoch 8: the key is not the one"),
        (changed(epoch=-1), "'epoch' is out of range"),
        (changed(key=""), "'key' is 0 bytes, not 32"),
        (changed(path=b64encode(bytes(33)).decode()), "the key is not the one"),
        (changed(path=None), "'path' is missing or not text"),
        (
            ENVELOPE.replace(b64encode(b"payload"), b64encode(b"PAYLOAD")),
            "epoch 9: an envelope without a valid signature",
        ),
    ],
)
def test_an_envelope_that_no_epoch_signed_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(SealError, match=problem):
        open_sealed(data, "test", BATCHES)


@given(st.data())
def test_whatever_is_done_to_an_envelope_no_other_payload_comes_out(data: st.DataObject) -> None:
    damaged = bytearray(ENVELOPE)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        opened = open_sealed(bytes(damaged), "test", BATCHES)
    except SealError:
        return
    assert (opened.payload, opened.epoch) == (b"payload", 9)
