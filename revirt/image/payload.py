"""The compressed kernel inside a bzImage, unpacked on the host.

A payload is a compressed stream followed by the size of what it holds, 32 bits little-endian; in a gzip
stream that size is the stream's own last field (Linux ``scripts/Makefile.lib``, ``size_append``).  Unpacking
stops at that size, so a hostile payload costs no more memory than it declares, and never more than
`MAX_UNPACKED_SIZE`.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import lz4.block
import zstandard

MAX_UNPACKED_SIZE = 512 << 20

Bytes = bytes | memoryview

_SIZE_FIELD = 4
_CHUNK_SIZE = 1 << 20
# The compressors' largest presets need 65 MiB (lzma -9) and a window of 128 MiB (zstd -22).
_LZMA_MEMORY = 160 << 20
_ZSTD_WINDOW = 128 << 20
# The legacy LZ4 frame (lz4_Frame_format.md, "Legacy frame"): a magic, then blocks of at most 8 MiB when
# unpacked.
_LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
_LZ4_BLOCK_SIZE = 8 << 20

_MAGICS = (
    (_LZ4_LEGACY_MAGIC, "lz4"),
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x7fELF", "none"),
)
_MAGIC_SIZE = max(len(magic) for magic, _ in _MAGICS)


class PayloadError(ValueError):
    """The payload is damaged, or not what it says it is."""


class _Stream(Protocol):
    """What the decompressors of the standard library for bzip2 and LZMA have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: Bytes, max_length: int = -1) -> bytes: ...


def compression(payload: Bytes) -> str | None:
    """Return how *payload* is compressed (lz4, gzip, xz, zstd, bzip2, lzma, none), None if unknown."""
    head = bytes(payload[:_MAGIC_SIZE])
    return next((name for magic, name in _MAGICS if head.startswith(magic)), None)


def unpack(payload: Bytes) -> mmap.mmap:
    """Return what *payload* holds, in memory of its own that is also a file to read headers from.

    Raises PayloadError if its compression is unknown, it is damaged, or its size is not the one it declares.
    """
    name = compression(payload)
    if name is None:
        raise PayloadError(f"unknown compression (first bytes {bytes(payload[:_MAGIC_SIZE]).hex()})")
    if len(payload) <= _SIZE_FIELD:
        raise PayloadError("the compressed kernel is cut short")
    (declared,) = struct.unpack_from("<I", payload, len(payload) - _SIZE_FIELD)
    size = len(payload) if name == "none" else declared
    if size == 0:
        raise PayloadError("the compressed kernel declares that it is empty")
    if size > MAX_UNPACKED_SIZE:
        raise PayloadError(f"the kernel takes {size} bytes, more than {MAX_UNPACKED_SIZE}")
    stream = payload if name in ("gzip", "none") else payload[:-_SIZE_FIELD]
    unpacked = _reserve(size)
    try:
        _fill(unpacked, _UNPACKERS[name](stream))
    except (
        zlib.error,
        lzma.LZMAError,
        lz4.block.LZ4BlockError,
        zstandard.ZstdError,
        OSError,
        EOFError,
    ) as error:
        raise PayloadError(f"the kernel's {name} stream is damaged: {error}") from error
    return unpacked


def _reserve(size: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"no {size} bytes for the kernel: {error.strerror}") from error
    # Far fewer page faults, where the host has huge pages; some hosts do not know the word.
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _fill(unpacked: mmap.mmap, parts: Iterator[Bytes]) -> None:
    """Put *parts* together in *unpacked*; raises PayloadError unless they fill it exactly."""
    size, end = len(unpacked), 0
    for part in parts:
        if end + len(part) > size:
            raise PayloadError(f"the compressed kernel declares {size} bytes and holds more")
        unpacked[end : end + len(part)] = part
        end += len(part)
    if end < size:
        raise PayloadError(f"the compressed kernel declares {size} bytes and holds {end}")


def _unpack_none(data: Bytes) -> Iterator[Bytes]:
    yield data


def _unpack_gzip(data: Bytes) -> Iterator[Bytes]:
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    # Piece by piece: what a call does not take of its input it copies.
    for start in range(0, len(data), _CHUNK_SIZE):
        piece = bytes(data[start : start + _CHUNK_SIZE])
        while piece and not stream.eof:
            yield stream.decompress(piece, _CHUNK_SIZE)
            piece = stream.unconsumed_tail
    yield stream.flush()
    if not stream.eof:
        raise EOFError("it is cut short")


def _unpack_stream(stream: _Stream, data: Bytes) -> Iterator[Bytes]:
    yield stream.decompress(data, _CHUNK_SIZE)
    while not stream.eof:
        if stream.needs_input:
            raise EOFError("it is cut short")
        yield stream.decompress(b"", _CHUNK_SIZE)


def _unpack_xz(data: Bytes) -> Iterator[Bytes]:
    return _unpack_stream(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY), data)


def _unpack_lzma(data: Bytes) -> Iterator[Bytes]:
    return _unpack_stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY), data)


def _unpack_bzip2(data: Bytes) -> Iterator[Bytes]:
    return _unpack_stream(bz2.BZ2Decompressor(), data)


def _unpack_zstd(data: Bytes) -> Iterator[Bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    with decompressor.stream_reader(data) as reader:
        while chunk := reader.read(_CHUNK_SIZE):
            yield chunk


def _unpack_lz4(data: Bytes) -> Iterator[Bytes]:
    offset = len(_LZ4_LEGACY_MAGIC)
    block_size = _LZ4_BLOCK_SIZE
    while offset < len(data):
        if block_size < _LZ4_BLOCK_SIZE:
            # Only the last block may be short; else a small payload could keep us busy with empty ones.
            raise EOFError("data after its last block")
        if offset + _SIZE_FIELD > len(data):
            raise EOFError("it is cut short")
        (size,) = struct.unpack_from("<I", data, offset)
        offset += _SIZE_FIELD
        if size > len(data) - offset:
            raise EOFError("it is cut short")
        block = lz4.block.decompress(data[offset : offset + size], uncompressed_size=_LZ4_BLOCK_SIZE)
        block_size = len(block)
        yield block
        offset += size


_UNPACKERS: dict[str, Callable[[Bytes], Iterator[Bytes]]] = {
    "none": _unpack_none,
    "lz4": _unpack_lz4,
    "gzip": _unpack_gzip,
    "xz": _unpack_xz,
    "zstd": _unpack_zstd,
    "bzip2": _unpack_bzip2,
    "lzma": _unpack_lzma,
}
