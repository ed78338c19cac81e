"""A guest of a few instructions: it reads a register 10,000 times, and keeps what it read."""

from __future__ import annotations

from pathlib import Path

from revirt.image import Guest

ORIGIN, BUFFER, READINGS = 0x7C00, 0x8000, 10_000

CODE = bytes.fromhex(
    "fa"  #        cli
    "baff03"  #    mov dx, 0x3ff       the scratch register of the 16550A
    "b055"  #      mov al, 0x55
    "ee"  #        out dx, al
    "bf0080"  #    mov di, 0x8000
    "b91027"  #    mov cx, 10000
    "ec"  #        in al, dx
    "aa"  #        stosb
    "e2fc"  #      loop                back to the IN
    "b010"  #      mov al, 0x10
    "e6f4"  #      out 0xf4, al        exit
    "f4"  #        hlt
)

SETUP_COUNT, LOOP_COUNT, END_COUNT = 6, 3, 3
"""Instructions before the loop, of one round, and after it."""


def guest_in(directory: Path) -> Guest:
    """Return the guest, its image written to *directory*."""
    image = directory / "reader.bin"
    image.write_bytes(CODE)
    return Guest("reader", "reads a register", 1 << 20, file=image, format="flat", address=ORIGIN)
