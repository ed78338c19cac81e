"""What every binary file of a recording has around its content: a header, checks, and one compressed payload.

::

    offset  size  field
    0       8     magic          tells the kind of file
    8       2     version        of this kind of file
    10      2     header size    bytes before the payload (or before whatever the kind puts in between)
    12      16    header check   BLAKE2b-128 of the header without these 16 bytes
    28      4     raw size       bytes of the payload before compression
    32      4     stored size    bytes of the payload as stored
    36      16    payload check  BLAKE2b-128 of the payload as stored
    52      ...   fields         of this kind of file
            ...   payload        one LZ4 block

Integers are little-endian.  Rules:

- The header is believed only after its check, the payload is unpacked only after its own.  So a flipped bit
  anywhere is noticed, and a version number means what it says.
- Sizes are compared with the kind's limits before anything is allocated: a check is no proof of good intent.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import lz4.block

from revirt.errors import CorruptError, FormatVersionError, RecordingError

PREFIX = struct.Struct("<8sHH16sII16s")
CHECK_SIZE = 16
_CHECK_START = 12
_CHECK_END = _CHECK_START + CHECK_SIZE

LZ4_RATIO = 255
"""Most bytes that one byte of an LZ4 block can stand for."""

Compress = Callable[[bytes], bytes]


def check_of(*parts: bytes | memoryview) -> bytes:
    """Return the BLAKE2b-128 digest of *parts* in a row: 16 bytes."""
    digest = blake2b(digest_size=CHECK_SIZE)
    for part in parts:
        digest.update(part)
    return digest.digest()


def compress_small(raw: bytes) -> bytes:
    """Return *raw* as an LZ4 block made with effort: for the log, of which there is little."""
    block: bytes = lz4.block.compress(raw, mode="high_compression", compression=4, store_size=False)
    return block if raw else b""


def compress_fast(raw: bytes) -> bytes:
    """Return *raw* as an LZ4 block made in a hurry: for memory pages, of which there are many."""
    block: bytes = lz4.block.compress(raw, mode="fast", acceleration=4, store_size=False)
    return block if raw else b""


def stored_limit(raw_size: int) -> int:
    """Return the most bytes that an LZ4 block of *raw_size* bytes can take (LZ4_COMPRESSBOUND)."""
    return raw_size + raw_size // 255 + 16


def decompress(path: Path, stored: bytes, raw_size: int, *, offset: int) -> bytes:
    """Return the *raw_size* bytes in the LZ4 block *stored*, which stood at *offset* of *path*.

    Raises CorruptError unless the block holds exactly that much; allocates no more than 255 times its size.
    """
    if raw_size == 0 and not stored:
        return b""
    if not 0 < raw_size <= len(stored) * LZ4_RATIO:
        raise CorruptError(path, f"{len(stored)} bytes cannot hold {raw_size}", offset=offset)
    try:
        raw: bytes = lz4.block.decompress(stored, uncompressed_size=raw_size)
    except lz4.block.LZ4BlockError as error:
        raise CorruptError(path, "not a valid LZ4 block", offset=offset) from error
    if len(raw) != raw_size:
        raise CorruptError(path, f"{len(raw)} bytes where {raw_size} were stored", offset=offset)
    return raw


@dataclass(frozen=True, slots=True)
class Header:
    """A header whose check was right: the ``fields`` of its kind, and about the payload, sizes in bytes."""

    fields: tuple[Any, ...]
    raw_size: int
    stored_size: int
    payload_check: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """A kind of file: its magic, version and fields, and the largest payload it may have (in bytes).

    Files from version ``oldest`` on have the same fields.
    """

    magic: bytes
    version: int
    fields: struct.Struct
    raw_limit: int
    oldest: int = 1

    @property
    def header_size(self) -> int:
        """Size of the header in bytes."""
        return PREFIX.size + self.fields.size

    def encode(self, fields: tuple[Any, ...], raw: bytes, compress: Compress) -> tuple[bytes, bytes]:
        """Return the header and the stored payload for *raw*.

        Raises ValueError if *raw* is larger than a reader would accept, or a field does not fit its width.
        """
        if len(raw) > self.raw_limit:
            raise ValueError(f"a payload of {len(raw)} bytes is over the limit of {self.raw_limit}")
        try:
            packed = self.fields.pack(*fields)
        except struct.error as error:
            raise ValueError(f"fields {fields} do not fit: {error}") from error
        stored = compress(raw)
        rest = struct.pack("<II16s", len(raw), len(stored), check_of(stored)) + packed
        start = struct.pack("<8sHH", self.magic, self.version, self.header_size)
        return start + check_of(start, rest) + rest, stored

    def decode_header(self, path: Path, data: bytes) -> Header:
        """Return the header at the start of *data*, which begins the file *path*.

        Raises CorruptError, or FormatVersionError if a newer revirt wrote it.
        """
        if len(data) < PREFIX.size:
            raise CorruptError(path, f"cut short: {len(data)} bytes", offset=len(data))
        magic, version, size, check, raw_size, stored_size, payload_check = PREFIX.unpack_from(data)
        if magic != self.magic:
            raise CorruptError(path, f"does not begin with {self.magic!r}", offset=0)
        if not PREFIX.size <= size <= len(data):
            raise CorruptError(path, f"header size {size} does not fit the file", offset=10)
        if check_of(data[:_CHECK_START], data[_CHECK_END:size]) != check:
            raise CorruptError(path, "header does not match its check", offset=_CHECK_START)
        if version > self.version:
            raise FormatVersionError(path, version, self.version)
        if version < self.oldest or size != self.header_size:
            raise CorruptError(path, f"version {version} with a header of {size} bytes", offset=8)
        if raw_size > self.raw_limit or stored_size > stored_limit(raw_size):
            raise CorruptError(path, f"payload of {raw_size} bytes, stored as {stored_size}", offset=28)
        fields = self.fields.unpack_from(data, PREFIX.size)
        return Header(fields, raw_size, stored_size, payload_check)

    def decode_payload(self, path: Path, header: Header, stored: bytes, *, offset: int) -> bytes:
        """Return the payload *stored*, found at *offset* of *path*, unpacked; raises CorruptError."""
        if len(stored) != header.stored_size:
            problem = f"payload of {len(stored)} bytes where {header.stored_size} belong"
            raise CorruptError(path, problem, offset=offset)
        if check_of(stored) != header.payload_check:
            raise CorruptError(path, "payload does not match its check", offset=offset)
        return decompress(path, stored, header.raw_size, offset=offset)

    def decode(self, path: Path, data: bytes) -> tuple[Header, bytes]:
        """Return header and payload of *data*, all of the file *path*; raises as `decode_header`."""
        header = self.decode_header(path, data)
        start = self.header_size
        return header, self.decode_payload(path, header, data[start:], offset=start)


def open_file(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open the regular file *path* for reading, unbuffered; a link to one only if told to *follow* it.

    Raises CorruptError if there is none or it is something else (a FIFO would block for ever), RecordingError if the
    host does not let us.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CorruptError(path, "not a regular file")
        return os.fdopen(descriptor, "rb", buffering=0)
    except FileNotFoundError as error:
        raise CorruptError(path, "missing") from error
    except OSError as error:
        if path.is_symlink() and not follow:
            raise _is_link(path) from error
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error


def list_directory(path: Path, *, follow: bool = False) -> list[Path]:
    """Return what is in the directory *path*, sorted by name; of a link to one only if told to *follow* it.

    Raises CorruptError if there is none or it is something else, RecordingError if the host does not let us.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
        try:
            names = os.listdir(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if path.is_symlink() and not follow:
            raise _is_link(path) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise CorruptError(path, "not a directory") from error
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    return [path / name for name in sorted(names)]


def _is_link(path: Path) -> CorruptError:
    # It may have come from anybody, and may lead to anything that its reader can read.
    return CorruptError(path, "is a link", hint="only what is in the recording's directory itself is read")


def read_file(path: Path, limit: int) -> bytes:
    """Return the contents of *path*.

    Raises CorruptError if it is larger than *limit* bytes, and as `open_file`.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise CorruptError(path, f"{size} bytes, more than any such file has ({limit})")
        return read_exactly(path, file, 0, size)


def read_start(path: Path, size: int) -> bytes:
    """Return the first *size* bytes of *path*, fewer if it has fewer; raises as `open_file`."""
    with open_file(path) as file:
        return read_at(path, file, 0, size)


def read_at(path: Path, file: BinaryIO, offset: int, size: int) -> bytes:
    """Return up to *size* bytes from *offset* of the open *file*; raises RecordingError."""
    try:
        return os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error


def read_exactly(path: Path, file: BinaryIO, offset: int, size: int) -> bytes:
    """Return *size* bytes from *offset* of the open *file*; raises CorruptError if there are fewer."""
    data = read_at(path, file, offset, size)
    if len(data) != size:
        raise CorruptError(path, f"cut short: {len(data)} of {size} bytes", offset=offset + len(data))
    return data


def write_all(file: FileIO, data: bytes) -> None:
    """Write *data* to the unbuffered *file*, whatever a single write takes; raises OSError."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def write_whole(path: Path, *parts: bytes) -> int:
    """Write *parts* to *path* so that it is there whole or not at all; return the size in bytes.

    Raises OSError.
    """
    temporary = path.with_name(path.name + ".tmp")
    # What lies there may be a link that somebody else made, or a FIFO.
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path)
    except OSError:
        # On a full disk what little was written is in the way.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return sum(map(len, parts))
