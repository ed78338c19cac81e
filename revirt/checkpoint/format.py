"""The two files of a checkpoint: its new pages, and everything else.

``checkpoints/<8 digits>.ckpt``::

    frame     see revirt.log.frame; magic "RVRTCKPT"
    fields    number      u32  of the checkpoint, from 0
              event       u64  which event of the log is its CHECKPOINT, from 0
              branches    u64  ]
              pc          u64  ] where the machine stood
              halted      u8   ]
              guest time  u64  nanoseconds since the guest started
              state size  u32  bytes
              map length  u32  pages
              first page  u64  id of the first of the new pages
              page count  u32  new pages, with ids in a row
    payload   state       state size bytes, known to the machine only
              page map    8 planes of map length bytes: first the low bytes of all ids, then the next ...

``pages/<8 digits>.pages``, under the same number::

    frame     magic "RVRTPAGE"
    fields    number u32, first page u64, page count u32: as above
              present  u32  pages that are still there: no checkpoint that is left needs the others
    chunks    LZ4 blocks of 16 of these pages each (the last: what is left), one behind the other
    payload   for every chunk: stored size u32, BLAKE2b-128 of it as stored
              for every page that is there: its 64-bit hash
              for every page: a bit, 1 if it is there; low bits first

A page is 4096 bytes.  The page map holds, for every page number from 0, the id of what stood there: 0 for
zeros (also behind the end of the map), else where it is stored.  Ids count up from 1 through all files, so
that a page's file is found from the checkpoints' headers, and its chunk by division.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import CorruptError
from revirt.log.frame import CHECK_SIZE, Frame, Header, compress_fast, stored_limit

PAGE_SIZE = 4096
CHUNK_PAGES = 16
MAX_PAGES = 1 << 20
"""Most pages of memory that a machine may have: 4 GiB."""
MAX_STATE = 64 << 20
"""Most bytes of machine state in a checkpoint."""

CHECKPOINT_FRAME = Frame(b"RVRTCKPT", 1, struct.Struct("<IQQQBQIIQI"), MAX_STATE + 8 * MAX_PAGES)
CHUNK_ENTRY = struct.Struct(f"<I{CHECK_SIZE}s")
PAGES_FRAME = Frame(
    b"RVRTPAGE",
    1,
    struct.Struct("<IQII"),
    MAX_PAGES * 8 + MAX_PAGES // CHUNK_PAGES * CHUNK_ENTRY.size + MAX_PAGES // 8,
)
CHUNK_LIMIT = stored_limit(CHUNK_PAGES * PAGE_SIZE)
ZERO_PAGE = bytes(PAGE_SIZE)

HashPages = Callable[[bytes | memoryview], bytes]
"""Makes the 64-bit hashes, 8 bytes each and little-endian, of pages in a row."""

_NAME = re.compile(r"(\d{8,10})\.(ckpt|pages)", re.ASCII)


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Which checkpoint, and at which moment of the guest.

    ``event`` is the ordinal (from 0) in the log of the CHECKPOINT event that stands for it.
    """

    number: int
    branches: int
    halted: bool
    pc: int
    guest_ns: int
    event: int


@dataclass(frozen=True, slots=True)
class CheckpointHeader:
    """What the header of a checkpoint file says; sizes in bytes, ``first_page`` is an id."""

    info: CheckpointInfo
    frame: Header
    state_size: int
    map_length: int
    first_page: int
    page_count: int


def core_hash_pages(pages: bytes | memoryview) -> bytes:
    """Return the 64-bit hashes of *pages* as the core makes them."""
    # Only whoever stores or verifies pages needs the core: a recording is read without it.
    from revirt.core import hash_pages

    return hash_pages(pages)


def core_trim_heap() -> None:
    """Give memory that was freed back to the host, as the core does it."""
    from revirt.core import trim_heap

    trim_heap()


def checkpoint_name(number: int) -> str:
    """Return the name of the file of checkpoint *number*."""
    return f"{number:08}.ckpt"


def pages_name(number: int) -> str:
    """Return the name of the file of pages that are new in checkpoint *number*."""
    return f"{number:08}.pages"


def number_of(path: Path) -> int | None:
    """Return the number of the checkpoint that *path* belongs to, None if its name is of something else."""
    match = _NAME.fullmatch(path.name)
    # No leading zero more than `checkpoint_name` puts there: each number has one name.
    return int(match[1]) if match and match[1] == f"{int(match[1]):08}" else None


def decode_checkpoint_header(path: Path, data: bytes) -> CheckpointHeader:
    """Return the header at the start of *data*, from the checkpoint file *path*; raises CorruptError."""
    frame = CHECKPOINT_FRAME.decode_header(path, data)
    number, event, branches, pc, halted, guest_ns, state_size, map_length, first, count = frame.fields
    if number != number_of(path):
        raise CorruptError(path, f"calls itself checkpoint {number}", offset=0)
    if state_size > MAX_STATE or map_length > MAX_PAGES or frame.raw_size != state_size + 8 * map_length:
        raise CorruptError(path, f"{state_size} bytes of state with a map of {map_length} pages", offset=0)
    if not 0 < first <= first + count < 1 << 64 or count > MAX_PAGES or halted > 1:
        raise CorruptError(path, f"claims {count} pages from id {first}", offset=0)
    info = CheckpointInfo(number, branches, bool(halted), pc, guest_ns, event)
    return CheckpointHeader(info, frame, state_size, map_length, first, count)


def encode_checkpoint(
    info: CheckpointInfo, state: bytes, page_map: array[int], first_page: int, page_count: int
) -> tuple[bytes, bytes]:
    """Return header and payload of the file of the checkpoint *info*, as `Frame.encode` does; raises as it."""
    fields = (
        *(info.number, info.event, info.branches, info.pc, info.halted, info.guest_ns),
        *(len(state), len(page_map), first_page, page_count),
    )
    return CHECKPOINT_FRAME.encode(fields, state + encode_map(page_map), compress_fast)


def encode_map(page_map: array[int]) -> bytes:
    """Return *page_map*, ids of 64 bits, as eight planes."""
    whole = to_bytes(page_map)
    return b"".join(whole[plane::8] for plane in range(8))


def decode_map(planes: bytes) -> array[int]:
    """Return the page map that `encode_map` was given."""
    whole = bytearray(len(planes))
    length = len(planes) // 8
    for plane in range(8):
        whole[plane::8] = planes[plane * length : (plane + 1) * length]
    return from_bytes("Q", whole)


def to_bytes(values: array[int]) -> bytes:
    """Return *values* as little-endian bytes."""
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def from_bytes(typecode: str, data: bytes | bytearray | memoryview) -> array[int]:
    """Return the little-endian values in *data*: 32 bits each for typecode "I", 64 for "Q"."""
    values = array(typecode)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
