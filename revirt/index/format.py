"""What the index of a recording looks like on disk.

``index/<8 digits>/`` is about the *stretch* of the recording from the checkpoint of that number to the next one, or
to the end.  A stretch is cut into *intervals*; where one begins, but for the first, there is a checkpoint.

    intervals         where intervals begin, which pages are written in each, and counts of instructions: see below
    <8 digits>.ckpt   ] the checkpoint at the beginning of the interval of that number, as `revirt.checkpoint.format`
    <8 digits>.pages  ] has it; its event is the one to come

In their page maps, ids below ``FIRST_ID`` are of the recording's pages; those of this stretch begin at
``FIRST_ID + (number of the stretch << STRETCH_BITS)``.

``intervals``::

    frame     see revirt.log.frame; magic "RVRTINDX"
    fields    identity      16s  BLAKE2b-128 of the recording's uuid and the checkpoint that the stretch begins with
              files         16s  BLAKE2b-128 of the headers of all other files, by name
              checkpoint    u32  the number of that
              first event   u64  ordinal of the first event of the stretch
              event end     u64  ordinal behind that of the last
              begin         u64  branches at which it begins
              end           u64  branches at which it ends
              instructions  u64  executed in it
              stride        u32  branches between two counts
              marks         u32  how many counts there are
              events        u32  how many counts of events there are: all, or none where they would be too many
              intervals     u32  how many intervals there are
              pages         u32  of the machine's memory
    payload   begins        u64  for each interval, branches
              marks         8 planes: instructions from the begin to each multiple of the stride behind it: differences
              events        8 planes: instructions from the begin to each event: differences
              written       a bitmap for each interval: a bit for every page, 1 if it is written; low bits first
              pending       for each interval: size u32, then all bytes in a row: output that no event before it has
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from revirt.checkpoint import CheckpointInfo
from revirt.checkpoint.format import (
    CHECKPOINT_FRAME,
    MAX_PAGES,
    PAGES_FRAME,
    decode_map,
    encode_map,
    from_bytes,
    number_of,
    to_bytes,
)
from revirt.errors import CorruptError
from revirt.log.events import LINE_LIMIT
from revirt.log.frame import Frame, Header, check_of, compress_fast, list_directory, read_start

INTERVALS = "intervals"

FIRST_ID = 1 << 60
STRETCH_BITS = 32
"""Each stretch has so many bits of ids to itself."""
MAX_STRETCH = 1 << 28
"""Stretches from this number on have no index."""

FRAME = Frame(b"RVRTINDX", 1, struct.Struct("<16s16sIQQQQQIIIII"), 64 << 20)
MAX_WRITTEN = 16 << 20
"""Most bytes of bitmaps in a stretch."""
MAX_COUNTS = 2 << 20
"""Most counts at multiples of the stride, and most of events, in a stretch."""
_IDENTITY = struct.Struct("<IQQB7xQQ")
_NAME = re.compile(r"\d{8,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StretchHeader:
    """What the header of a file of intervals says; fields as the module describes them."""

    identity: bytes
    files: bytes
    checkpoint: int
    first_event: int
    event_end: int
    begin: int
    end: int
    instructions: int
    stride: int
    marks: int
    events: int
    intervals: int
    pages: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file of intervals holds: counts of instructions are from the begin of the stretch on.

    ``written`` are bitmaps, ``pending`` the output that the replay has not compared yet where an interval begins.
    """

    begins: Sequence[int]
    marks: array[int]
    events: array[int]
    written: Sequence[bytes]
    pending: Sequence[bytes]


def stretch_name(number: int) -> str:
    """Return the name of the directory of stretch *number*."""
    return f"{number:08}"


def stretch_number(name: str) -> int | None:
    """Return the number of the stretch whose directory is called *name*, None if it is something else's."""
    is_one = _NAME.fullmatch(name) is not None and name == stretch_name(int(name))
    return int(name) if is_one and int(name) < MAX_STRETCH else None


def first_id(stretch: int) -> int:
    """Return the first id of a page of *stretch*."""
    return FIRST_ID + (stretch << STRETCH_BITS)


def stretch_of(page_id: int) -> int:
    """Return the number of the stretch that *page_id*, from ``FIRST_ID`` on, belongs to."""
    return (page_id - FIRST_ID) >> STRETCH_BITS


def identity_of(uuid: str, info: CheckpointInfo) -> bytes:
    """Return what tells the stretch behind the checkpoint *info* of the recording *uuid* from any other."""
    place = _IDENTITY.pack(info.number, info.event, info.branches, info.halted, info.pc, info.guest_ns)
    return check_of(place, uuid.encode(errors="surrogatepass"))


