"""What is signed while a recording is made: heads of its history tree, and in the end how it ended.

::

    head    DSSE, type application/vnd.revirt.head.v1+json, signed by the key of its epoch, of the payload
              recording  uuid
              subject    SHA-256 of what never changes in the manifest
              leaves     of the history tree
              root       of these leaves
              events     ordinal behind that of the last event in the leaves
              time       when it was signed: ISO 8601, UTC
              final      whether it is the last one of its epoch, whose key was destroyed next
              evicted    null; of a circular recording that let go of something, up to where:
                leaf, epoch, segment, event, checkpoint, branches, guest_ns
    end     DSSE, type application/vnd.revirt.end.v1+json, signed in the epoch of the last head, of the payload
              recording, leaves, root  as in the last head
              state, end               as in the last manifest

Rules:
- An epoch keeps its last head only; every later one says more.  No epoch follows one whose last head is not final:
  an older head of it, put back, would let who steals the next key change what came behind.
- The head of epoch 0 is kept for ever.  The oldest of the others is about nothing that is kept, unless none went.  So
  no receipt lets who steals a key do without the heads of epochs before, and change what they are about.
- A head that tells of an eviction is the receipt for it, and is there before anything is deleted.
- Payloads are JSON with sorted names, no spaces, nothing but ASCII; no other form of one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from revirt.errors import SealError
from revirt.log.strict_json import write_canonical
from revirt.seal.epochs import Batch, open_sealed
from revirt.seal.fields import check_written, encode_bytes, get, get_bytes, get_number, read_object
from revirt.seal.merkle import HASH_SIZE, MAX_SIZE

HEAD_TYPE = "application/vnd.revirt.head.v1+json"
"""Payload type of a head."""
END_TYPE = "application/vnd.revirt.end.v1+json"
"""Payload type of the statement that a recording ended."""

_LIMIT = 1 << 20
_MAX_COUNT = 1 << 64


@dataclass(frozen=True, slots=True)
class Evicted:
    """Where what is left of a circular recording begins: its first leaf, the epoch from which on heads are kept (the
    last one that was over before that leaf, else 0), and what the manifest says of it.
    """

    leaf: int
    epoch: int
    segment: int
    event: int
    checkpoint: int
    branches: int
    guest_ns: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the recorder vouched for at some moment; the module's docstring lists the fields."""

    recording: str
    subject: bytes
    leaves: int
    root: bytes
    events: int
    time: str
    final: bool
    evicted: Evicted | None

    def to_payload(self) -> bytes:
        """Return the payload of the head."""
        return write_canonical(
            {
                "recording": self.recording,
                "subject": encode_bytes(self.subject),
                "leaves": self.leaves,
                "root": encode_bytes(self.root),
                "events": self.events,
                "time": self.time,
                "final": self.final,
                "evicted": asdict(self.evicted) if self.evicted else None,
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Return the head that `to_payload` made *payload* from; raises SealError."""
        values = read_object(payload, "head", _LIMIT)
        head = cls(
            get(values, "recording", str, "head"),
            get_bytes(values, "subject", "head", size=HASH_SIZE),
            get_number(values, "leaves", "head", below=MAX_SIZE),
            get_bytes(values, "root", "head", size=HASH_SIZE),
            get_number(values, "events", "head", below=_MAX_COUNT),
            get(values, "time", str, "head"),
            get(values, "final", bool, "head"),
            _evicted(values) if values.get("evicted") is not None else None,
        )
        check_written(payload, head.to_payload(), head.time, "head")
        return head


@dataclass(frozen=True, slots=True)
class End:
    """How a recording ended: the last head's leaves and root, the last manifest's state and end."""

    recording: str
    leaves: int
    root: bytes
    state: str
    end: dict[str, Any]

    def to_payload(self) -> bytes:
        """Return the payload of the statement."""
        return write_canonical(
            {
                "recording": self.recording,
                "leaves": self.leaves,
                "root": encode_bytes(self.root),
                "state": self.state,
                "end": self.end,
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Return the statement that `to_payload` made *payload* from; raises SealError."""
        values = read_object(payload, "end", _LIMIT)
        end = cls(
            get(values, "recording", str, "end"),
            get_number(values, "leaves", "end", below=MAX_SIZE),
            get_bytes(values, "root", "end", size=HASH_SIZE),
            get(values, "state", str, "end"),
            get(values, "end", dict, "end"),
        )
        if end.to_payload() != payload:
            raise SealError("end: not as revirt writes one")
        return end


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head whose signature holds, and the epoch whose key made that."""

    head: Head
    epoch: int


@dataclass(frozen=True, slots=True)
class SignedEnd:
    """The statement of a recording's end, whose signature holds, and the epoch whose key made that."""

    end: End
    epoch: int


def open_head(data: bytes, batches: Sequence[Batch]) -> SignedHead:
    """Return the head in the envelope *data*; *batches* are from `revirt.seal.epochs.verify_certificates`.

    Raises SealError if it is malformed, not signed by the key of an epoch, or of another recording.
    """
    opened = open_sealed(data, HEAD_TYPE, batches)
    head = Head.from_payload(opened.payload)
    _check_recording(head.recording, batches)
    return SignedHead(head, opened.epoch)


def open_end(data: bytes, batches: Sequence[Batch]) -> SignedEnd:
    """Return the statement of a recording's end in the envelope *data*; raises as `open_head`."""
    opened = open_sealed(data, END_TYPE, batches)
    end = End.from_payload(opened.payload)
    _check_recording(end.recording, batches)
    return SignedEnd(end, opened.epoch)


def _check_recording(recording: str, batches: Sequence[Batch]) -> None:
    if recording != batches[0].recording:
        raise SealError(f"of recording {recording}, not of {batches[0].recording}")


def _evicted(values: dict[str, Any]) -> Evicted:
    found = get(values, "evicted", dict, "head")
    numbers = {
        each.name: get_number(found, each.name, "head: evicted", below=_MAX_COUNT) for each in fields(Evicted)
    }
    return Evicted(**numbers)
