"""The envelope around what is signed: DSSE, version 1.

::

    envelope    JSON  {"payload": base64, "payloadType": text, "signatures": [signature, ...]}
    signature   JSON  {"keyid": text, "sig": base64, "extension": {"kind": text, "ext": object}}
                      without keyid or extension if there is none
    signed      "DSSEv1" SP size SP payloadType SP size SP payload      sizes in bytes, decimal

The signature covers payload and type, never the JSON around them: an envelope may be printed or put into another
JSON file without harm.  The key id and the extension are not covered, and only help to find the key.

Rules:
- No payload leaves `Envelope` before a signature over it was verified, with a key that the caller trusts.
- The caller says which type it expects: a signature made for one purpose is none for another.
- Fields that are not known are skipped, as the specification wants it.

Source: the DSSE specification 1.0.2, protocol.md, envelope.md and envelope.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from revirt.errors import SealError
from revirt.log.strict_json import write_canonical
from revirt.seal.fields import encode_bytes, get, get_bytes, read_object
from revirt.seal.keys import PublicKey

ENVELOPE_LIMIT = 1 << 20
"""Most bytes that an envelope may have."""
MAX_SIGNATURES = 16
"""Most signatures in an envelope."""


class Signer(Protocol):
    """Who signs: a `PrivateKey`, or what acts like one."""

    @property
    def key_id(self) -> str:
        """Which key this is."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over *message*."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope: ``value`` is its bytes; ``extension`` is what its kind says, by itself no proof."""

    value: bytes
    key_id: str = ""
    kind: str = ""
    extension: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What an envelope held, and which of the keys had signed it: at least one."""

    payload: bytes
    keys: tuple[PublicKey, ...]


class Envelope:
    """A parsed envelope, not verified yet."""

    def __init__(self, payload_type: str, payload: bytes, signatures: Sequence[Signature]) -> None:
        self.payload_type = payload_type
        self.signatures = tuple(signatures)
        self._payload = payload

    @classmethod
    def parse(cls, data: bytes, payload_type: str) -> Self:
        """Return the envelope *data*; raises SealError if it is none, or not of a *payload_type*."""
        values = read_object(data, "envelope", ENVELOPE_LIMIT)
        found = get(values, "payloadType", str, "envelope")
        if found != payload_type:
            raise SealError(f"an envelope of the type {found!r}, where {payload_type!r} belongs")
        items = get(values, "signatures", list, "envelope")
        if not 0 < len(items) <= MAX_SIGNATURES:
            raise SealError(f"an envelope with {len(items)} signatures")
        signatures = [_signature(item) for item in items]
        return cls(found, get_bytes(values, "payload", "envelope"), signatures)

    def verify(self, keys: Iterable[PublicKey]) -> Verified:
        """Return the payload, and which of *keys* signed it; raises SealError if none did."""
        message = pre_authentication(self.payload_type, self._payload)
        signed = tuple(key for key in dict.fromkeys(keys) if self._is_signed_by(key, message))
        if not signed:
            raise SealError("an envelope without a valid signature of a key that is trusted")
        return Verified(self._payload, signed)

    def _is_signed_by(self, key: PublicKey, message: bytes) -> bool:
        return any(
            key.verify(message, signature.value)
            for signature in self.signatures
            if signature.key_id in ("", key.key_id)
        )


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed for *payload*: the pre-authentication encoding."""
    name = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def sign(payload_type: str, payload: bytes, signers: Iterable[Signer]) -> bytes:
    """Return the envelope with *payload*, signed by all of *signers*; raises ValueError as `encode`."""
    message = pre_authentication(payload_type, payload)
    return encode(payload_type, payload, [Signature(each.sign(message), each.key_id) for each in signers])


def encode(payload_type: str, payload: bytes, signatures: Sequence[Signature]) -> bytes:
    """Return the envelope with *payload* and *signatures* made elsewhere.

    Raises ValueError if no reader would take it: too many signatures, none, or too large.
    """
    if not 0 < len(signatures) <= MAX_SIGNATURES:
        raise ValueError(f"an envelope with {len(signatures)} signatures")
    items = [_item(signature) for signature in signatures]
    data = write_canonical(
        {"payload": encode_bytes(payload), "payloadType": payload_type, "signatures": items}
    )
    if len(data) > ENVELOPE_LIMIT:
        raise ValueError(f"an envelope of {len(data)} bytes")
    return data


def verify(data: bytes, payload_type: str, keys: Iterable[PublicKey]) -> Verified:
    """Return the payload of the envelope *data* of that type, and which of *keys* signed it.

    Raises SealError if it is malformed, of another type, or signed by none of them.
    """
    return Envelope.parse(data, payload_type).verify(keys)


def _item(signature: Signature) -> dict[str, Any]:
    item: dict[str, Any] = {"sig": encode_bytes(signature.value)}
    if signature.key_id:
        item["keyid"] = signature.key_id
    if signature.extension is not None:
        item["extension"] = {"kind": signature.kind, "ext": signature.extension}
    return item


def _signature(item: Any) -> Signature:
    if type(item) is not dict:
        raise SealError("signature: not an object")
    value = get_bytes(item, "sig", "signature")
    key_id = get(item, "keyid", str, "signature") if "keyid" in item else ""
    if "extension" not in item:
        return Signature(value, key_id)
    extension = get(item, "extension", dict, "signature")
    kind = get(extension, "kind", str, "extension")
    return Signature(value, key_id, kind, get(extension, "ext", dict, "extension"))
