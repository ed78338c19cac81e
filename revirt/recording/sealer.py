"""Sealing a recording while it is made.

::

    seal/key.pub           public half of the user's key
    seal/NNNNNNNN.batch    certificate of a batch of epochs, see revirt.seal.epochs
    seal/NNNNNNNN.leaves   leaves of a segment, see revirt.seal.leaves
    seal/NNNNNNNN.head     last head of an epoch, see revirt.seal.heads
    seal/end               how the recording ended, see there

Rules:
- What is sealed is on disk before its leaf, the leaf before the head: a recorder may die between any two.
- No key is destroyed before its epoch has a head, and that says that it is the last.
- The head that is the receipt of an eviction is there before anything goes.
- The head of epoch 0 never goes.  All heads name the manifest, and who stole the keys of those that are kept could sign
  them again for another manifest: never this one.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from revirt.checkpoint import CheckpointInfo
from revirt.log.frame import write_whole
from revirt.log.rows import Rows
from revirt.machine.config import MachineConfig
from revirt.recording import layout
from revirt.recording.manifest import Kept, Manifest
from revirt.seal import leaves
from revirt.seal.blocks import event_root
from revirt.seal.heads import END_TYPE, HEAD_TYPE, End, Evicted, Head
from revirt.seal.keys import PrivateKey
from revirt.seal.leaves import Leaf, LeafKind, checkpoint_digest
from revirt.seal.memory import MemoryTree
from revirt.seal.merkle import HistoryTree
from revirt.seal.schedule import Schedule, epoch_is_due


class Sealer:
    """Seals the recording whose seal is in *directory*; made by `begin`.

    Everything else is called by the thread that writes the recording, and raises OSError if the host's file system
    does.
    """

    def __init__(self, directory: Path, schedule: Schedule, contents: Manifest) -> None:
        self.size = 0
        """Bytes of the seal on disk."""
        self._directory = directory
        self._schedule = schedule
        self._uuid, self._subject = contents.uuid, contents.subject
        self._tree = HistoryTree()
        self._memory = MemoryTree(MachineConfig.from_plain(contents.machine).page_count)
        self._events = 0
        self._evicted: Evicted | None = None
        self._sizes: dict[str, int] = {}
        # Where the leaves of each segment that is kept begin, and the leaves of the last one, packed.
        self._firsts: dict[int, int] = {}
        self._leaves: list[bytes] = []
        # How many leaves the last head of each epoch that is kept is about.
        self._heads: dict[int, int] = {}
        self._began = time.monotonic()
        self._epoch_age = 0.0

    @classmethod
    def begin(cls, directory: Path, key: PrivateKey, contents: Manifest) -> Self:
        """Begin the seal of the recording *contents* in the new *directory*; the user's *key* is not needed again.

        Raises OSError, and ValueError if *contents* do not describe a machine.
        """
        directory.mkdir()
        sealer = cls(directory, Schedule.begin(key, contents.uuid), contents)
        sealer._write(layout.SEAL_KEY, key.public.to_pem())
        sealer._write_certificates()
        # Of nothing yet, so that a seal without a head is never what a recorder left that died.
        sealer._sign_head()
        return sealer

    def add_pages(self, numbers: bytes, contents: bytes | memoryview) -> None:
        """Take in pages of the checkpoint that comes next, as `revirt.checkpoint.CheckpointWriter` does."""
        self._memory.update(numbers, contents)

    def add_checkpoint(self, segment: int, info: CheckpointInfo, state: bytes) -> None:
        """Seal a checkpoint, which is on disk; its events, which will be the first of *segment*, bring the head."""
        memory = self._memory.root()
        digest = checkpoint_digest(
            info.event, info.branches, info.pc, info.guest_ns, info.halted, state, memory
        )
        self._add(segment, Leaf(LeafKind.CHECKPOINT, info.number, info.event, digest))

    def add_events(self, segment: int, ordinal: int, rows: Rows) -> None:
        """Seal the events *rows*, which are on disk in *segment*; the first is number *ordinal* of the log."""
        self._add(segment, Leaf(LeafKind.EVENTS, ordinal, rows.count, event_root(rows)))
        self._events = ordinal + rows.count
        self._sign_head()
        self.tick()

    def tick(self) -> None:
        """Let the epoch end if it is time; called now and then, whether or not anything happens."""
        age = time.monotonic() - self._began
        if not epoch_is_due(self._epoch_age, age):
            return
        self._sign_head(is_final=True)
        self._schedule.evolve()
        self._epoch_age = age
        self._write_certificates()

    def permit(self, kept: Kept) -> None:
        """Sign the receipt for an eviction of everything before *kept*."""
        leaf = self._firsts[kept.segment]
        over = (epoch for epoch, size in self._heads.items() if size <= leaf and epoch < self._schedule.epoch)
        epoch = max(over, default=0)
        self._evicted = Evicted(
            leaf, epoch, kept.segment, kept.event, kept.checkpoint, kept.branches, kept.guest_ns
        )
        self._sign_head()

    def evict(self) -> None:
        """Delete leaves and heads that tell only of what was evicted, as `permit` had it last; never head 0."""
        evicted = self._evicted
        assert evicted is not None, "permit() comes first"
        for segment in [segment for segment in self._firsts if segment < evicted.segment]:
            self._delete(leaves.file_name(segment))
            del self._firsts[segment]
        for epoch in [epoch for epoch in self._heads if 0 < epoch < evicted.epoch]:
            self._delete(layout.head_name(epoch))
            del self._heads[epoch]
        self._tree.prune(evicted.leaf)

    def complete(self, state: str, end: dict[str, Any]) -> None:
        """Seal that the recording ended, as its manifest is going to say."""
        self._sign_head(is_final=True)
        said = End(self._uuid, self._tree.size, self._tree.root(), state, end)
        self._write(layout.SEAL_END, self._schedule.seal(END_TYPE, said.to_payload()))

    def close(self) -> None:
        """Destroy the key: nothing is sealed any more."""
        self._schedule.close()

    def _add(self, segment: int, leaf: Leaf) -> None:
        if segment not in self._firsts:
            self._firsts[segment] = self._tree.size
            self._leaves = []
        self._leaves.append(leaf.pack())
        self._tree.append(leaf.hash)
        first = self._firsts[segment]
        data = leaves.encode(segment, first, self._tree.subtrees(first), self._leaves)
        self._write(leaves.file_name(segment), data)

    def _sign_head(self, *, is_final: bool = False) -> None:
        epoch = self._schedule.epoch
        now = datetime.now(UTC).isoformat(timespec="seconds")
        head = Head(
            self._uuid,
            self._subject,
            self._tree.size,
            self._tree.root(),
            self._events,
            now,
            is_final,
            self._evicted,
        )
        self._write(layout.head_name(epoch), self._schedule.seal(HEAD_TYPE, head.to_payload()))
        self._heads[epoch] = head.leaves

    def _write_certificates(self) -> None:
        for batch, certificate in enumerate(self._schedule.certificates):
            name = layout.batch_name(batch)
            if name not in self._sizes:
                self._write(name, certificate)

    def _write(self, name: str, data: bytes) -> None:
        size = write_whole(self._directory / name, data)
        self.size += size - self._sizes.get(name, 0)
        self._sizes[name] = size

    def _delete(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)
        self.size -= self._sizes.pop(name, 0)
