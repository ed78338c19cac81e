"""A pack: a recording as one file, the same bytes wherever and whenever it is made.

A pack is a tar archive (POSIX ustar) in the one form that this module makes, and no other::

    revirt.pack              the index
    recording/manifest.json  ]  the files of the recording:
    recording/...            ]  the manifest first, the others by name
    1024 zeros

Each of these has a header of 512 bytes, its contents, and zeros up to a multiple of 512.  The index is ASCII::

    # revirt pack 1
    # 1423 bytes                                             for every file, in order: its size,
    BLAKE2b-256 (recording/manifest.json) = <64 digits>      and its digest, as b2sum --tag writes it
    # check <64 digits>                                      BLAKE2b-256 of the lines above, in hex

Rules:
- Every byte follows from the index and the contents.  A reader makes the headers that belong there and compares
  them; it takes nothing from a header but the size of the index.
- The index is believed only after its check.  Its place, its first line and its last stay as they are in all
  versions of the format.
- Only files that a recording may have are in it, each once, in their order.
- Images of disks, compressed, may be in it besides, as ``recording/disks/0.zst``; if any is the version is 2, else 1.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from revirt.errors import CorruptError, FormatVersionError
from revirt.recording import layout, manifest

VERSION = 2
_WITHOUT_IMAGES = 1
"""The version of a pack without images of disks, as all were at first."""
SUFFIX = ".revirt"
"""How the names of packs end, unless somebody wants another name."""
INDEX_NAME = "revirt.pack"
ROOT = "recording"
BLOCK = 512
END = bytes(2 * BLOCK)
DIGEST_SIZE = 32

INDEX_LIMIT = 64 << 20
"""Most bytes that an index may have: enough for half a million files."""
MEMBER_LIMIT = 8**11 - 1
"""Most bytes that a file may have: eleven octal digits."""

# name, mode, uid, gid, size, mtime, chksum, typeflag, linkname, magic, version, uname, gname, devmajor, devminor,
# prefix: POSIX.1-2017, pax, "ustar Interchange Format".
HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_SIZE_START, _SIZE_END = 124, 135
_CHECKSUM_START, _CHECKSUM_END = 148, 156

_OCTAL = re.compile(rb"[0-7]{11}")
_FIRST = re.compile(rb"# revirt pack ([1-9][0-9]{0,8})\n")
_ENTRY = re.compile(
    rb"# (0|[1-9][0-9]{0,9}) bytes\n"
    rb"BLAKE2b-256 \(" + ROOT.encode() + rb"/([\w./-]{1,80})\) = ([0-9a-f]{64})\n"
)
_LAST = re.compile(rb"# check ([0-9a-f]{64})\n")
_LAST_SIZE = len("# check \n") + 2 * DIGEST_SIZE


def new_digest() -> blake2b:
    """Return an empty BLAKE2b-256."""
    return blake2b(digest_size=DIGEST_SIZE)


def padding(size: int) -> int:
    """Return how many zeros follow *size* bytes of contents."""
    return -size % BLOCK


def encode_header(name: str, size: int) -> bytes:
    """Return the header of the file *name* in the archive, of *size* bytes.

    Raises ValueError if they do not fit into one.
    """
    if len(name) > 100 or not 0 <= size <= MEMBER_LIMIT:
        raise ValueError(f"{name!r} of {size} bytes does not fit into a pack")
    zero, number = b"0000000\0", b"%011o\0"
    header = HEADER.pack(
        *(name.encode("ascii"), b"0000644\0", zero, zero, number % size, number % 0, b" " * 8, b"0"),
        *(b"", b"ustar\0", b"00", b"", b"", zero, zero, b""),
    )
    return header[:_CHECKSUM_START] + b"%06o\0 " % sum(header) + header[_CHECKSUM_END:]


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a recording: its *name* there, as ``log/00000000.seg``, its *size* in bytes, its BLAKE2b-256."""

    name: str
    size: int
    digest: bytes

    @property
    def packed_name(self) -> str:
        """Its name in the archive."""
        return f"{ROOT}/{self.name}"

    @property
    def header(self) -> bytes:
        """Its header in the archive."""
        return encode_header(self.packed_name, self.size)


