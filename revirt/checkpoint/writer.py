"""Storing checkpoints: only pages that no earlier one had are packed and written.

Whether a page was stored before is asked of a table of 64-bit hashes, and decided by comparing the bytes: a
guest that makes hashes collide gets a larger recording, not a wrong one.  Comparing is cheaper than a
cryptographic hash of everything: nearly all pages that are given are new, and a stored page that must be
looked at again costs some 25 us for its chunk, which serves its neighbours too, against 3 us of BLAKE2b for
every page.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from revirt.checkpoint.format import (
    MAX_PAGES,
    MAX_STATE,
    PAGE_SIZE,
    ZERO_PAGE,
    CheckpointInfo,
    HashPages,
    checkpoint_name,
    core_hash_pages,
    core_trim_heap,
    encode_checkpoint,
    from_bytes,
)
from revirt.checkpoint.store import PageStore
from revirt.log.frame import write_whole

# A bound on memory (some 8 MB), not a rule of the format: what was stored longer ago may be stored again.
_KNOWN_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Base:
    """What checkpoints go on from: pages that are not added are as *page_map* has them, an id for each page of memory.

    New pages get ids from *next_page* on, which is behind all of those; the first checkpoint is number *number*.
    """

    page_map: Sequence[int]
    next_page: int
    number: int = 0


class CheckpointWriter:
    """Stores checkpoints in *checkpoints* and *pages*, directories that exist and are empty.

    With a *base* the first of them goes on from a checkpoint elsewhere.

    One checkpoint is stored by `begin`, any number of `add_pages`, then `commit` (or `abandon`).
    All of them raise OSError if the host's file system does.
    """

    def __init__(
        self,
        checkpoints: Path,
        pages: Path,
        hash_pages: HashPages = core_hash_pages,
        *,
        evicts: bool = False,
        base: Base | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._hash_pages = hash_pages
        base = base or Base((), 1)
        self._store = PageStore(pages, evicts=evicts, next_id=base.next_page)
        (self._zero_hash,) = from_bytes("Q", hash_pages(ZERO_PAGE))
        self._map = array("Q", base.page_map)
        self._known: dict[int, int] = {}
        self._info: CheckpointInfo | None = None
        self._state = b""
        self.count = base.number
        """Number of the checkpoint that is to be on disk next: how many are, if they count from 0."""
        self._sizes: dict[int, int] = {}

    @property
    def size(self) -> int:
        """Bytes of checkpoints on disk, pages included, also of one that is not finished."""
        return sum(self._sizes.values()) + self._store.size + self._store.pending

    @property
    def spare(self) -> int:
        """Bytes that `evict` may need for a moment."""
        return self._store.largest

    def begin(self, info: CheckpointInfo, state: bytes) -> None:
        """Start a checkpoint with the machine state *state*; pages not added are as in the one before.

        Raises ValueError if there is more state than ``MAX_STATE`` bytes.
        """
        if len(state) > MAX_STATE:
            raise ValueError(f"a machine state of {len(state)} bytes is over the limit of {MAX_STATE}")
        if self._info is not None:
            raise ValueError(f"checkpoint {self._info.number} is not finished")
        self._info, self._state = info, state
        self._store.begin(info.number)

    def add_pages(self, numbers: bytes, contents: bytes | memoryview) -> None:
        """Add the pages with these *numbers* (32-bit little-endian) and *contents* (4096 bytes each).

        Raises ValueError if sizes do not match or a number is beyond ``MAX_PAGES``.
        """
        pages = from_bytes("I", numbers)
        if len(contents) != len(pages) * PAGE_SIZE:
            raise ValueError(f"{len(contents)} bytes for {len(pages)} pages")
        if not pages:
            return
        self._grow(max(pages) + 1)
        if len(self._known) > _KNOWN_LIMIT:
            for page_hash in list(islice(self._known, len(self._known) // 2)):
                del self._known[page_hash]
        page_map, known, store, zero_hash = self._map, self._known, self._store, self._zero_hash
        if store.evicts:
            for number in pages:
                store.release(page_map[number])
        view, start = memoryview(contents), 0
        for number, page_hash in zip(pages, from_bytes("Q", self._hash_pages(contents)), strict=True):
            page = view[start : start + PAGE_SIZE]
            start += PAGE_SIZE
            stored = known.get(page_hash)
            if stored is not None and store.holds(stored, bytes(page)):
                page_map[number] = stored
            elif page_hash == zero_hash and bytes(page) == ZERO_PAGE:
                page_map[number] = 0
            else:
                page_map[number] = known[page_hash] = store.add(page, page_hash)
        if store.evicts:
            for number in pages:
                store.use(page_map[number])

    def commit(self) -> None:
        """Finish the checkpoint: it is on disk when this returns."""
        info = self._info
        assert info is not None
        first, count = self._store.commit()
        parts = encode_checkpoint(info, self._state, self._map, first, count)
        self._sizes[info.number] = write_whole(self._checkpoints / checkpoint_name(info.number), *parts)
        self.count += 1
        self._info, self._state = None, b""
        # What many pages went through would stay with the process, as much as it ever was at once.
        core_trim_heap()

    def evict(self, oldest: int, *, all_of_it: bool = False) -> None:
        """Delete the checkpoints before number *oldest*, and their pages where no later one needs them.

        Pages that are not needed may stay in files that hold others, unless *all_of_it* is to go.
        """
        for number in [number for number in self._sizes if number < oldest]:
            (self._checkpoints / checkpoint_name(number)).unlink(missing_ok=True)
            del self._sizes[number]
        self._store.evict(oldest, all_of_it=all_of_it)

    def abandon(self) -> None:
        """Forget the checkpoint that was begun, if any; no other can be stored after it."""
        self._store.abandon()

    def _grow(self, length: int) -> None:
        if length > MAX_PAGES:
            raise ValueError(f"page number {length - 1} is not below {MAX_PAGES}")
        if length > len(self._map):
            self._map.extend(array("Q", bytes(8 * (length - len(self._map)))))
