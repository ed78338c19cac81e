"""The compressed kernel inside a bzImage, unpacked on the host.

A payload is a compressed stream followed by the size of what it holds, 32 bits little-endian; in a gzip
stream that size is the stream's own last field (Linux ``scripts/Makefile.lib``, ``size_append``).  Unpacking
stops at that size, so a hostile payload costs no more memory than it declares, and never more than
`MAX_UNPACKED_SIZE`.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

import lz4.block
import zstandard

MAX_UNPACKED_SIZE = 512 << 20

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


class PayloadError(ValueError):
    """The payload is damaged, or not what it says it is."""


class _Stream(Protocol):
    """What the decompressors of the standard library for bzip2 and LZMA have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def compression(payload: bytes) -> str | None:
    """Return how *payload* is compressed (lz4, gzip, xz, zstd, bzip2, lzma, none), None if unknown."""
    return next((name for magic, name in _MAGICS if payload.startswith(magic)), None)


def unpack(payload: bytes) -> bytes:
    """Return what *payload* holds.

    Raises PayloadError if its compression is unknown, it is damaged, or its size is not the one it declares.
    """
    name = compression(payload)
    if name is None:
        raise PayloadError(f"unknown compression (first bytes {payload[:6].hex()})")
    if name == "none":
        return payload
    if len(payload) <= _SIZE_FIELD:
        raise PayloadError("the compressed kernel is cut short")
    (size,) = struct.unpack_from("<I", payload, len(payload) - _SIZE_FIELD)
    if size > MAX_UNPACKED_SIZE:
        raise PayloadError(f"the compressed kernel declares {size} bytes, more than {MAX_UNPACKED_SIZE}")
    stream = payload if name == "gzip" else payload[:-_SIZE_FIELD]
    try:
        # One byte more than declared is enough to notice a stream that goes on.
        unpacked = _UNPACKERS[name](stream, size + 1)
    except (
        zlib.error,
        lzma.LZMAError,
        lz4.block.LZ4BlockError,
        zstandard.ZstdError,
        OSError,
        EOFError,
    ) as error:
        raise PayloadError(f"the kernel's {name} stream is damaged: {error}") from error
    if len(unpacked) != size:
        found = "more" if len(unpacked) > size else f"{len(unpacked)}"
        raise PayloadError(f"the compressed kernel declares {size} bytes and holds {found}")
    return unpacked


def _unpack_gzip(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    unpacked = stream.decompress(data, limit)
    if len(unpacked) < limit and not stream.eof:
        raise EOFError("it is cut short")
    return unpacked


def _unpack_stream(stream: _Stream, data: bytes, limit: int) -> bytes:
    unpacked = bytearray(stream.decompress(data, limit))
    while not stream.eof and len(unpacked) < limit:
        if stream.needs_input:
            raise EOFError("it is cut short")
        unpacked += stream.decompress(b"", limit - len(unpacked))
    return bytes(unpacked)


def _unpack_xz(data: bytes, limit: int) -> bytes:
    return _unpack_stream(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY), data, limit)


def _unpack_lzma(data: bytes, limit: int) -> bytes:
    return _unpack_stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY), data, limit)


def _unpack_bzip2(data: bytes, limit: int) -> bytes:
    return _unpack_stream(bz2.BZ2Decompressor(), data, limit)


def _unpack_zstd(data: bytes, limit: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    unpacked = bytearray()
    with decompressor.stream_reader(io.BytesIO(data)) as reader:
        while len(unpacked) < limit:
            chunk = reader.read(min(_CHUNK_SIZE, limit - len(unpacked)))
            if not chunk:
                break
            unpacked += chunk
    return bytes(unpacked)


def _unpack_lz4(data: bytes, limit: int) -> bytes:
    unpacked = bytearray()
    offset = len(_LZ4_LEGACY_MAGIC)
    block_size = _LZ4_BLOCK_SIZE
    while offset < len(data) and len(unpacked) < limit:
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
        unpacked += block
        offset += size
    return bytes(unpacked)


_UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "lz4": _unpack_lz4,
    "gzip": _unpack_gzip,
    "xz": _unpack_xz,
    "zstd": _unpack_zstd,
    "bzip2": _unpack_bzip2,
    "lzma": _unpack_lzma,
}
