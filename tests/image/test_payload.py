from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import struct
import tracemalloc
from collections.abc import Callable

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from revirt.image.payload import MAX_UNPACKED_SIZE, PayloadError, compression, unpack

KERNEL = b"\x7fELF" + bytes(range(256)) * 300 + bytes(9 << 20)


def with_size(stream: bytes, kernel: bytes) -> bytes:
    return stream + struct.pack("<I", len(kernel))


def lz4_legacy(kernel: bytes) -> bytes:
    blocks = [kernel[start : start + (8 << 20)] for start in range(0, len(kernel), 8 << 20)]
    packed = [lz4.block.compress(block, store_size=False) for block in blocks]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in packed)


def xz_with_x86_filter(kernel: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    return lzma.compress(kernel, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda kernel: gzip.compress(kernel, mtime=0),
    "xz": lambda kernel: with_size(xz_with_x86_filter(kernel), kernel),
    "lzma": lambda kernel: with_size(lzma.compress(kernel, lzma.FORMAT_ALONE), kernel),
    "bzip2": lambda kernel: with_size(bz2.compress(kernel), kernel),
    "zstd": lambda kernel: with_size(zstandard.ZstdCompressor(level=3).compress(kernel), kernel),
    "lz4": lambda kernel: with_size(lz4_legacy(kernel), kernel),
}


@pytest.mark.parametrize("name", PACKERS)
def test_every_compression_of_the_kernel_build_is_unpacked(name: str) -> None:
    payload = PACKERS[name](KERNEL)

    assert compression(payload) == name
    assert unpack(payload)[:] == KERNEL


def test_payload_that_is_not_compressed_is_returned_as_it_is() -> None:
    assert unpack(KERNEL[:100])[:] == KERNEL[:100]


@pytest.mark.parametrize("name", PACKERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_payload_cut_off_anywhere_is_a_payload_error(name: str, data: st.DataObject) -> None:
    payload = PACKERS[name](KERNEL[:5000])

    size = data.draw(st.integers(0, len(payload) - 1))

    with pytest.raises(PayloadError):
        unpack(payload[:size])


@pytest.mark.parametrize("name", PACKERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_payload_is_unpacked_to_its_size_or_a_payload_error(name: str, data: st.DataObject) -> None:
    payload = bytearray(PACKERS[name](KERNEL[:5000]))
    offset = data.draw(st.integers(4, len(payload) - 5))
    payload[offset] ^= data.draw(st.integers(1, 255))

    try:
        unpacked = unpack(bytes(payload))
    except PayloadError:
        return

    assert len(unpacked) == 5000


@pytest.mark.parametrize("name", PACKERS)
def test_bomb_costs_no_more_memory_than_it_declares(name: str) -> None:
    bomb = PACKERS[name](bytes(64 << 20))[:-4] + struct.pack("<I", 1000)

    tracemalloc.start()
    with pytest.raises(PayloadError, match="declares 1000 bytes and holds more"):
        unpack(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # One block of LZ4, or one dictionary of the others.
    assert peak < 40 << 20


def test_payload_that_declares_too_much_is_refused_before_unpacking() -> None:
    payload = PACKERS["lz4"](KERNEL[:100])[:-4] + struct.pack("<I", MAX_UNPACKED_SIZE + 1)

    with pytest.raises(PayloadError, match="more than"):
        unpack(payload)


def test_lz4_payload_of_empty_blocks_is_refused_at_the_first() -> None:
    empty = struct.pack("<I", 1) + b"\0"

    with pytest.raises(PayloadError, match="after its last block"):
        unpack(b"\x02\x21\x4c\x18" + empty * 100_000 + struct.pack("<I", 1000))


def test_unknown_compression_shows_the_first_bytes() -> None:
    with pytest.raises(PayloadError, match="894c5a4f0001"):
        unpack(b"\x89LZO\x00\x01" + bytes(20))


@pytest.mark.parametrize("name", PACKERS)
def test_payload_that_declares_nothing_is_refused(name: str) -> None:
    payload = PACKERS[name](KERNEL)[:-4] + bytes(4)

    with pytest.raises(PayloadError, match="empty"):
        unpack(payload)


def test_lack_of_memory_for_the_kernel_is_not_taken_for_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)

    with pytest.raises(MemoryError, match="for the kernel"):
        unpack(KERNEL)
