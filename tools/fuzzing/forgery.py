"""Changes behind the checks: what a file says is changed, and its checks are made right again.

A check stops every change that is made blindly, so that the code behind it would never meet one.  Whoever means harm
knows how to compute a check.  Each function here takes the contents of a file, a source of chance and a way of
changing bytes, and returns other contents, or raises `NotForgedError` if the file could not be taken apart.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import Any

import msgpack

from fuzzing.changes import Change, number
from revirt.checkpoint.format import CHECKPOINT_FRAME, CHUNK_ENTRY, CHUNK_PAGES, PAGE_SIZE, PAGES_FRAME
from revirt.checkpoint.pages import encode_bitmap
from revirt.core import hash_pages
from revirt.errors import CorruptError, FormatVersionError, RevirtError
from revirt.index.format import FRAME as INTERVALS_FRAME
from revirt.log import columns, segment
from revirt.log.chain import SEALED, Chain
from revirt.log.events import Event, Kind
from revirt.log.frame import CHECK_SIZE, PREFIX, Frame, Header, check_of, compress_fast, decompress
from revirt.log.rows import rows_of

Forge = Callable[[bytes, Random, Change], bytes]

_NOWHERE = Path()
_CHECKED_FROM = 28
"""Where the header goes on behind its check."""
_RAW_LIMIT = 1 << 20
"""Bytes of a payload that is worth unpacking here."""
_BOMBS = 0.002
"""Which part of the forged segments are as large as can be: these take long."""
STRANGE: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1 << 31,
        1 << 32,
        1 << 63,
        (1 << 64) - 1,
        1.5,
        1e308,
        "",
        "x",
        b"",
        b"x" * 300,
    ),
    *(
        [],
        {},
        [[[]]],
        {"": 0},
        [0] * 300,
        "../../etc",
        "\x1b[31m\x00",
        "\ud800",
        "\N{RIGHT-TO-LEFT OVERRIDE}",
    ),
)
"""Values that hardly anybody expects."""


class NotForgedError(Exception):
    """The file could not be taken apart, or not be put together in this way."""


@dataclass(slots=True)
class Parts:
    """A framed file, taken apart: what stands ``between`` header and payload, and the payload as it is stored.

    ``raw_size`` is claimed, and need not be true; the checks are always made right.
    """

    frame: Frame
    version: int
    fields: bytes
    raw_size: int
    between: bytes
    stored: bytes

    @classmethod
    def of(cls, frame: Frame, data: bytes) -> Parts:
        """Take apart *data*."""
        header = _header(frame, data)
        start = max(frame.header_size, len(data) - header.stored_size)
        fields = data[PREFIX.size : frame.header_size]
        return cls(
            frame, frame.version, fields, header.raw_size, data[frame.header_size : start], data[start:]
        )

    @property
    def values(self) -> list[Any]:
        """The fields."""
        return list(self.frame.fields.unpack(self.fields))

    @values.setter
    def values(self, values: list[Any]) -> None:
        try:
            self.fields = self.frame.fields.pack(*values)
        except struct.error as error:
            raise NotForgedError(str(error)) from error

    @property
    def raw(self) -> bytes:
        """The payload, unpacked."""
        if self.raw_size > _RAW_LIMIT:
            raise NotForgedError("a payload that is too large")
        try:
            return decompress(_NOWHERE, self.stored, self.raw_size, offset=0)
        except CorruptError as error:
            raise NotForgedError(str(error)) from error

    @raw.setter
    def raw(self, raw: bytes) -> None:
        self.raw_size, self.stored = len(raw), compress_fast(raw)

    def join(self) -> bytes:
        """Return the file."""
        start = struct.pack("<8sHH", self.frame.magic, self.version, PREFIX.size + len(self.fields))
        sizes = struct.pack("<II", self.raw_size & 0xFFFFFFFF, len(self.stored))
        rest = sizes + check_of(self.stored) + self.fields
        return start + check_of(start, rest) + rest + self.between + self.stored


def reseal(frame: Frame, data: bytes) -> bytes:
    """Return *data*, changed blindly, with its checks made right wherever its header says that they are."""
    if len(data) < PREFIX.size:
        return data
    _, _, size, _, _, stored_size, _ = PREFIX.unpack_from(data)
    stored = data[-stored_size:] if 0 < stored_size < len(data) else data[frame.header_size :]
    rest = data[_CHECKED_FROM : PREFIX.size - CHECK_SIZE] + check_of(stored) + data[PREFIX.size :]
    start = data[: _CHECKED_FROM - CHECK_SIZE]
    return start + check_of(start, rest[: max(0, size - _CHECKED_FROM)]) + rest


def forge_segment(data: bytes, rng: Random, change: Change) -> bytes:
    """Change a segment."""
    parts = Parts.of(segment.FRAME, data)
    act = "bomb" if rng.random() < _BOMBS else rng.choice(("frame", "event", "event", "events"))
    match act:
        case "event":
            _forge_events(parts, lambda events: _change_event(events, rng, change))
        case "events":
            _forge_events(parts, lambda events: _arrange(events, rng))
        case "bomb":
            _inflate(parts, rng)
        case _:
            _forge_frame(parts, rng, change)
    return parts.join()


def forge_checkpoint(data: bytes, rng: Random, change: Change) -> bytes:
    """Change a checkpoint."""
    parts = Parts.of(CHECKPOINT_FRAME, data)
    act = rng.choice(("frame", "state", "state", "map", "sizes"))
    if act == "frame":
        _forge_frame(parts, rng, change)
        return parts.join()
    raw, values = parts.raw, parts.values
    state, planes = raw[: values[6]], raw[values[6] :]
    match act:
        case "state":
            state = _forge_state(state, rng, change) if rng.random() < 0.7 else change(state)
        case "map":
            planes = change(planes)
            planes = planes[: len(planes) // 8 * 8]
        case "sizes":
            planes = bytes(8 * rng.choice((0, 1, 7, 4096)))
            state = rng.choice((b"", state, state * 50))
    values[6], values[7] = len(state), len(planes) // 8
    parts.values, parts.raw = values, state + planes
    return parts.join()


def forge_pages(data: bytes, rng: Random, change: Change) -> bytes:
    """Change a file of pages."""
    parts = Parts.of(PAGES_FRAME, data)
    act = rng.choice(("frame", "chunk", "page", "bitmap", "hashes"))
    if act == "frame":
        _forge_frame(parts, rng, change)
        return parts.join()
    index, values = parts.raw, parts.values
    present = values[3]
    entries_end = -(-present // CHUNK_PAGES) * CHUNK_ENTRY.size
    hashes_end = entries_end + 8 * present
    if not present or hashes_end > len(index):
        raise NotForgedError("an index of other pages")
    entries, hashes, bitmap = index[:entries_end], index[entries_end:hashes_end], index[hashes_end:]
    match act:
        case "hashes":
            hashes = (change(hashes) + hashes)[: len(hashes)]
        case "bitmap":
            there = sorted(rng.sample(range(values[2]), present)) if present <= values[2] <= 1 << 20 else []
            values[2] = rng.choice((values[2], number(rng, values[2], 21)))
            bitmap = encode_bitmap([each for each in there if each < values[2]], values[2])
        case _:
            chunks = _chunks(entries, parts.between)
            place = rng.randrange(len(chunks))
            pages = min(CHUNK_PAGES, present - place * CHUNK_PAGES)
            if act == "chunk":
                chunks[place] = change(chunks[place])
            else:
                raw = _page_data(chunks[place], pages)
                raw = (change(raw) + raw)[: len(raw)]
                chunks[place] = compress_fast(raw)
                start = 8 * place * CHUNK_PAGES
                hashes = hashes[:start] + hash_pages(raw) + hashes[start + 8 * pages :]
            parts.between = b"".join(chunks)
            entries = b"".join(CHUNK_ENTRY.pack(len(each), check_of(each)) for each in chunks)
    parts.values, parts.raw = values, entries + hashes + bitmap
    return parts.join()


def forge_intervals(data: bytes, rng: Random, change: Change) -> bytes:
    """Change the counts and lists of an index."""
    parts = Parts.of(INTERVALS_FRAME, data)
    if rng.random() < 0.4:
        _forge_frame(parts, rng, change)
        return parts.join()
    # Sizes in the header and in the payload, so that only what is said is false.
    raw, values = parts.raw, parts.values
    marks, events, intervals, pages = values[9:13]
    ends = list(
        accumulate(
            (8 * intervals, 8 * marks, 8 * events, -(-pages // 8) * intervals, 4 * intervals, len(raw))
        )
    )
    pieces = [raw[start:end] for start, end in pairwise([0, *ends])]
    place = rng.randrange(len(pieces))
    changed = change(pieces[place])
    if rng.random() < 0.8:
        changed = (changed + pieces[place])[: len(pieces[place])]
    elif place in (1, 2):
        changed = changed[: len(changed) // 8 * 8]
        values[8 + place] = len(changed) // 8
    pieces[place] = changed
    parts.values, parts.raw = values, b"".join(pieces)
    return parts.join()


def forge_log(paths: list[Path]) -> int:
    """Make the hashes right that the events of a log carry, and where its segments begin.

    Return the ordinal behind its last event.  Segments are left alone from the first one on that cannot be read.
    """
    chain: Chain | None = None
    end: int | None = None
    for path in paths:
        try:
            found, events = segment.read(path)
            if end is None:
                end = found.ordinal
                chain = None if end else Chain()
            sealed = []
            for event in events:
                if event.kind not in SEALED:
                    if chain is not None:
                        chain.add(event)
                    sealed.append(event)
                elif chain is None:
                    # What came before it was evicted: it is believed.
                    chain = Chain(event.number)
                    sealed.append(event)
                else:
                    sealed.append(chain.seal(event))
            path.write_bytes(segment.encode(found.index, end, rows_of(sealed)))
        except (RevirtError, ValueError):
            break
        end += len(events)
    return end or 0


def _header(frame: Frame, data: bytes) -> Header:
    try:
        return frame.decode_header(_NOWHERE, data)
    except (CorruptError, FormatVersionError) as error:
        raise NotForgedError(str(error)) from error


def _forge_frame(parts: Parts, rng: Random, change: Change) -> None:
    """Change what all kinds of files have."""
    match rng.choice(("field", "field", "raw", "raw", "stored", "between", "raw size", "version", "fields")):
        case "field":
            values = parts.values
            place = rng.randrange(len(values))
            was = values[place]
            values[place] = (
                change(was) if isinstance(was, bytes) else number(rng, was, rng.choice((8, 32, 64)))
            )
            parts.values = values
        case "raw":
            parts.raw = change(parts.raw)
        case "stored":
            parts.stored = change(parts.stored)
        case "between":
            parts.between = change(parts.between)
        case "raw size":
            parts.raw_size = number(rng, parts.raw_size, 32)
        case "version":
            parts.version = rng.choice((0, 2, 0xFFFF))
        case "fields":
            parts.fields = change(parts.fields)[:1000]


def _forge_events(parts: Parts, act: Callable[[list[Event]], list[Event]]) -> None:
    index, count, ordinal, _, _ = parts.values
    try:
        events = act(columns.decode(parts.raw, count))
        rows = rows_of(events)
        parts.raw = columns.encode(rows)
        parts.values = [index, rows.count, ordinal, rows.first_branches, rows.last_branches]
    except (ValueError, OverflowError) as error:
        raise NotForgedError(str(error)) from error


def _change_event(events: list[Event], rng: Random, change: Change) -> list[Event]:
    place = rng.randrange(len(events))
    event = events[place]
    match rng.choice(("kind", "branches", "halted", "pc", "check", "number", "number", "data", "data")):
        case "kind":
            event = event._replace(kind=rng.choice(list(Kind)))
        case "branches":
            low = events[place - 1].branches if place else 0
            high = events[place + 1].branches if place + 1 < len(events) else (1 << 63) - 1
            event = event._replace(branches=rng.choice((low, high, rng.randint(low, high))))
        case "halted":
            event = event._replace(halted=not event.halted)
        case "pc":
            event = event._replace(pc=number(rng, event.pc))
        case "check":
            event = event._replace(check=number(rng, event.check, 16))
        case "number":
            event = event._replace(number=number(rng, event.number))
        case "data":
            event = event._replace(data=change(event.data))
    return [*events[:place], event, *events[place + 1 :]]


def _arrange(events: list[Event], rng: Random) -> list[Event]:
    place = rng.randrange(len(events))
    match rng.choice(("drop", "twice", "cut", "many", "other")):
        case "drop":
            return events[:place] + events[place + 1 :]
        case "twice":
            return [*events[: place + 1], *events[place:]]
        case "cut":
            return events[: place + 1]
        case "many":
            return events[:place] + [events[place]] * rng.choice((10, 1000)) + events[place:]
        case _:
            moved = events[rng.randrange(len(events))]._replace(branches=events[place].branches)
            return [*events[: place + 1], moved, *events[place + 1 :]]


def _inflate(parts: Parts, rng: Random) -> None:
    """Make much of little: as many events, or as large ones, as a segment may have."""
    index, _, ordinal, first, _ = parts.values
    if rng.random() < 0.5:
        kind = rng.choice((Kind.CHECKPOINT, Kind.CLOCK, Kind.TRANSMITTED))
        events = [Event(kind, first, False, 0, 0, each) for each in range(columns.MAX_EVENTS)]
    else:
        kind = rng.choice((Kind.TRANSMITTED, Kind.RECEIVED, Kind.END, Kind.DIGEST))
        events = [Event(kind, first, False, 0, data=rng.choice((b"\0", b"A")) * (7 << 20))]
    try:
        parts.raw = columns.encode(rows_of(events))
    except ValueError as error:
        raise NotForgedError(str(error)) from error
    parts.values = [index, len(events), ordinal, first, first]


def _forge_state(state: bytes, rng: Random, change: Change) -> bytes:
    """Put something strange into a machine state; bytes in it, such as the CPU's, are changed."""
    try:
        plain = msgpack.unpackb(state, strict_map_key=False)
        return bytes(msgpack.packb(replaced(plain, rng, change)))
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise NotForgedError(str(error)) from error


