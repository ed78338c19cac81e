"""Changes of bytes that know nothing of what the bytes mean."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

Change = Callable[[bytes], bytes]
"""Makes other bytes of bytes."""

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0xFFF, 0x1000, 0xFFFF, 0x10000, 1 << 20, (1 << 24) - 1, 1 << 31)
"""Numbers at which something often ends."""
LARGE_NUMBERS = (*NUMBERS, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

_WIDTHS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}
_MOST_ADDED = 4096


def number(rng: Random, near: int = 0, bits: int = 64) -> int:
    """Return a number of at most *bits* bits: one at which something ends, one beside *near*, or any."""
    found = rng.choice((rng.choice(LARGE_NUMBERS), near + rng.choice((-1, 1)), rng.getrandbits(bits)))
    return found & ((1 << bits) - 1)


def changer(rng: Random) -> Change:
    """Return a function that changes bytes in a random way, each time another."""
    return lambda data: change(rng, data)


def change(rng: Random, data: bytes) -> bytes:
    """Return *data*, changed in one place or a few."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_WAYS)(rng, data)
    return data


def _flip_bit(rng: Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _put_run(rng: Random, data: bytes) -> bytes:
    start, size = _stretch(rng, data)
    fill = rng.choice((b"\0" * size, b"\xff" * size, rng.randbytes(size), b"A" * size))
    return data[:start] + fill + data[start + size :]


def _put_number(rng: Random, data: bytes) -> bytes:
    width = rng.choice(tuple(_WIDTHS))
    if len(data) < width:
        return data
    start = rng.randrange(len(data) - width + 1)
    changed = bytearray(data)
    (before,) = struct.unpack_from(_WIDTHS[width], data, start)
    struct.pack_into(_WIDTHS[width], changed, start, number(rng, before, 8 * width))
    return bytes(changed)


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _extend(rng: Random, data: bytes) -> bytes:
    return data + rng.choice((bytes, rng.randbytes))(rng.randrange(1, _MOST_ADDED))


def _drop(rng: Random, data: bytes) -> bytes:
    start, size = _stretch(rng, data)
    return data[:start] + data[start + size :]


def _repeat(rng: Random, data: bytes) -> bytes:
    start, size = _stretch(rng, data)
    times = min(rng.choice((1, 1, 2, 50)), _MOST_ADDED // max(size, 1))
    return data[:start] + data[start : start + size] * times + data[start:]


def _move(rng: Random, data: bytes) -> bytes:
    start, size = _stretch(rng, data)
    taken, left = data[start : start + size], data[:start] + data[start + size :]
    to = rng.randrange(len(left) + 1)
    return left[:to] + taken + left[to:]


def _stretch(rng: Random, data: bytes) -> tuple[int, int]:
    """Return start and size of a part of *data*."""
    start = rng.randrange(len(data) + 1)
    return start, min(rng.choice((1, 2, 4, 8, 16, 52, 200)), len(data) - start)


_WAYS: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_flip_bit, _flip_bit, _flip_bit, _put_run, _put_number, _put_number),
    *(_cut, _extend, _drop, _repeat, _move),
)