class Index:
    """What is in a pack.  Iterating over it yields the members in their order; ``data`` is the index as stored.

    Made by `of` and `decode`.  It is kept as bytes, and members are made of them when they are asked for: there may
    be hundreds of thousands.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.data = data
        self._path = path
        self.count = 0
        """How many members there are."""
        self.has_images = False
        """Whether there are images of disks among them."""
        size = BLOCK + len(data) + padding(len(data)) + len(END)
        for member in self:
            self.count += 1
            self.has_images |= layout.packed_disk(member.name) is not None
            size += BLOCK + member.size + padding(member.size)
        self.pack_size = size
        """Bytes of the whole pack."""

    @classmethod
    def of(cls, path: Path, members: Iterable[Member], *, has_images: bool = False) -> Index:
        """Return the index of *members*, which are in their order, of the recording *path*.

        *has_images* says whether images of disks are among them.

        Raises CorruptError if there are too many.
        """
        data = bytearray(b"# revirt pack %d\n" % (VERSION if has_images else _WITHOUT_IMAGES))
        for each in members:
            data += b"# %d bytes\n" % each.size
            data += f"BLAKE2b-256 ({each.packed_name}) = {each.digest.hex()}\n".encode()
            if len(data) > INDEX_LIMIT - _LAST_SIZE:
                raise CorruptError(path, "has more files than a pack can hold", hint="")
        digest = new_digest()
        digest.update(data)
        data += f"# check {digest.hexdigest()}\n".encode()
        return cls(path, bytes(data))

    @classmethod
    def decode(cls, path: Path, data: bytes) -> Index:
        """Return the index *data* of the pack *path*.

        Raises CorruptError, or FormatVersionError if a newer revirt made the pack.
        """
        last = _LAST.fullmatch(data, max(0, len(data) - _LAST_SIZE))
        digest = new_digest()
        digest.update(memoryview(data)[:-_LAST_SIZE])
        if last is None or last[1].decode() != digest.hexdigest():
            raise _corrupt(path, "the index does not match its check", 0)
        first = _FIRST.match(data)
        if first is None:
            raise _corrupt(path, "the index has no format version", 0)
        if int(first[1]) > VERSION:
            raise FormatVersionError(path, int(first[1]), VERSION)
        index = cls(path, data)
        if index.has_images != (int(first[1]) != _WITHOUT_IMAGES):
            raise _corrupt(path, f"images of disks are in version {VERSION} only, and in each of that", 0)
        return index

    def __iter__(self) -> Iterator[Member]:
        first = _FIRST.match(self.data)
        assert first is not None
        place, end = first.end(), len(self.data) - _LAST_SIZE
        before: tuple[bool, str] | None = None
        while place < end or before is None:
            entry = _ENTRY.match(self.data, place, end)
            if entry is None:
                raise _corrupt(self._path, "not what an index says of a file", place)
            member = Member(entry[2].decode(), int(entry[1]), bytes.fromhex(entry[3].decode()))
            key = layout.in_order(member.name)
            is_known = layout.is_member(member.name) or layout.packed_disk(member.name) is not None
            if not is_known or member.size > MEMBER_LIMIT:
                raise _corrupt(
                    self._path, f"{member.name} of {member.size} bytes is no file of a recording", place
                )
            if member.name != manifest.NAME if before is None else key <= before:
                raise _corrupt(self._path, f"{member.name} is not in its place", place)
            yield member
            place, before = entry.end(), key


def decode_index_header(path: Path, header: bytes) -> int:
    """Return the size in bytes of the index, whose *header* begins the pack *path*; raises CorruptError."""
    if not header.startswith(INDEX_NAME.encode() + b"\0"):
        raise CorruptError(path, "this is not a pack", hint="packs are made by 'revirt pack'")
    digits = header[_SIZE_START:_SIZE_END]
    if not _OCTAL.fullmatch(digits) or header != encode_header(INDEX_NAME, int(digits, 8)):
        raise corrupt_pack(path, "the header of the index is not one of a pack", 0)
    if int(digits, 8) > INDEX_LIMIT:
        raise corrupt_pack(path, f"an index of {int(digits, 8)} bytes", 0)
    return int(digits, 8)


def corrupt_pack(path: Path, problem: str, offset: int) -> CorruptError:
    """Return the error for a *problem* at *offset* of the pack *path*."""
    return CorruptError(path, problem, offset=offset, hint="get the pack again from where it came")


def _corrupt(path: Path, problem: str, place: int) -> CorruptError:
    """Return the error for a *problem* at *place* in the index."""
    return corrupt_pack(path, problem, BLOCK + place)
