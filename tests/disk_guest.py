"""A guest of a few instructions that does nothing but read and write its disk; and what the disk has to hold.

In round i, from 1 on, it reads sector 7 * i modulo the number of sectors that it uses, adds i to each 32-bit word
of it, writes it back, and prints a dot; an E if the disk said that it cannot.
"""

from __future__ import annotations

from array import array
from pathlib import Path

from assembly import assemble

from revirt.image import Guest

SECTOR = 512

_SOURCE = Path(__file__).parents[1] / "tools" / "torturing" / "disk.S"


def disk_guest(directory: Path, *, rounds: int, sectors: int = 64) -> Guest:
    """Return the guest, its code written to *directory*; with no *rounds* it never ends."""
    image = directory / f"disk-guest-{rounds}-{sectors}.bin"
    source = f".equ SECTORS, {sectors}\n.equ ROUNDS, {rounds}\n{_SOURCE.read_text()}"
    # A boot sector, which the command line takes as --kernel.
    image.write_bytes(assemble(source, 16, 0x7C00).ljust(510, b"\0") + b"\x55\xaa")
    return Guest("disk-guest", "writes to a disk", 1 << 20, file=image, format="flat", address=0x7C00)


def written(base: bytes, rounds: int, sectors: int = 64) -> bytes:
    """Return what a disk that held *base* holds after so many *rounds*."""
    contents = bytearray(base)
    sector = 0
    for number in range(1, rounds + 1):
        sector = (sector + 7) % sectors
        words = array("I", contents[sector * SECTOR : (sector + 1) * SECTOR])
        contents[sector * SECTOR : (sector + 1) * SECTOR] = array(
            "I", ((word + number) & 0xFFFF_FFFF for word in words)
        ).tobytes()
    return bytes(contents)
