"""A recording to be edited by somebody who knows the format: what is written has right checks, chains and counts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from revirt.checkpoint import CheckpointInfo, CheckpointWriter
from revirt.checkpoint.format import PAGE_SIZE
from revirt.core import hash_pages
from revirt.log import segment
from revirt.log.chain import SEALED, Chain
from revirt.log.events import DIGEST_SIZE, Event, Kind
from revirt.log.frame import check_of
from revirt.log.rows import rows_of
from revirt.recording import Manifest, Recording, layout
from revirt.recording.manifest import NAME

_Memory = dict[int, bytes]


@dataclass(slots=True)
class Stored:
    """A checkpoint: where it stands, the machine's state, and all of memory that is not zeros, by page number."""

    info: CheckpointInfo
    state: bytes
    memory: _Memory


@dataclass(slots=True)
class Book:
    """A recording in memory; made by `read`, written by `write`.

    ``segments`` are lists of events, the first being segment ``manifest.start.segment``.
    """

    manifest: Manifest
    segments: list[list[Event]]
    checkpoints: list[Stored]
    changed: set[int] = field(default_factory=set)
    """Numbers of the checkpoints whose state or memory was changed."""

    @classmethod
    def read(cls, path: Path) -> Book:
        """Return the recording in *path*."""
        recording = Recording.open(path)
        segments = [segment.read(each.path)[1] for each in recording.segments]
        stored = []
        for info in recording.checkpoints:
            loaded = recording.load_checkpoint(info.number)
            memory: _Memory = {}
            for numbers, contents in loaded.batches():
                for place in range(len(numbers) // 4):
                    number = int.from_bytes(numbers[place * 4 : place * 4 + 4], "little")
                    memory[number] = contents[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]
            stored.append(Stored(info, loaded.state, memory))
        return cls(recording.manifest, segments, stored)

    @property
    def page_count(self) -> int:
        """Pages of memory that the machine has."""
        return int(self.manifest.machine["memory"]) // PAGE_SIZE

    def write(self, path: Path) -> None:
        """Put this recording in place of the one in *path*, whose seal stays as it is; raises ValueError if no such
        recording can be written.
        """
        self._settle()
        for name in (layout.LOG, layout.CHECKPOINTS, layout.PAGES):
            shutil.rmtree(path / name)
            (path / name).mkdir()
        ordinal, start = self.manifest.start.event, self.manifest.start.segment
        for index, events in enumerate(self.segments, start):
            data = segment.encode(index, ordinal, rows_of(events))
            (path / layout.LOG / segment.file_name(index)).write_bytes(data)
            ordinal += len(events)
        writer = CheckpointWriter(path / layout.CHECKPOINTS, path / layout.PAGES)
        before: _Memory = {}
        for each in self.checkpoints:
            writer.begin(each.info, each.state)
            numbers, contents = changes_of(before, each.memory)
            writer.add_pages(numbers, contents)
            writer.commit()
            before = each.memory
        self.write_manifest(path)

    def write_manifest(self, path: Path) -> None:
        """Put the manifest alone in its place."""
        target = path / NAME
        target.unlink()
        target.write_text(self.manifest.to_json())

    def _settle(self) -> None:
        """Let everything that follows from something else follow from it."""
        ordinal = self.manifest.start.event
        chain: Chain | None = Chain() if ordinal == 0 else None
        places: dict[int, tuple[int, Event]] = {}
        by_number = {each.info.number: each for each in self.checkpoints}
        for events in self.segments:
            for place, event in enumerate(events):
                following = _next(events, place)
                if event.kind is Kind.DIGEST and following is not None and following.number in self.changed:
                    event = _with_memory(event, self._memory_digest(by_number[following.number].memory))
                elif event.kind is Kind.CHECKPOINT and event.number in by_number:
                    event = event._replace(data=check_of(by_number[event.number].state))
                    places.setdefault(event.number, (ordinal, event))
                chain, events[place] = _chained(chain, event)
                ordinal += 1
        for each in self.checkpoints:
            if each.info.number in places:
                at, event = places[each.info.number]
                each.info = replace(
                    each.info, event=at, branches=event.branches, halted=event.halted, pc=event.pc
                )
        if self.manifest.end is not None and "events" in self.manifest.end:
            count = self.manifest.start.checkpoint + len(self.checkpoints)
            counts = {"events": ordinal, "checkpoints": count}
            self.manifest = replace(self.manifest, end={**self.manifest.end, **counts})

    def _memory_digest(self, memory: _Memory) -> bytes:
        pages = (memory.get(number, bytes(PAGE_SIZE)) for number in range(self.page_count))
        return check_of(b"".join(hash_pages(page) for page in pages))


def changes_of(before: _Memory, now: _Memory) -> tuple[bytes, bytes]:
    """Return numbers and contents of the pages that differ between *before* and *now*, as recorders store them."""
    numbers = [
        number for number in sorted(before.keys() | now.keys()) if before.get(number) != now.get(number)
    ]
    zeros = bytes(PAGE_SIZE)
    packed = b"".join(number.to_bytes(4, "little") for number in numbers)
    return packed, b"".join(now.get(number, zeros) for number in numbers)


def _chained(chain: Chain | None, event: Event) -> tuple[Chain | None, Event]:
    """Return the chain behind *event*, and it with the hash that it has to carry."""
    if chain is None:
        # Where the beginning was evicted the first hash is believed.
        return (Chain(event.number) if event.kind in SEALED else None), event
    if event.kind in SEALED:
        return chain, chain.seal(event)
    chain.add(event)
    return chain, event


def _next(events: list[Event], place: int) -> Event | None:
    following = events[place + 1] if place + 1 < len(events) else None
    return following if following is not None and following.kind is Kind.CHECKPOINT else None


def _with_memory(event: Event, digest: bytes) -> Event:
    data: Any = event.data
    return event._replace(data=data[:DIGEST_SIZE] + digest + data[2 * DIGEST_SIZE :])
