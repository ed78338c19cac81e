"""A disk's contents: a base that is only read, and over it what the guest wrote.

What the guest wrote is in the machine's store, memory behind RAM, and so in its digests, checkpoints and snapshots
like everything else that the guest can see::

    page 0        u32  how many blocks of the overlay are in use
    table         u32  for every block of the disk: 0 as in the base, else its block in the overlay, from 1
    overlay       blocks of 4096 bytes, in the order in which they were first written

A block is copied from the base before a part of it is written.
"""

from __future__ import annotations

from typing import Protocol

from revirt.machine.devices import BLOCK_SIZE, SECTOR_SIZE, Disk


class DiskError(Exception):
    """A request that a disk cannot serve: beyond its end, to a disk that is only read, or there is no room."""


class Base(Protocol):
    """What a disk holds at first."""

    def read(self, offset: int, size: int) -> bytes:
        """Return *size* bytes from *offset*; raises HostError if the host cannot read them."""
        ...


class DiskContents:
    """The contents of a disk as *config* has it, over *base*, with what is written in *store*."""

    def __init__(self, config: Disk, base: Base, store: memoryview) -> None:
        if len(store) != config.store_size:
            raise ValueError(f"an overlay takes {config.store_size} bytes of store, not {len(store)}")
        self.sectors = config.size // SECTOR_SIZE
        self.is_read_only = not config.overlay
        self.was_full = False
        """Whether a write was refused because the overlay had no room; told to people, and no part of any state."""
        self._config = config
        self._base = base
        self._store = store
        words = store.cast("I")
        self._count = words[: BLOCK_SIZE // 4]
        self._table = words[BLOCK_SIZE // 4 :][: config.blocks]
        self._overlay = store[config.store_size - config.overlay * BLOCK_SIZE :]

    @property
    def used(self) -> int:
        """How many blocks the guest has written."""
        return 0 if self.is_read_only else min(self._count[0], self._config.overlay)

    @property
    def room(self) -> int:
        """How many bytes of it, in whole blocks, the guest may write in all."""
        return self._config.overlay * BLOCK_SIZE

    @property
    def store_size(self) -> int:
        """Bytes of store that belong to it."""
        return self._config.store_size

    @property
    def used_size(self) -> int:
        """Bytes from the beginning of that which may hold something."""
        return self.store_size - (self._config.overlay - self.used) * BLOCK_SIZE

    def read(self, sector: int, count: int) -> bytes:
        """Return *count* sectors from *sector* on; raises DiskError."""
        self._check(sector, count)
        parts: list[bytes | memoryview] = []
        start, end = sector * SECTOR_SIZE, (sector + count) * SECTOR_SIZE
        base_start = start
        while start < end:
            block, offset = divmod(start, BLOCK_SIZE)
            stop = min(end, start - offset + BLOCK_SIZE)
            slot = self._slot(block)
            if slot is not None:
                if base_start < start:
                    parts.append(self._base.read(base_start, start - base_start))
                parts.append(slot[offset : offset + stop - start])
                base_start = stop
            start = stop
        if base_start < end:
            parts.append(self._base.read(base_start, end - base_start))
        return b"".join(parts)

    def write(self, sector: int, data: bytes) -> None:
        """Write *data*, whole sectors, from *sector* on; raises DiskError, having written nothing."""
        count = len(data) // SECTOR_SIZE
        self._check(sector, count)
        if self.is_read_only:
            raise DiskError("the disk is read-only")
        if not count:
            return
        start, end = sector * SECTOR_SIZE, sector * SECTOR_SIZE + len(data)
        blocks = range(start // BLOCK_SIZE, -(-end // BLOCK_SIZE))
        if self.used + sum(self._slot(block) is None for block in blocks) > self._config.overlay:
            self.was_full = True
            raise DiskError("the overlay is full")
        view = memoryview(data)
        for block in blocks:
            first, last = max(start, block * BLOCK_SIZE), min(end, (block + 1) * BLOCK_SIZE)
            slot = self._slot(block)
            if slot is None:
                slot = self._take_slot(block, is_whole=last - first == BLOCK_SIZE)
            slot[first - block * BLOCK_SIZE : last - block * BLOCK_SIZE] = view[first - start : last - start]

    def _check(self, sector: int, count: int) -> None:
        if not 0 <= sector <= sector + count <= self.sectors:
            raise DiskError(f"{count} sectors from {sector} are not on a disk of {self.sectors}")

    def _slot(self, block: int) -> memoryview | None:
        """Return *block* of the overlay, None if it is as in the base."""
        # A checkpoint that was tampered with may name any: one that is not in use yet is none.
        number = 0 if self.is_read_only else self._table[block]
        if not 0 < number <= self.used:
            return None
        return self._overlay[(number - 1) * BLOCK_SIZE : number * BLOCK_SIZE]

    def _take_slot(self, block: int, *, is_whole: bool) -> memoryview:
        number = self.used + 1
        self._count[0] = self._table[block] = number
        slot = self._overlay[(number - 1) * BLOCK_SIZE : number * BLOCK_SIZE]
        if not is_whole:
            start = block * BLOCK_SIZE
            size = min(BLOCK_SIZE, self._config.size - start)
            slot[:size] = self._base.read(start, size)
        return slot