def files_check(directory: Path) -> bytes:
    """Return what tells the checkpoints and pages in *directory* from any others: 16 bytes.

    Headers have checks of all that follows them.  Raises CorruptError if one cannot be read.
    """
    paths = [path for path in list_directory(directory) if number_of(path) is not None]
    sizes = {".ckpt": CHECKPOINT_FRAME.header_size, ".pages": PAGES_FRAME.header_size}
    return check_of(*(path.name.encode() + read_start(path, sizes[path.suffix]) for path in paths))


def most_intervals(pages: int) -> int:
    """Return how many intervals a stretch may have, of a machine with so many *pages*."""
    return max(1, MAX_WRITTEN // max(1, -(-pages // 8)))


def encode_stretch(header: StretchHeader, contents: Contents) -> tuple[bytes, bytes]:
    """Return header and payload of a file of intervals, as `Frame.encode` does; raises as it."""
    fields = tuple(getattr(header, name) for name in StretchHeader.__slots__)
    payload = (
        to_bytes(array("Q", contents.begins)),
        encode_map(_differences(contents.marks)),
        encode_map(_differences(contents.events)),
        *contents.written,
        to_bytes(array("I", map(len, contents.pending))),
        *contents.pending,
    )
    return FRAME.encode(fields, b"".join(payload), compress_fast)


def decode_header(path: Path, data: bytes) -> tuple[Header, StretchHeader]:
    """Return the header at the start of *data*, from the file of intervals *path*; raises CorruptError."""
    frame = FRAME.decode_header(path, data)
    found = StretchHeader(*frame.fields)
    if path.parent.name != stretch_name(found.checkpoint):
        raise CorruptError(path, f"calls itself stretch {found.checkpoint}", offset=0)
    is_ordered = found.first_event <= found.event_end and found.begin <= found.end and found.stride
    if not is_ordered or not 0 < found.pages <= MAX_PAGES:
        raise CorruptError(path, "claims to end before it begins, or to be of no machine", offset=0)
    if found.events not in (0, found.event_end - found.first_event) or found.events > MAX_COUNTS:
        raise CorruptError(path, f"claims counts of {found.events} events", offset=0)
    if found.marks > MAX_COUNTS or found.marks > (found.end - found.begin) // found.stride + 1:
        raise CorruptError(path, f"claims {found.marks} counts", offset=0)
    if not 0 < found.intervals <= most_intervals(found.pages):
        raise CorruptError(path, f"claims {found.intervals} intervals", offset=0)
    return frame, found


def decode_contents(path: Path, data: bytes) -> Contents:
    """Return what *data*, all of the file of intervals *path*, holds; raises CorruptError."""
    frame, header = decode_header(path, data)
    raw = FRAME.decode_payload(path, frame, data[FRAME.header_size :], offset=FRAME.header_size)
    bitmap_size = -(-header.pages // 8)
    sizes = (
        *(8 * header.intervals, 8 * header.marks, 8 * header.events),
        *(bitmap_size * header.intervals, 4 * header.intervals),
    )
    ends = list(accumulate(sizes))
    if len(raw) < ends[-1]:
        raise CorruptError(path, f"a payload of {len(raw)} bytes, {ends[-1]} expected")
    parts = [memoryview(raw)[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    lengths = from_bytes("I", parts[4])
    if max(lengths) >= LINE_LIMIT or ends[-1] + sum(lengths) != len(raw):
        raise CorruptError(path, "its pending output does not add up")
    begins = from_bytes("Q", parts[0])
    bounds = [*begins, header.end + 1]
    if begins[0] != header.begin or any(before >= after for before, after in pairwise(bounds)):
        raise CorruptError(path, "its intervals are not in order")
    return Contents(
        begins,
        _sums(path, parts[1], header.instructions),
        _sums(path, parts[2], header.instructions),
        [bytes(parts[3][at : at + bitmap_size]) for at in range(0, len(parts[3]), bitmap_size)],
        list(_pieces(raw, ends[-1], lengths)),
    )


def interval_at(begins: Sequence[int], branches: int) -> int:
    """Return which of the intervals that begin at *begins* the line of branch number *branches* is in."""
    return max(0, bisect_right(begins, branches) - 1)


def _differences(counts: Iterable[int]) -> array[int]:
    return array("Q", [after - before for before, after in pairwise([0, *counts])])


def _pieces(raw: bytes, start: int, sizes: Iterable[int]) -> Iterator[bytes]:
    """Yield the pieces of *raw* from *start* on that have these *sizes*."""
    for size in sizes:
        yield raw[start : start + size]
        start += size


def _sums(path: Path, planes: memoryview, most: int) -> array[int]:
    """Return the counts whose differences are *planes*; raises CorruptError if they come to more than *most*."""
    differences = decode_map(bytes(planes))
    if sum(differences) > most:
        raise CorruptError(path, "counts more instructions than there are")
    return array("Q", accumulate(differences))
