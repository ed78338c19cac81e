"""Changes one bit of a recording, in a copy of it.

Two ways of doing it.  A *raw* flip changes a bit of a file, as a bad disk would; the checks around all contents must
notice.  The other flips change a value and then write it anew with checks that are right, as somebody who knows the
format could: only the replay itself can notice those.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revirt.checkpoint.format import (
    CHECKPOINT_FRAME,
    CHUNK_ENTRY,
    CHUNK_PAGES,
    PAGE_SIZE,
    PAGES_FRAME,
    decode_checkpoint_header,
    from_bytes,
    pages_name,
    to_bytes,
)
from revirt.core import hash_pages
from revirt.errors import RevirtError
from revirt.log import segment
from revirt.log.events import Event
from revirt.log.frame import check_of, compress_fast, decompress
from revirt.log.rows import rows_of
from revirt.recording import Recording
from revirt.replay import replay

Flip = Callable[[Path, random.Random], str]
"""Changes one bit of the recording in a directory, and says which."""

_OUT_OF_TIME = "out of time"
_BITS = {"branches": 40, "halted": 1, "pc": 64, "check": 16, "number": 64}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a replay made of a changed recording: ``word`` is diverged, refused, exact or hung; ``detail`` says more."""

    word: str
    detail: str

    @property
    def is_detected(self) -> bool:
        """Whether the change was reported."""
        return self.word in ("diverged", "refused")


