"""What a recording is made of: its log by kind of event, and its checkpoints.

Rules:
- Everything is counted from the files, so that a recording in the making or an interrupted one has its statistics, too.
- The kinds of event in a segment are compressed together: what each takes on disk cannot be known.  It is given in
  proportion to what each takes before compression, so that the kinds of a segment add up to its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from revirt.checkpoint.format import checkpoint_name
from revirt.errors import CorruptError
from revirt.log import segment
from revirt.log.columns import Share
from revirt.log.events import Kind
from revirt.recording.layout import CHECKPOINTS
from revirt.recording.machine import machine_of
from revirt.recording.reader import Recording

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class KindStats:
    """What the events of a kind take: ``data_bytes`` they carry, ``raw_bytes`` as columns, ``disk_bytes`` compressed.

    ``per_million_branches`` and ``per_million_instructions`` are bytes on disk, None where nothing was executed or
    nobody counted.
    """

    kind: str
    events: int
    data_bytes: int
    raw_bytes: int
    disk_bytes: int
    per_million_branches: float | None
    per_million_instructions: float | None


@dataclass(frozen=True, slots=True)
class LogStats:
    """A log: *kinds* that occur in it, all of them together in *total*, and the branches of its first and last event.

    ``ratio`` is bytes before compression for each on disk, None for an empty log.
    """

    segments: int
    first_branches: int
    last_branches: int
    kinds: list[KindStats]
    total: KindStats
    ratio: float | None


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """A checkpoint, and its pages of memory: ``pages`` in all are new, shared or zero.

    ``new_pages`` were stored with it.  ``shared_pages`` hold what was stored before, with an earlier checkpoint or for
    another page of this one.  ``zero_pages`` hold zeros, and are not stored.  ``bytes`` are those of its files.
    """

    number: int
    event: int
    branches: int
    guest_ns: int
    pages: int
    new_pages: int
    shared_pages: int
    zero_pages: int
    bytes: int


def log_stats(recording: Recording, instructions: int | None = None) -> LogStats:
    """Return what the log of *recording* consists of; *instructions* is how many were executed over all of it.

    Reads the log once.  Raises CorruptError for damage.
    """
    raw: dict[Kind, Share] = {}
    stored: dict[Kind, int] = {}
    found = [segment.measure(each.path) for each in recording.segments]
    for each, shares in found:
        for kind, size in _apportion(each.size, shares):
            raw[kind] = raw.get(kind, Share()) + shares[kind]
            stored[kind] = stored.get(kind, 0) + size
    first, last = (found[0][0].first_branches, found[-1][0].last_branches) if found else (0, 0)

    def kind_stats(label: str, share: Share, size: int) -> KindStats:
        return KindStats(
            label,
            share.events,
            share.data,
            share.raw,
            size,
            _per_million(size, last - first),
            _per_million(size, instructions),
        )

    kinds = [kind_stats(kind.label, raw[kind], stored[kind]) for kind in sorted(raw)]
    total = kind_stats("total", sum(raw.values(), Share()), sum(stored.values()))
    ratio = total.raw_bytes / total.disk_bytes if total.disk_bytes else None
    return LogStats(len(found), first, last, kinds, total, ratio)


def checkpoint_stats(recording: Recording) -> Iterator[CheckpointStats]:
    """Yield what each checkpoint of *recording* consists of, by number; raises CorruptError for damage."""
    memory_pages = _memory_pages(recording)
    new_pages = recording.new_pages
    for info in recording.checkpoints:
        used, new = recording.load_checkpoint(info.number).page_count, new_pages[info.number]
        if not new <= used <= memory_pages:
            path = recording.path / CHECKPOINTS / checkpoint_name(info.number)
            raise CorruptError(path, f"maps {used} pages, {new} of them new, of a memory of {memory_pages}")
        yield CheckpointStats(
            number=info.number,
            event=info.event,
            branches=info.branches,
            guest_ns=info.guest_ns,
            pages=memory_pages,
            new_pages=new,
            shared_pages=used - new,
            zero_pages=memory_pages - used,
            bytes=recording.checkpoint_size(info.number),
        )


def _apportion(size: int, shares: Mapping[Kind, Share]) -> Iterator[tuple[Kind, int]]:
    """Yield the part of *size* bytes for each kind; together they are all of it."""
    whole = sum(share.raw for share in shares.values())
    before = 0
    for kind, share in shares.items():
        after = before + share.raw
        yield kind, size * after // whole - size * before // whole
        before = after


def _per_million(size: int, count: int | None) -> float | None:
    return size * _MILLION / count if count else None


def _memory_pages(recording: Recording) -> int:
    return machine_of(recording.path, recording.manifest).page_count
