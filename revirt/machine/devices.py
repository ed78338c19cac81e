"""Which devices are plugged into a machine beyond those that every one has: part of its configuration.

A machine without any is the one of model 1.  With some, there is a bridge for their interrupts, too
(`revirt.machine.board`).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from revirt.image import display as image
from revirt.image.display import Display
from revirt.image.firmware import FLASH_SIZE

MAX_NICS = 4
MAX_DISKS = 8
SECTOR_SIZE = 512
BLOCK_SIZE = 4096
MAX_DISK_SIZE = 1 << 40
MIN_WIDTH, MAX_WIDTH = 320, 4096
MIN_HEIGHT, MAX_HEIGHT = 200, 4096

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card with the address *mac*, as ``52:54:00:12:34:56``."""

    mac: str

    def __post_init__(self) -> None:
        if type(self.mac) is not str or not _MAC.fullmatch(self.mac) or int(self.mac[:2], 16) & 1:
            raise ValueError(f"{self.mac!r} is not the address of a network card")

    @property
    def address(self) -> bytes:
        """The six bytes of it."""
        return bytes.fromhex(self.mac.replace(":", ""))


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of *size* bytes whose contents at first are those of a file with the SHA-256 digest *sha256*.

    What the guest writes goes to an overlay with room for *overlay* blocks of 4 KiB; one with none is read-only.
    """

    size: int
    sha256: str
    overlay: int

    def __post_init__(self) -> None:
        for value in (self.size, self.overlay):
            if type(value) is not int:
                raise ValueError("sizes of disks are integers")
        if not 0 < self.size <= MAX_DISK_SIZE or self.size % SECTOR_SIZE:
            raise ValueError(f"a disk has 1 to 2147483648 sectors of 512 bytes; not {self.size} bytes")
        if type(self.sha256) is not str or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.sha256!r} is not a SHA-256 digest")
        if not 0 <= self.overlay <= self.blocks:
            raise ValueError(f"an overlay of {self.overlay} blocks over {self.blocks}")

    @property
    def blocks(self) -> int:
        """How many blocks it has, the last perhaps in part."""
        return -(-self.size // BLOCK_SIZE)

    @property
    def store_size(self) -> int:
        """Bytes of the machine's store that its overlay takes: a page to count, a table, and the blocks."""
        if not self.overlay:
            return 0
        table = -(-4 * self.blocks // BLOCK_SIZE)
        return (1 + table + self.overlay) * BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Framebuffer:
    """A screen of *width* by *height* pixels, 4 bytes each, in memory below the top of RAM."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if type(self.width) is not int or type(self.height) is not int:
            raise ValueError("a screen's size is in whole pixels")
        if not (MIN_WIDTH <= self.width <= MAX_WIDTH and MIN_HEIGHT <= self.height <= MAX_HEIGHT):
            raise ValueError(
                f"a screen has {MIN_WIDTH}x{MIN_HEIGHT} to {MAX_WIDTH}x{MAX_HEIGHT} pixels,"
                f" not {self.width}x{self.height}"
            )
        if self.width % 8:
            raise ValueError(f"a screen's width is a multiple of 8; {self.width} is not")


@dataclass(frozen=True, slots=True)
class Devices:
    """What is plugged: any number of network cards and disks, at most one of everything else."""

    nics: tuple[Nic, ...] = ()
    disks: tuple[Disk, ...] = ()
    framebuffer: Framebuffer | None = None
    vga: bool = False
    rng: bool = False
    console: bool = False
    firmware: bool = False

    def __post_init__(self) -> None:
        if len(self.nics) > MAX_NICS or len(self.disks) > MAX_DISKS:
            raise ValueError(f"a machine has at most {MAX_NICS} network cards and {MAX_DISKS} disks")
        for name in _FLAGS:
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is either there or not")

    def __bool__(self) -> bool:
        return self != Devices()

    @property
    def store_size(self) -> int:
        """Bytes of memory behind RAM that they keep: first the flash, then the disks."""
        return self.flash_size + sum(disk.store_size for disk in self.disks)

    @property
    def flash_size(self) -> int:
        """Bytes of flash memory, which firmware comes in."""
        return FLASH_SIZE if self.firmware else 0

    def display(self, memory: int) -> Display:
        """Return what a guest with *memory* bytes may show its console on; ValueError if that takes too much of it."""
        size = self.framebuffer
        pixels = image.Framebuffer.at_top(memory, size.width, size.height) if size is not None else None
        return Display(self.vga, pixels)

    def to_plain(self) -> dict[str, Any]:
        """Return them as plain values."""
        return {
            **{name: getattr(self, name) for name in _FLAGS},
            "nics": [asdict(nic) for nic in self.nics],
            "disks": [asdict(disk) for disk in self.disks],
            "framebuffer": asdict(self.framebuffer) if self.framebuffer is not None else None,
        }

    @classmethod
    def from_plain(cls, plain: object) -> Devices:
        """Return what `to_plain` described; raises ValueError naming what is wrong."""
        if not isinstance(plain, dict) or set(plain) != {each.name for each in fields(cls)}:
            raise ValueError("not the devices of a machine")
        if not isinstance(plain["nics"], list) or not isinstance(plain["disks"], list):
            raise ValueError("network cards and disks are lists")
        framebuffer = plain["framebuffer"]
        return cls(
            **{name: plain[name] for name in _FLAGS},
            nics=tuple(_made(Nic, each) for each in plain["nics"][: MAX_NICS + 1]),
            disks=tuple(_made(Disk, each) for each in plain["disks"][: MAX_DISKS + 1]),
            framebuffer=_made(Framebuffer, framebuffer) if framebuffer is not None else None,
        )


_FLAGS = ("vga", "rng", "console", "firmware")

T = TypeVar("T", Nic, Disk, Framebuffer)


def _made(cls: type[T], plain: object) -> T:
    names = {each.name for each in fields(cls)}
    if not isinstance(plain, dict) or set(plain) != names:
        raise ValueError(f"{cls.__name__.lower()}: it has exactly {', '.join(sorted(names))}")
    return cls(**plain)