def copy(source: Path, target: Path) -> Path:
    """Make *target* a copy of the recording *source* whose files may be replaced, but not written to."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def flip_event(directory: Path, chance: random.Random) -> str:
    """Flip a bit of one value of one event; the log is otherwise well-formed."""
    path = chance.choice(sorted((directory / "log").iterdir()))
    found, events = segment.read(path)
    while True:
        place = chance.randrange(len(events))
        changed, what = flip_value(events[place], chance)
        flipped = [*events[:place], changed, *events[place + 1 :]]
        try:
            data = segment.encode(found.index, found.ordinal, rows_of(flipped))
        except ValueError:
            continue  # out of order, or out of range: such a log cannot be written
        _replace(path, data)
        return f"{path.name}: event {found.ordinal + place} ({events[place].kind.label}), {what}"


def flip_number_of(label: str, bit: int) -> Callable[[list[Event]], None]:
    """Return a function that flips *bit* of the number of the middle one of the events of a kind."""

    def change(events: list[Event]) -> None:
        places = [place for place, event in enumerate(events) if event.kind.label == label]
        place = places[len(places) // 2]
        events[place] = events[place]._replace(number=events[place].number ^ (1 << bit))

    return change


def change_events(directory: Path, change: Callable[[list[Event]], None]) -> None:
    """Let *change* do what it likes to the events of a recording, and write them as one segment."""
    paths = sorted((directory / "log").iterdir())
    events = [event for path in paths for event in segment.read(path)[1]]
    change(events)
    for path in paths:
        path.unlink()
    paths[0].write_bytes(segment.encode(0, 0, rows_of(events)))


def flip_state(directory: Path, chance: random.Random) -> str:
    """Flip a bit of a machine state."""
    return _flip_checkpoint(directory, chance, in_map=False)


def flip_map(directory: Path, chance: random.Random) -> str:
    """Flip a bit of the map that says which page holds what."""
    return _flip_checkpoint(directory, chance, in_map=True)


def flip_page(directory: Path, chance: random.Random, *, checkpoint: int | None = None) -> str:
    """Flip a bit of a page of memory, stored with *checkpoint* or any; its hash in the index is made to fit."""
    paths = sorted(each for each in (directory / "pages").iterdir() if _page_count(each))
    path = chance.choice(paths) if checkpoint is None else directory / "pages" / pages_name(checkpoint)
    data = path.read_bytes()
    frame = PAGES_FRAME.decode_header(path, data)
    count = frame.fields[3]
    index_start = len(data) - frame.stored_size
    index = PAGES_FRAME.decode_payload(path, frame, data[index_start:], offset=index_start)
    entries_size = -(-count // CHUNK_PAGES) * CHUNK_ENTRY.size
    entries = list(CHUNK_ENTRY.iter_unpack(index[:entries_size]))
    bitmap_start = entries_size + 8 * count
    hashes = from_bytes("Q", index[entries_size:bitmap_start])
    chunks, start = [], PAGES_FRAME.header_size
    for size, _ in entries:
        chunks.append(data[start : start + size])
        start += size
    page, offset, bit = chance.randrange(count), chance.randrange(PAGE_SIZE), chance.randrange(8)
    chunk, place = divmod(page, CHUNK_PAGES)
    raw_size = min(CHUNK_PAGES, count - chunk * CHUNK_PAGES) * PAGE_SIZE
    raw = bytearray(decompress(path, chunks[chunk], raw_size, offset=0))
    raw[place * PAGE_SIZE + offset] ^= 1 << bit
    chunks[chunk] = compress_fast(bytes(raw))
    (hashes[page],) = from_bytes("Q", hash_pages(raw[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]))
    packed = b"".join(CHUNK_ENTRY.pack(len(each), check_of(each)) for each in chunks)
    header, stored = PAGES_FRAME.encode(
        frame.fields, packed + to_bytes(hashes) + index[bitmap_start:], compress_fast
    )
    _replace(path, header + b"".join(chunks) + stored)
    return f"{path.name}: page {page}, byte {offset}, bit {bit}"


def flip_raw(directory: Path, chance: random.Random) -> str:
    """Flip a bit of a file."""
    files = sorted(each for each in directory.rglob("*") if each.is_file() and each.stat().st_size)
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    offset, bit = chance.randrange(len(data)), chance.randrange(8)
    data[offset] ^= 1 << bit
    _replace(path, bytes(data))
    return f"{path.name}: byte {offset}, bit {bit}"


FLIPS: dict[str, Flip] = {
    "event": flip_event,
    "state": flip_state,
    "map": flip_map,
    "page": flip_page,
    "raw": flip_raw,
}
"""Every way of changing a bit, by name."""


def judge(directory: Path, *, locate: bool = False, patience_s: float = 120.0) -> Verdict:
    """Replay the recording in *directory*, which was changed, and return what came of it.

    Anything but a `RevirtError` is a bug, and raised.
    """
    timer: threading.Timer | None = None

    def arm(stop: Callable[[str], None]) -> None:
        nonlocal timer
        timer = threading.Timer(patience_s, stop, [_OUT_OF_TIME])
        timer.start()

    try:
        report = replay(Recording.open(directory), on_start=arm, locate=locate)
    except RevirtError as error:
        return Verdict("refused", f"{type(error).__name__}: {error}")
    finally:
        if timer is not None:
            timer.cancel()
    if report.divergence is not None:
        return Verdict("diverged", f"{report.divergence.what} at {report.divergence.position}")
    return Verdict("hung" if report.reason == _OUT_OF_TIME else "exact", report.reason)


def flip_value(event: Event, chance: random.Random) -> tuple[Event, str]:
    """Return *event* with a bit of one of its values flipped, and which that is."""
    name = chance.choice([*_BITS, "data"] if event.data else list(_BITS))
    if name == "data":
        offset, bit = chance.randrange(len(event.data)), chance.randrange(8)
        data = bytearray(event.data)
        data[offset] ^= 1 << bit
        return event._replace(data=bytes(data)), f"byte {offset} of data, bit {bit}"
    bit = chance.randrange(_BITS[name])
    value = getattr(event, name) ^ (1 << bit)
    fields: dict[str, Any] = {**event._asdict(), name: bool(value) if name == "halted" else value}
    return Event(**fields), f"{name}, bit {bit}"


def _flip_checkpoint(directory: Path, chance: random.Random, *, in_map: bool) -> str:
    path = chance.choice(sorted((directory / "checkpoints").iterdir()))
    data = path.read_bytes()
    header = decode_checkpoint_header(path, data)
    _, payload = CHECKPOINT_FRAME.decode(path, data)
    start, end = (header.state_size, len(payload)) if in_map else (0, header.state_size)
    offset, bit = chance.randrange(start, end), chance.randrange(8)
    changed = bytearray(payload)
    changed[offset] ^= 1 << bit
    _replace(path, b"".join(CHECKPOINT_FRAME.encode(header.frame.fields, bytes(changed), compress_fast)))
    return f"{path.name}: byte {offset} of its payload, bit {bit}"


def _page_count(path: Path) -> int:
    return int(PAGES_FRAME.decode_header(path, path.read_bytes()[: PAGES_FRAME.header_size]).fields[3])


def _replace(path: Path, data: bytes) -> None:
    """Write *data* to *path* without touching the file that it was linked to."""
    path.unlink()
    path.write_bytes(data)
