"""A guest of a few instructions that never ends, and is never the same: it writes to memory and to the serial line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from revirt.image import Guest
from revirt.monitor.console import NullConsole
from revirt.monitor.session import RecordOptions, record
from revirt.recording import Manifest, RingLimits
from revirt.recording.manifest import NAME

CODE = bytes.fromhex(
    "fa"  #        cli
    "31db"  #      xor bx, bx
    "8edb"  #      mov ds, bx
    "be0080"  #    mov si, 0x8000
    "43"  #        inc bx
    "891c"  #      mov [si], bx         what it writes is never the same
    "81c60010"  #  add si, 0x1000       a page further
    "81e60070"  #  and si, 0x7000
    "81ce0080"  #  or si, 0x8000
    "ba f803"  #   mov dx, 0x3f8
    "b00a"  #      mov al, 10
    "ee"  #        out dx, al           an event
    "ebe9"  #      jmp                  back to the INC
)
"""Writes to eight pages in turn, and sends a newline for every one of them, for ever."""


def busy_in(directory: Path) -> Guest:
    """Return the guest, its image written to *directory*."""
    image = directory / "busy.bin"
    image.write_bytes(CODE)
    return Guest("busy", "never ends", 1 << 20, file=image, format="flat", address=0x7C00)


@contextmanager
def ring_being_recorded(directory: Path) -> Iterator[Path]:
    """Give the path of a circular recording of it, which is being made all the while, and lets go of what it has."""
    guest, path, stops = busy_in(directory), directory / "now", list[Callable[[str], None]]()
    options = RecordOptions(clock="virtual", checkpoint_every=10_000, limits=RingLimits(size=40_000))

    def run() -> None:
        with NullConsole() as console:
            record(guest, console, options, path, on_start=stops.append)

    recorder = threading.Thread(target=run)
    recorder.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (stops and oldest_of(path)):
        time.sleep(0.01)
    try:
        yield path
    finally:
        stops[0]("enough")
        recorder.join()


def oldest_of(path: Path) -> int:
    """Return the number of the oldest checkpoint that is kept, 0 if there is no recording yet."""
    return Manifest.read(path / NAME).start.checkpoint if (path / NAME).exists() else 0
