"""A segment: a run of events in a file of its own, readable without any other.

::

    frame     see revirt.log.frame; magic "RVRTSEGM"
    fields    index            u32  of this segment, from 0
              count            u32  events in it, 1 to 65,536
              ordinal          u64  of its first event in the whole log, from 0
              first branches   u64  of its first event
              last branches    u64  of its last event
    payload   the events, see revirt.log.columns

Rules:
- A segment is whole or absent: readers see it only after its rename.
- Indices have no gaps, ordinals follow one another, branches never decrease from one segment to the next.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import CorruptError
from revirt.log import columns
from revirt.log.columns import Share
from revirt.log.events import Event, Kind
from revirt.log.frame import (
    Frame,
    Header,
    compress_fast,
    compress_small,
    read_file,
    read_start,
    stored_limit,
)
from revirt.log.rows import Rows

FRAME = Frame(b"RVRTSEGM", 2, struct.Struct("<IIQQQ"), columns.RAW_LIMIT)
"""Version 2 may have events that version 1 has not: those of networks, disks, keyboards and entropy."""
_MOSTLY_DATA = 8
"""How many times the size of its events their data has to be for a segment to be packed in a hurry."""
_NAME = re.compile(r"(\d{8,10})\.seg", re.ASCII)


@dataclass(frozen=True, slots=True)
class Segment:
    """What the header of a segment says: ``ordinal`` is that of its first event, ``size`` bytes on disk."""

    path: Path
    index: int
    count: int
    ordinal: int
    first_branches: int
    last_branches: int
    size: int


def encode(index: int, ordinal: int, rows: Rows) -> bytes:
    """Return *rows* as the segment number *index*, whose first event is the *ordinal*-th of the log.

    Raises ValueError.
    """
    raw = columns.encode(rows)
    fields = (index, rows.count, ordinal, rows.first_branches, rows.last_branches)
    # What networks bring is compressed or encrypted as a rule: effort would cost more than all else that is recorded.
    compress = compress_fast if len(rows.data) > _MOSTLY_DATA * len(rows.rows) else compress_small
    header, stored = FRAME.encode(fields, raw, compress)
    return header + stored


def file_name(index: int) -> str:
    """Return the name of the file of segment *index*."""
    return f"{index:08}.seg"


def index_of(path: Path) -> int | None:
    """Return which segment is kept in *path*, None if its name is not that of a segment."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and path.name == file_name(int(match[1])) else None


def read_header(path: Path) -> Segment:
    """Return what the segment in *path* says of itself; raises CorruptError or FormatVersionError."""
    return _segment(path, FRAME.decode_header(path, read_start(path, FRAME.header_size)))


def read(path: Path) -> tuple[Segment, list[Event]]:
    """Return the segment in *path* with its events, fully checked.

    Raises CorruptError or FormatVersionError.
    """
    segment, raw = _read_raw(path)
    try:
        events = columns.decode(raw, segment.count)
    except ValueError as error:
        raise CorruptError(path, str(error), offset=FRAME.header_size) from error
    if (events[0].branches, events[-1].branches) != (segment.first_branches, segment.last_branches):
        raise CorruptError(path, "header and events differ about where they stand", offset=FRAME.header_size)
    return segment, events


def measure(path: Path) -> tuple[Segment, dict[Kind, Share]]:
    """Return the segment in *path* with what each kind of event takes of it before compression.

    Raises CorruptError or FormatVersionError.
    """
    segment, raw = _read_raw(path)
    try:
        return segment, columns.measure(raw, segment.count)
    except ValueError as error:
        raise CorruptError(path, str(error), offset=FRAME.header_size) from error


def _read_raw(path: Path) -> tuple[Segment, bytes]:
    """Return the segment in *path* with its columns, unpacked."""
    data = read_file(path, FRAME.header_size + stored_limit(FRAME.raw_limit))
    header, raw = FRAME.decode(path, data)
    return _segment(path, header), raw


def _segment(path: Path, header: Header) -> Segment:
    index, count, ordinal, first, last = header.fields
    if index != index_of(path):
        raise CorruptError(path, f"calls itself segment {index}", offset=0)
    if not 0 < count <= columns.MAX_EVENTS or first > last:
        raise CorruptError(path, f"claims {count} events from {first} to {last} branches", offset=0)
    return Segment(path, index, count, ordinal, first, last, FRAME.header_size + header.stored_size)
