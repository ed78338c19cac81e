"""Comparing what is in a recording with what its seal says.

All of it is handed over by `revirt.recording.verify`, which reads it anyway.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from revirt.checkpoint import CheckpointInfo, LoadedCheckpoint
from revirt.checkpoint.format import to_bytes
from revirt.errors import CorruptError
from revirt.log.events import Event
from revirt.log.rows import rows_of
from revirt.log.segment import Segment
from revirt.recording import layout
from revirt.recording.manifest import NAME, Kept, Manifest, RecordingState
from revirt.recording.repair import was_repaired
from revirt.recording.seal import Seal
from revirt.seal.blocks import event_root
from revirt.seal.heads import End
from revirt.seal.leaves import Leaf, LeafKind, checkpoint_digest
from revirt.seal.memory import ZERO_PAGE_HASH, MemoryTree


class SealCheck:
    """Compares the recording in *path*, whose machine has *page_count* pages of memory, with its *seal*.

    *is_live* says that its recorder is at work: then there may be more than was sealed when *seal* was opened.
    Everything raises CorruptError for the first thing that is not what was sealed, and can go on after that.
    """

    def __init__(self, path: Path, seal: Seal, page_count: int, *, is_live: bool = False) -> None:
        self.unsealed = 0
        """Events that no head is about, of the segments passed so far."""
        self._path = path
        self._seal = seal
        self._is_live = is_live
        self._tree = seal.tree()
        self._segments = 0
        self._last: Path | None = None
        self._checkpoints: dict[int, Leaf] = {}
        # Segment, event and number of the oldest checkpoint of which there is a sealed leaf.
        self._start: tuple[int, int, int] | None = None
        for file in seal.leaf_files():
            self._segments = file.segment + 1
            for leaf in file.leaves[: max(0, seal.head.leaves - file.first)]:
                if leaf.kind == LeafKind.CHECKPOINT:
                    self._checkpoints[leaf.number] = leaf
                    self._start = self._start or (file.segment, leaf.detail - 1, leaf.number)
        self._kept: Kept | None = None
        self._keep_ns: int | None = None
        self._newest: CheckpointInfo | None = None
        self._memory = MemoryTree(page_count)
        self._page_map = array("Q", bytes(8 * page_count))

    def check_manifest(self, contents: Manifest) -> None:
        """Compare the manifest's *contents* with the heads, and with what was signed at the end."""
        path, seal = self._path / NAME, self._seal
        if any(signed.head.subject != contents.subject for signed in (seal.first, *seal.heads)):
            raise CorruptError(path, "is not the manifest that was sealed")
        if contents.ring is None and seal.head.evicted is not None:
            raise CorruptError(path, "is of a recording that keeps everything; the seal has a receipt")
        if contents.ring is not None and contents.ring["size"] is None:
            self._keep_ns = contents.ring["keep_ns"]
        self._check_start(path, contents.start)
        _check_end(path, contents, seal.end)

    def _check_start(self, path: Path, start: Kept) -> None:
        evicted = self._seal.evicted
        begins = (start.segment, start.event, start.checkpoint, start.branches, start.guest_ns)
        sealed = (evicted.segment, evicted.event, evicted.checkpoint, evicted.branches, evicted.guest_ns)
        if begins == sealed:
            return
        # A recorder may have died with the receipt written and nothing evicted yet.
        if self._seal.start < evicted.segment and begins[:3] == self._start:
            self._kept = start if start != Kept() else None
            return
        raise CorruptError(
            path, f"begins with event {start.event}; the receipt is for what was before event {evicted.event}"
        )

    def pass_segment(self, found: Segment, events: Sequence[Event]) -> None:
        """Compare the *events* of the segment *found* with its leaves."""
        before, self._last = self._last, found.path
        if self.unsealed and before is not None and not self._is_live:
            # A recorder signs a head before it goes on.
            raise CorruptError(
                before, f"has {self.unsealed} events that were not sealed, and is not the last"
            )
        position, end = found.ordinal, found.ordinal + found.count
        for leaf in self._sealed_leaves(found.index):
            start, position = position, leaf.number + leaf.detail
            piece = events[leaf.number - found.ordinal : position - found.ordinal]
            if leaf.number != start or len(piece) != leaf.detail:
                raise CorruptError(
                    found.path, f"has not the events from number {leaf.number} to {position} that were sealed"
                )
            if event_root(rows_of(piece)) != leaf.digest:
                raise CorruptError(
                    found.path,
                    f"its events from number {leaf.number} to {position} are not those that were sealed",
                )
        if position < min(end, self._seal.head.events):
            raise CorruptError(
                found.path, f"its events from number {position} on were sealed in another file"
            )
        self.unsealed += end - position

    def pass_checkpoint(self, path: Path, loaded: LoadedCheckpoint) -> None:
        """Compare the checkpoint *loaded*, from the file *path*, and all of its memory with its leaf."""
        info = loaded.info
        leaf = self._checkpoints.get(info.number)
        if leaf is None:
            if info.event < self._seal.head.events or self._seal.end is not None:
                raise CorruptError(path, "was not sealed")
            return
        self._newest = info
        self._update_memory(path, loaded)
        place = (info.event, info.branches, info.pc, info.guest_ns, info.halted)
        if checkpoint_digest(*place, loaded.state, self._memory.root()) != leaf.digest:
            raise CorruptError(path, "its place, its state or its memory is not what was sealed")
        kept = self._kept
        if (
            kept is not None
            and kept.checkpoint == info.number
            and (kept.branches, kept.guest_ns) != (info.branches, info.guest_ns)
        ):
            raise CorruptError(self._path / NAME, f"does not begin where checkpoint {info.number} stands")

    def finish(self, event_end: int) -> None:
        """Look for what is missing at the end, or too much, when the log ends before event *event_end*.

        Checkpoints are not counted: those that were sealed have events that were, and these name them.
        """
        log = self._path / layout.LOG
        if event_end < self._seal.head.events:
            raise CorruptError(
                log, f"ends before event {event_end}; events were sealed up to {self._seal.head.events}"
            )
        self._check_age()
        if self._seal.end is not None and self.unsealed:
            raise CorruptError(log, f"has {self.unsealed} events that were not sealed")

    def _check_age(self) -> None:
        """Compare the receipt with the guest's time, where that alone says what is kept."""
        evicted, newest = self._seal.head.evicted, self._newest
        if evicted is None or self._keep_ns is None or newest is None:
            return
        # A repair may have put aside the checkpoint that made the ring turn.
        if newest.number == max(self._checkpoints) and evicted.guest_ns + self._keep_ns > newest.guest_ns:
            path = self._seal.directory / layout.head_name(self._seal.heads[-1].epoch)
            raise CorruptError(path, "its receipt is for some of what the recording has to keep")

    def _sealed_leaves(self, segment: int) -> list[Leaf]:
        """Return the leaves of events of *segment* that a head is about."""
        if not self._seal.start <= segment < self._segments:
            return []
        file = self._seal.read_leaves(segment)
        count = max(0, self._seal.head.leaves - file.first)
        sealed = file.leaves[:count]
        for index, leaf in enumerate(sealed, file.first):
            if leaf.hash != self._tree.leaf(index):
                raise CorruptError(self._seal.leaves_path(segment), "changed while it was being read")
        return [leaf for leaf in sealed if leaf.kind == LeafKind.EVENTS]

    def _update_memory(self, path: Path, loaded: LoadedCheckpoint) -> None:
        """Bring the tree over memory up to the checkpoint *loaded*: only pages that changed are read."""
        before, page_map = self._page_map, loaded.page_map
        if len(page_map) > len(before):
            raise CorruptError(path, f"has {len(page_map)} pages of memory, the machine {len(before)}")
        now = page_map + array("Q", bytes(8 * (len(before) - len(page_map))))
        changed = [number for number, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
        stored = array("Q", bytes(8 * len(now)))
        for number in changed:
            stored[number] = now[number]
        for numbers, contents in replace(loaded, page_map=stored).batches():
            self._memory.update(numbers, contents)
        zeros = array("I", [number for number in changed if not now[number]])
        self._memory.update_hashes(to_bytes(zeros), ZERO_PAGE_HASH * len(zeros))
        self._page_map = now


def _check_end(path: Path, contents: Manifest, sealed: End | None) -> None:
    """Compare how the manifest's *contents* say that it ended with what was *sealed* of that."""
    if contents.state == RecordingState.RECORDING:
        # The recorder may have died with the end sealed and the manifest not written any more.
        if contents.end is not None:
            raise CorruptError(path, "says how it ended, but not that it did")
        return
    if was_repaired(contents) and (sealed is None or sealed.state == RecordingState.INTERRUPTED):
        return
    if sealed is not None and (contents.state, contents.end) != (sealed.state, sealed.end):
        raise CorruptError(path, "does not end as the seal says")
    if sealed is None and contents.state == RecordingState.COMPLETE:
        raise CorruptError(path, "is complete; the seal does not say so")
