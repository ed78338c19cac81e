"""Proof that one event is in a recording, for somebody who has the user's public key and nothing else.

::

    proof   JSON, of the form application/vnd.revirt.event-proof.v1+json
      form          that
      recording     uuid
      certificates  envelopes, see revirt.seal.epochs
      head          envelope, see revirt.seal.heads: the first that is about the event
      leaf          index    in the history tree
                    contents of the leaf, see revirt.seal.leaves, base64
                    path     from the leaf to the root of the head, hashes one behind the other, base64
      block         the events beside it, see revirt.seal.blocks
      event         ordinal in the log
      data          of the event, base64; null if it has none, or if the bearer keeps it

It is checked from the user's key on: certificates, head, leaf, block, event, data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from revirt.errors import SealError
from revirt.log.events import Event, Kind
from revirt.log.rows import MAX_DATA, ROW
from revirt.log.strict_json import write_canonical
from revirt.seal.blocks import Block, verify_block
from revirt.seal.epochs import verify_certificates
from revirt.seal.fields import encode_bytes, get, get_bytes, get_number, read_object
from revirt.seal.heads import Head, open_head
from revirt.seal.keys import PublicKey
from revirt.seal.leaves import LEAF, Leaf, LeafKind
from revirt.seal.merkle import HASH_SIZE, MAX_SIZE, verify_inclusion

FORM = "application/vnd.revirt.event-proof.v1+json"
PROOF_LIMIT = 4 * MAX_DATA
"""Most bytes that a proof may have."""

_MAX_ORDINAL = 1 << 64
_MAX_CERTIFICATES = 1 << 10


@dataclass(frozen=True, slots=True)
class ProvenEvent:
    """An event of which it is proven that it stands in the recording with the uuid *recording*, as number *ordinal*.

    ``data`` is None if the bearer did not show it; its *event* then has none.  The *head* that vouches for it was
    signed by the key of *epoch*.
    """

    recording: str
    ordinal: int
    event: Event
    data: bytes | None
    size: int
    head: Head
    epoch: int


@dataclass(frozen=True, slots=True)
class EventProof:
    """A proof; the module's docstring lists the fields."""

    recording: str
    certificates: tuple[bytes, ...]
    head: bytes
    index: int
    leaf: bytes
    path: tuple[bytes, ...]
    block: Block
    ordinal: int
    data: bytes | None

    def to_json(self) -> bytes:
        """Return the proof as JSON."""
        return write_canonical(
            {
                "form": FORM,
                "recording": self.recording,
                "certificates": [json.loads(each) for each in self.certificates],
                "head": json.loads(self.head),
                "leaf": {
                    "index": self.index,
                    "contents": encode_bytes(self.leaf),
                    "path": encode_bytes(b"".join(self.path)),
                },
                "block": self.block.to_json(),
                "event": self.ordinal,
                "data": None if self.data is None else encode_bytes(self.data),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the proof in *data*; raises SealError if it is none."""
        values = read_object(data, "proof", PROOF_LIMIT)
        form = get(values, "form", str, "proof")
        if form != FORM:
            raise SealError(f"a proof of the form {form!r}; this revirt knows {FORM!r}")
        certificates = get(values, "certificates", list, "proof")
        if len(certificates) > _MAX_CERTIFICATES:
            raise SealError(f"a proof with {len(certificates)} certificates")
        leaf = get(values, "leaf", dict, "proof")
        path = get_bytes(leaf, "path", "proof: leaf")
        return cls(
            get(values, "recording", str, "proof"),
            tuple(write_canonical(each) for each in certificates),
            write_canonical(get(values, "head", dict, "proof")),
            get_number(leaf, "index", "proof: leaf", below=MAX_SIZE),
            get_bytes(leaf, "contents", "proof: leaf", size=LEAF.size),
            tuple(path[at : at + HASH_SIZE] for at in range(0, len(path), HASH_SIZE)),
            Block.from_json(get(values, "block", dict, "proof")),
            get_number(values, "event", "proof", below=_MAX_ORDINAL),
            None if values.get("data") is None else get_bytes(values, "data", "proof"),
        )

    def verify(self, key: PublicKey) -> ProvenEvent:
        """Return what the proof proves to who trusts *key*; raises SealError if it proves nothing."""
        batches = verify_certificates(self.certificates, key, self.recording)
        signed = open_head(self.head, batches)
        leaf = _events_leaf(self.leaf)
        if not verify_inclusion(leaf.hash, self.index, signed.head.leaves, self.path, signed.head.root):
            raise SealError("the leaf is not in the tree that the head was signed over")
        if not verify_block(self.block, leaf.detail, leaf.digest):
            raise SealError("the block is not one of the leaf's")
        if not leaf.number <= self.ordinal < leaf.number + leaf.detail:
            raise SealError(f"event {self.ordinal} is not in the leaf")
        try:
            row, digest = self.block.event(self.ordinal - leaf.number)
        except ValueError as error:
            raise SealError(str(error)) from error
        kind, halted, check, size, branches, pc, number = ROW.unpack(row)
        if self.data is not None and (len(self.data) != size or sha256(self.data).digest() != digest):
            raise SealError("the data is not that of the event")
        if kind not in list(Kind):
            raise SealError(f"an event of the unknown kind {kind}")
        event = Event(Kind(kind), branches, bool(halted), pc, check, number, self.data or b"")
        shown = b"" if not size else self.data
        return ProvenEvent(self.recording, self.ordinal, event, shown, size, signed.head, signed.epoch)


def _events_leaf(contents: bytes) -> Leaf:
    try:
        leaf = Leaf.unpack(contents)
    except ValueError as error:
        raise SealError(str(error)) from error
    if leaf.kind != LeafKind.EVENTS:
        raise SealError("the leaf is not about events")
    return leaf
