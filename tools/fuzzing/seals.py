"""Keys, and what signatures and proofs consist of, as targets."""

from __future__ import annotations

import json
import struct
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
from revirt.log.rows import rows_of
from revirt.seal import dsse, keys
from revirt.seal.blocks import Block, block_of, event_root, verify_block
from revirt.seal.epochs import (
    BATCH_TYPE,
    EpochSignature,
    open_sealed,
    verify_certificates,
    verify_epoch_signature,
)
from revirt.seal.fields import read_object
from revirt.seal.keys import PrivateKey
from revirt.seal.merkle import TREE_HEADER, HistoryTree, leaf_hash, verify_consistency, verify_inclusion
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


class Trees(SealTarget):
    """Saved history trees."""

    kind = "tree"

    def __init__(self, scene: Scene, watch: Watch, commands: Commands) -> None:
        super().__init__(scene, watch, commands)
        self.files = [
            _tree(size, first).save() for size, first in ((0, 0), (1, 0), (7, 0), (13, 5), (40, 32))
        ]

    def forge(self, data: bytes, rng: Random, change: Change) -> bytes:
        """Change sizes or hashes, and make the root right if that can be done."""
        if len(data) < TREE_HEADER.size + 32:
            raise NotForgedError("no tree")
        magic, version, first, size = TREE_HEADER.unpack_from(data)
        hashes = data[TREE_HEADER.size :]
        if rng.random() < 0.5:
            first, size = number(rng, first), number(rng, size)
        else:
            hashes = change(hashes[:-32])
            hashes = hashes[: len(hashes) // 32 * 32]
            size = first + max(0, len(hashes) // 32 - first.bit_count())
            hashes += _tree_of(first, hashes).root()
        try:
            return TREE_HEADER.pack(magic, version, first, size) + hashes
        except struct.error as error:
            raise NotForgedError(str(error)) from error

    def look(self, _place: int, data: bytes) -> None:
        tree = HistoryTree.restore(data)
        if tree.save() != data:
            raise AssertionError("a tree that is saved in two ways")
        root, last = tree.root(), tree.size - 1
        if tree.first < tree.size:
            assert verify_inclusion(tree.leaf(last), last, tree.size, tree.inclusion(last), root)
            path = tree.consistency(tree.first)
            assert verify_consistency(tree.first, tree.size, tree.root(tree.first), root, path)
        tree.append(leaf_hash(b"another"))
        tree.prune(tree.size)


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
        block.event(block.index * 16)


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


def _tree(size: int, first: int) -> HistoryTree:
    tree = HistoryTree()
    for index in range(size):
        tree.append(leaf_hash(b"%d" % index))
    tree.prune(first)
    return tree


def _tree_of(first: int, hashes: bytes) -> HistoryTree:
    """Return the tree that consists of *hashes*, which are subtrees of the *first* leaves, then leaves."""
    each = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
    frozen = first.bit_count()
    if len(each) < frozen or first >= 1 << 62:
        raise NotForgedError("too few hashes")
    tree = HistoryTree()
    tree._freeze(first, each[:frozen])
    for leaf in each[frozen:]:
        tree.append(leaf)
    return tree
