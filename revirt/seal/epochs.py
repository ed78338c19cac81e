"""Signatures of keys that were destroyed, checked with the one key that was kept apart.

A recording is signed with one key after the other, each for an *epoch*; `revirt.seal.schedule` makes them.  Epochs
come in batches of N.  The public keys of a batch are leaves of a tree, and a certificate names its root::

    leaf            number of the epoch u64 (in the whole recording, from 0), public key (32 bytes)
    certificate     DSSE, type application/vnd.revirt.batch.v1+json, of the payload
                      batch      number, from 0
                      epochs     N
                      recording  uuid
                      root       of the tree of the batch's keys
                      successor  public key that signs the certificate of the next batch
                      time       when it was made: ISO 8601, UTC
    signed by       batch 0: the user's key; batch n: the successor of batch n - 1
    signature       64 bytes, with the epoch's number, its public key, and the path from that to the root

Rules:
- What a signature says of itself (epoch, key, path) is believed only as far as certificates bear it out.
- Who has the key of an epoch can sign for it, whenever: that a signature holds says not when it was made.  A verifier
  that wants to know that yesterday stands wants yesterday's signatures, not one from today over both.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from revirt.errors import SealError
from revirt.log.strict_json import write_canonical
from revirt.seal import dsse
from revirt.seal.fields import check_written, encode_bytes, get, get_bytes, get_number, read_object
from revirt.seal.keys import KEY_SIZE, SIGNATURE_SIZE, PublicKey
from revirt.seal.merkle import HASH_SIZE, leaf_hash, verify_inclusion

BATCH_TYPE = "application/vnd.revirt.batch.v1+json"
"""Payload type of a certificate."""
EPOCH_KIND = "application/vnd.revirt.epoch.v1+json"
"""Kind of the extension that an epoch's signature has in an envelope."""
MAX_EPOCHS = 1 << 16
"""Most epochs in a batch."""

_LEAF = struct.Struct("<Q32s")
_CERTIFICATE_LIMIT = 16 << 10
_MAX_EPOCH = 1 << 64