def replaced(plain: Any, rng: Random, change: Change) -> Any:
    """Return *plain* (nested dicts and lists) with one value somewhere replaced by another, or left out."""
    if isinstance(plain, dict) and plain and rng.random() < 0.93:
        key = rng.choice(sorted(plain, key=str))
        if rng.random() < 0.04:
            return {name: value for name, value in plain.items() if name != key}
        if rng.random() < 0.02:
            return {**plain, rng.choice(("", "extra", "\x1b[2J")): 0}
        return {**plain, key: replaced(plain[key], rng, change)}
    if isinstance(plain, list) and plain and rng.random() < 0.8:
        place = rng.randrange(len(plain))
        return [*plain[:place], replaced(plain[place], rng, change), *plain[place + 1 :]]
    if isinstance(plain, bool):
        return rng.choice((not plain, rng.choice(STRANGE)))
    if isinstance(plain, int) and rng.random() < 0.8:
        return number(rng, plain, rng.choice((1, 8, 16, 32, 64)))
    if isinstance(plain, bytes) and rng.random() < 0.9:
        return change(plain)
    if isinstance(plain, str) and rng.random() < 0.7:
        return _changed_text(plain, rng, change)
    return rng.choice(STRANGE)


def _changed_text(text: str, rng: Random, change: Change) -> str:
    """Return *text*, changed; what looks like base64 may stay it."""
    if len(text) > 40 and rng.random() < 0.8:
        try:
            return b64encode(change(b64decode(text, validate=True))).decode()
        except ValueError:
            pass
    return change(text.encode(errors="surrogatepass")).decode(
        errors=rng.choice(("replace", "surrogateescape"))
    )


def _chunks(entries: bytes, between: bytes) -> list[bytes]:
    chunks, start = [], 0
    for size, _ in CHUNK_ENTRY.iter_unpack(entries):
        chunks.append(between[start : start + size])
        start += size
    return chunks


def _page_data(chunk: bytes, pages: int) -> bytes:
    try:
        return decompress(_NOWHERE, chunk, pages * PAGE_SIZE, offset=0)
    except CorruptError as error:
        raise NotForgedError(str(error)) from error
