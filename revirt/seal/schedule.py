"""Keys that are destroyed one after the other: who steals today's cannot sign for yesterday.

Every epoch has a key of its own, made from a seed that only goes forward::

    seed 0          32 random bytes
    seed i + 1      SHA-256("revirt ratchet", seed i)
    key i           the Ed25519 key whose 32 private bytes are SHA-256("revirt epoch", seed i)

When an epoch ends its seed makes way for the next, and no computation leads back.  The public keys of a batch of
epochs are computed before its first, and certified (see `revirt.seal.epochs`): those of batch 0 by the user's key,
which is not needed again while recording, those of each later one by the last key of the batch before.

An epoch is a second long at first, and later 1/32 of the recording's age: so much can a thief sign again, and so few
epochs there are that a signature from each can be kept for ever.  A batch is 512 of them, which reaches for two years;
then the next begins.

What Python cannot promise: the seed is overwritten where it is kept, and the library's keys wipe themselves, but
SHA-256 hands out its result as an object that cannot be overwritten, only freed.  Its bytes may stay in memory until
that is used again, and memory may be written to swap or into a core dump.  The schedule is made against whoever takes
over the process or its machine later, not against one who digs in the memory that was freed a moment ago.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from hashlib import sha256
from typing import Self

from revirt.seal import dsse
from revirt.seal.epochs import BATCH_TYPE, MAX_EPOCHS, Batch, EpochSignature, epoch_leaf
from revirt.seal.keys import KEY_SIZE, PrivateKey
from revirt.seal.merkle import HistoryTree

EPOCHS = 512
"""Epochs in a batch: each costs 30 us before a recording begins."""
SHORT_EPOCH_S = 1.0
"""An epoch is never shorter, in seconds."""
AGE_SHARE = 1 / 32
"""An epoch is this part of the recording's age at its start, unless that is shorter."""

_RATCHET = b"revirt ratchet"
_EPOCH = b"revirt epoch"


def epoch_is_due(started: float, age: float) -> bool:
    """Return whether an epoch that started when the recording was *started* seconds old is over at *age* seconds."""
    return age - started >= max(SHORT_EPOCH_S, started * AGE_SHARE)


class Schedule:
    """The keys of a recording being made; made by `begin`, moved on by `evolve`, destroyed by `close`."""

    def __init__(self, recording: str, seed: bytes, epochs: int) -> None:
        self.epoch = 0
        """The current epoch."""
        self.certificates: list[bytes] = []
        """A certificate for each batch so far, as `revirt.seal.epochs.verify_certificates` takes them."""
        self._recording = recording
        self._epochs = epochs
        self._seed = bytearray(seed)
        self._key: PrivateKey | None = _key_of(self._seed)
        self._tree = HistoryTree()

    @classmethod
    def begin(
        cls, key: PrivateKey, recording: str, *, epochs: int = EPOCHS, seed: bytes | None = None
    ) -> Self:
        """Return a new schedule for *recording* (its uuid), certified by the user's *key*, which it does not keep.

        *seed* makes the same keys again; by default it is drawn.  Raises ValueError for *epochs* outside 1 to
        65,536 and a *seed* that is not 32 bytes.
        """
        if not 1 <= epochs <= MAX_EPOCHS:
            raise ValueError(f"a batch of {epochs} epochs")
        seed = secrets.token_bytes(KEY_SIZE) if seed is None else seed
        if len(seed) != KEY_SIZE:
            raise ValueError(f"a seed of {len(seed)} bytes")
        schedule = cls(recording, seed, epochs)
        schedule._begin_batch(key)
        return schedule

    def sign(self, payload_type: str, payload: bytes) -> EpochSignature:
        """Return the signature of the current epoch over *payload*; raises ValueError after `close`."""
        key = self._current_key()
        signature = key.sign(dsse.pre_authentication(payload_type, payload))
        path = self._tree.inclusion(self.epoch % self._epochs)
        return EpochSignature(self.epoch, key.public.raw, tuple(path), signature)

    def seal(self, payload_type: str, payload: bytes) -> bytes:
        """Return an envelope with *payload*, signed by the current epoch, for `revirt.seal.epochs.open_sealed`.

        Raises ValueError after `close`, and if no reader would take the envelope.
        """
        return dsse.encode(payload_type, payload, [self.sign(payload_type, payload).to_dsse()])

    def evolve(self) -> None:
        """Begin the next epoch; the key of this one is gone.  Raises ValueError after `close`."""
        last = self._current_key()
        _ratchet(self._seed)
        self.epoch += 1
        self._key = _key_of(self._seed)
        if self.epoch % self._epochs == 0:
            self._begin_batch(last)

    def close(self) -> None:
        """Destroy the key: nothing is ever signed with it again."""
        _wipe(self._seed)
        self._key = None

    def _current_key(self) -> PrivateKey:
        if self._key is None:
            raise ValueError("the keys of this recording are destroyed")
        return self._key

    def _begin_batch(self, signer: PrivateKey) -> None:
        """Compute the public keys of the batch that begins with this epoch, and have *signer* certify them."""
        ahead = bytearray(self._seed)
        tree = HistoryTree()
        for epoch in range(self.epoch, self.epoch + self._epochs):
            if tree.size:
                _ratchet(ahead)
            public = _key_of(ahead).public
            tree.append(epoch_leaf(epoch, public.raw))
        _wipe(ahead)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        batch = Batch(self.epoch // self._epochs, self._epochs, self._recording, tree.root(), public, time)
        self.certificates.append(dsse.sign(BATCH_TYPE, batch.to_payload(), [signer]))
        self._tree = tree


def _ratchet(seed: bytearray) -> None:
    """Put the seed of the next epoch in the place of *seed*."""
    # Not SHA-256 of the two joined: that would be one more copy of the seed, which cannot be overwritten.
    state = sha256(_RATCHET)
    state.update(seed)
    seed[:] = state.digest()


def _key_of(seed: bytearray) -> PrivateKey:
    state = sha256(_EPOCH)
    state.update(seed)
    return PrivateKey.from_raw(state.digest())


def _wipe(seed: bytearray) -> None:
    seed[:] = bytes(len(seed))