@dataclass(frozen=True, slots=True)
class Batch:
    """What a certificate says: the fields that the module's docstring lists."""

    number: int
    epochs: int
    recording: str
    root: bytes
    successor: PublicKey
    time: str

    def to_payload(self) -> bytes:
        """Return the payload of the certificate."""
        return write_canonical(
            {
                "batch": self.number,
                "epochs": self.epochs,
                "recording": self.recording,
                "root": encode_bytes(self.root),
                "successor": encode_bytes(self.successor.raw),
                "time": self.time,
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Return the batch that `to_payload` made *payload* from; raises SealError."""
        values = read_object(payload, "certificate", _CERTIFICATE_LIMIT)
        batch = cls(
            get_number(values, "batch", "certificate", below=_MAX_EPOCH),
            get_number(values, "epochs", "certificate", below=MAX_EPOCHS + 1),
            get(values, "recording", str, "certificate"),
            get_bytes(values, "root", "certificate", size=HASH_SIZE),
            PublicKey(get_bytes(values, "successor", "certificate", size=KEY_SIZE)),
            get(values, "time", str, "certificate"),
        )
        check_written(payload, batch.to_payload(), batch.time, "certificate")
        return batch


@dataclass(frozen=True, slots=True)
class EpochSignature:
    """A signature by the key of an epoch: ``key`` is the public one, ``path`` leads from it to its batch's root."""

    epoch: int
    key: bytes
    path: tuple[bytes, ...]
    signature: bytes

    def to_json(self) -> dict[str, Any]:
        """Return the signature as JSON knows it."""
        return {**self._extension(), "sig": encode_bytes(self.signature)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the signature that `to_json` made *values* from; raises SealError."""
        return cls._of(values, get_bytes(values, "sig", "epoch signature", size=SIGNATURE_SIZE))

    def to_dsse(self) -> dsse.Signature:
        """Return the signature as one of an envelope."""
        return dsse.Signature(self.signature, "", EPOCH_KIND, self._extension())

    @classmethod
    def from_dsse(cls, signature: dsse.Signature) -> Self:
        """Return the signature that `to_dsse` made *signature* from, which is of `EPOCH_KIND`; raises SealError."""
        return cls._of(signature.extension or {}, signature.value)

    def _extension(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "key": encode_bytes(self.key),
            "path": encode_bytes(b"".join(self.path)),
        }

    @classmethod
    def _of(cls, values: dict[str, Any], signature: bytes) -> Self:
        what = "epoch signature"
        path = get_bytes(values, "path", what)
        return cls(
            get_number(values, "epoch", what, below=_MAX_EPOCH),
            get_bytes(values, "key", what, size=KEY_SIZE),
            tuple(path[at : at + HASH_SIZE] for at in range(0, len(path), HASH_SIZE)),
            signature,
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """What an envelope held that the key of ``epoch`` had signed."""

    payload: bytes
    epoch: int


def epoch_leaf(epoch: int, key: bytes) -> bytes:
    """Return the leaf, as its hash, of the public *key* of *epoch*."""
    return leaf_hash(_LEAF.pack(epoch, key))


def verify_certificates(certificates: Sequence[bytes], key: PublicKey, recording: str) -> tuple[Batch, ...]:
    """Return the batches of *recording* (its uuid) that *certificates* stand for, from batch 0.

    *key* is the user's.  Raises SealError if one is malformed, of another recording, out of turn, or not signed by
    who should have.
    """
    if not certificates:
        raise SealError("no certificate")
    batches: list[Batch] = []
    for number, certificate in enumerate(certificates):
        signer = batches[-1].successor if batches else key
        try:
            batch = Batch.from_payload(dsse.verify(certificate, BATCH_TYPE, [signer]).payload)
        except SealError as error:
            raise SealError(f"certificate {number}: {error}") from error
        _check_turn(batch, number, recording, batches[0] if batches else batch)
        batches.append(batch)
    return tuple(batches)


def verify_epoch_signature(
    payload_type: str, payload: bytes, signature: EpochSignature, batches: Sequence[Batch]
) -> None:
    """Check that *signature* over *payload* is that of its epoch; *batches* are from `verify_certificates`.

    Raises SealError if it is not.
    """
    key = _epoch_key(signature, batches)
    if not key.verify(dsse.pre_authentication(payload_type, payload), signature.signature):
        raise SealError(f"epoch {signature.epoch}: the signature does not match what it is said to sign")


def open_sealed(data: bytes, payload_type: str, batches: Sequence[Batch]) -> Opened:
    """Return what is in the envelope *data*, signed by the key of an epoch; *batches* as before.

    Raises SealError if it is malformed, of another type, or not signed so.
    """
    envelope = dsse.Envelope.parse(data, payload_type)
    made = next((each for each in envelope.signatures if each.kind == EPOCH_KIND), None)
    if made is None:
        raise SealError("an envelope that is not signed by the key of an epoch")
    signature = EpochSignature.from_dsse(made)
    key = _epoch_key(signature, batches)
    try:
        return Opened(envelope.verify([key]).payload, signature.epoch)
    except SealError as error:
        raise SealError(f"epoch {signature.epoch}: {error}") from error


def _epoch_key(signature: EpochSignature, batches: Sequence[Batch]) -> PublicKey:
    """Return the key of *signature*, after checking that it is that of its epoch."""
    number, index = divmod(signature.epoch, batches[0].epochs)
    if number >= len(batches):
        raise SealError(f"epoch {signature.epoch}: no certificate reaches that far")
    leaf = epoch_leaf(signature.epoch, signature.key)
    if not verify_inclusion(leaf, index, batches[0].epochs, signature.path, batches[number].root):
        raise SealError(f"epoch {signature.epoch}: the key is not the one that was certified")
    return PublicKey(signature.key)


def _check_turn(batch: Batch, number: int, recording: str, first: Batch) -> None:
    if batch.recording != recording:
        raise SealError(f"certificate {number} is of recording {batch.recording}, not of {recording}")
    if batch.number != number:
        raise SealError(f"certificate {number} calls itself {batch.number}")
    if batch.epochs != first.epochs or not batch.epochs:
        raise SealError(f"certificate {number} is for {batch.epochs} epochs")
