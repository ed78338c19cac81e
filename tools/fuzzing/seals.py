"""Keys, and what signatures and proofs consist of, as targets."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from random import Random

from fuzzing.changes import Change, number
from fuzzing.forgery import NotForgedError
from fuzzing.targets import Commands, Scene, Target
from fuzzing.texts import forge_json
from fuzzing.watch import Watch
from revirt.errors import RevirtError, SealError
from revirt.log.events import Event, Kind
from revirt.log.frame import compress_small
from revirt.log.rows import rows_of
from revirt.seal import dsse, keys, leaves
from revirt.seal.blocks import BLOCK_EVENTS, Block, block_of, event_root, verify_block
from revirt.seal.epochs import (
    BATCH_TYPE,
    EpochSignature,
    open_sealed,
    verify_certificates,
    verify_epoch_signature,
)
from revirt.seal.fields import read_object
from revirt.seal.heads import HEAD_TYPE, Head
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import Leaf, LeafKind
from revirt.seal.merkle import HistoryTree, leaf_hash, verify_consistency, verify_inclusion
from revirt.seal.proofs import EventProof
from revirt.seal.schedule import Schedule

_SEED = bytes(range(32))
_UUID = "6f1f8a52-6f0e-4f57-9d4b-3f5a4b0f8a11"
_HEAD_TYPE = "application/vnd.revirt.fuzz+json"
_LIMIT = 1 << 20


class SealTarget(Target):
    """Something that is handed over as bytes; they are read at once, and there is nothing else to do with them."""

    files: Sequence[bytes]

    def samples(self) -> Sequence[bytes]:
        return self.files

    def run(self, place: int, data: bytes, _act: str | None) -> list[RevirtError]:
        refused: list[RevirtError] = []
        with self.reading(refused):
            self.look(place, data)
        return refused

    def look(self, place: int, data: bytes) -> None:
        """Read *data*; raises RevirtError."""
        raise NotImplementedError


class Keys(Target):
    """Files with keys."""

    kind = "key"
    acts = ("show",)

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._path = self.directory / "key"
        self._show = commands.prepare("key", "show", str(self._path))
        key = PrivateKey.from_raw(_SEED)
        self._files = (key.to_pem(), key.public.to_pem())

    def samples(self) -> Sequence[bytes]:
        return self._files

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        """Change what the PEM is of, or its label."""
        try:
            first, *body, last = data.splitlines()
            inside = b64encode(change(b64decode(b"".join(body))))
        except ValueError as error:
            raise NotForgedError(str(error)) from error
        label = rng.choice(
            (b"PRIVATE KEY", b"PUBLIC KEY", b"ENCRYPTED PRIVATE KEY", b"RSA PRIVATE KEY", b"X")
        )
        if rng.random() < 0.2:
            first, last = b"-----BEGIN %s-----" % label, b"-----END %s-----" % label
        return b"\n".join((first, inside, last, b""))

    def run(self, _place: int, data: bytes, act: str | None) -> list[RevirtError]:
        self._path.write_bytes(data)
        self._path.chmod(0o600)
        refused: list[RevirtError] = []
        try:
            with self.reading(refused):
                found = keys.load(self._path)
                if isinstance(found, PrivateKey):
                    found.public.verify(b"message", found.sign(b"message"))
                else:
                    found.verify(b"message", bytes(64))
            if act is not None:
                with self.reading(refused):
                    self._show()
        finally:
            self._path.unlink()
        return refused


class Leaves(Target):
    """Files with the leaves of a segment."""

    kind = "leaves"

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._path = self.directory / leaves.file_name(0)
        self._files = [_leaf_file(first, count) for first, count in ((0, 1), (5, 3), (32, 40))]

    def samples(self) -> Sequence[bytes]:
        return self._files

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        """Change fields or the payload, and make the checks right."""
        try:
            header, raw = leaves.FRAME.decode(self._path, data)
        except RevirtError as error:
            raise NotForgedError(str(error)) from error
        values = list(header.fields)
        if rng.random() < 0.5:
            index = rng.randrange(len(values))
            values[index] = number(rng, values[index])
        else:
            raw = change(raw)
        try:
            return b"".join(leaves.FRAME.encode(tuple(values), raw, compress_small))
        except ValueError as error:
            raise NotForgedError(str(error)) from error

    def run(self, _place: int, data: bytes, _act: str | None) -> list[RevirtError]:
        self._path.write_bytes(data)
        refused: list[RevirtError] = []
        try:
            with self.reading(refused):
                found = leaves.read(self._path, 0)
                tree = HistoryTree.resume(found.first, found.subtrees)
                for leaf in found.leaves:
                    tree.append(leaf.hash)
                root = tree.root()
                if tree.first < tree.size:
                    last = tree.size - 1
                    assert verify_inclusion(tree.leaf(last), last, tree.size, tree.inclusion(last), root)
                    path = tree.consistency(tree.first)
                    assert verify_consistency(tree.first, tree.size, tree.root(tree.first), root, path)
        finally:
            self._path.unlink()
        return refused


class Proofs(SealTarget):
    """Proofs of events, as JSON."""

    kind = "proof"

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._key = PrivateKey.from_raw(_SEED)
        schedule = Schedule.begin(self._key, _UUID, epochs=4, seed=_SEED)
        rows = rows_of([Event(Kind.RECEIVED, each, False, 0, 0, 0, b"ls"[: each % 3]) for each in range(9)])
        leaf = Leaf(LeafKind.EVENTS, 0, rows.count, event_root(rows))
        head = Head(_UUID, bytes(32), 1, leaf.hash, rows.count, "2026-11-21T12:00:00+00:00", False, None)
        envelope = schedule.seal(HEAD_TYPE, head.to_payload())
        certificates = tuple(schedule.certificates)
        self.files = [
            EventProof(
                _UUID, certificates, envelope, 0, leaf.pack(), (), block_of(rows, index), index, data
            ).to_json()
            for index, data in ((0, None), (5, b"ls"), (8, b"ls"))
        ]

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        return forge_json(data, rng, change)

    def look(self, _place: int, data: bytes) -> None:
        EventProof.from_json(data).verify(self._key.public)


class Blocks(SealTarget):
    """Blocks of events with their proofs, as JSON."""

    kind = "block"

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        events = [Event(Kind.TRANSMITTED, each, False, 0, 0, each, b"x" * (each % 3)) for each in range(40)]
        rows = rows_of(events)
        self._root, self._count = event_root(rows), rows.count
        self.files = [json.dumps(block_of(rows, index).to_json()).encode() for index in (0, 20, 39)]

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        return forge_json(data, rng, change)

    def look(self, _place: int, data: bytes) -> None:
        block = Block.from_json(read_object(data, "block", _LIMIT))
        if not verify_block(block, self._count, self._root):
            raise SealError("a block that is not of this segment")
        block.event(block.index * BLOCK_EVENTS)


class Envelopes(SealTarget):
    """Certificates, heads that the key of an epoch signed, and the signature alone."""

    kind = "envelope"

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self._key = PrivateKey.from_raw(_SEED)
        schedule = Schedule.begin(self._key, _UUID, epochs=4, seed=_SEED)
        self._payload = b'{"head":1}'
        self._signature = schedule.sign(_HEAD_TYPE, self._payload)
        head = dsse.encode(_HEAD_TYPE, self._payload, [self._signature.to_dsse()])
        certificate = schedule.certificates[0]
        self._batches = verify_certificates([certificate], self._key.public, _UUID)
        self.files = [certificate, head, json.dumps(self._signature.to_json()).encode()]

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        """Change the JSON, or the payload of a certificate, which is signed anew."""
        if rng.random() < 0.6:
            return forge_json(data, rng, change)
        payload = forge_json(self._batches[0].to_payload(), rng, change)
        return dsse.sign(BATCH_TYPE, payload, [self._key])

    def look(self, place: int, data: bytes) -> None:
        match place:
            case 0:
                verify_certificates([data], self._key.public, _UUID)
            case 1:
                open_sealed(data, _HEAD_TYPE, self._batches)
            case _:
                signature = EpochSignature.from_json(read_object(data, "signature", _LIMIT))
                verify_epoch_signature(_HEAD_TYPE, self._payload, signature, self._batches)


def _leaf_file(first: int, count: int) -> bytes:
    """Return a file of *count* leaves of segment 0, the first of which is number *first* of the tree."""
    made = [Leaf(LeafKind.EVENTS, each, 1, leaf_hash(b"%d" % each)) for each in range(first + count)]
    tree = HistoryTree()
    for leaf in made[:first]:
        tree.append(leaf.hash)
    return leaves.encode(0, first, tree.subtrees(first), [leaf.pack() for leaf in made[first:]])
