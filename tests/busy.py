"""A guest of a few instructions that never ends, and is never the same: it writes to memory and to the serial line."""

from __future__ import annotations

from pathlib import Path

from revirt.image import Guest

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
