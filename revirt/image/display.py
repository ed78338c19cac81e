"""What a machine shows its guest on, and how a kernel that no firmware ran before is told.

Linux takes its first console from ``screen_info``, the first 64 bytes of ``boot_params``
(include/uapi/linux/screen_info.h, Documentation/arch/x86/zero-page.rst): lines and columns of a VGA in text mode,
or where a framebuffer lies.  All zeros mean that there is neither.

A framebuffer is a part of RAM at its top that the memory map reserves, so that snapshots and checkpoints hold it as
all memory.  It is announced as firmware's of the EFI kind: of the drivers for one (efifb, vesafb, simplefb) Debian's
kernels for amd64 and its cloud kernels have only efifb in common, and it wants no EFI for that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SCREEN_INFO_SIZE = 64
ALIGNMENT = 2 << 20
"""A framebuffer begins at a multiple of this, so that large pages can map it."""
BYTES_PER_PIXEL = 4

_TEXT_MODE = 3
_COLUMNS = 80
_LINES = 25
_CHARACTER_HEIGHT = 16
_EGA_COLOUR_256K = 3
"""What INT 10h, AH=12h, BL=10h gives in BX for a colour EGA or VGA with 256 KiB."""
_IS_VGA = 1
_VIDEO_TYPE_EFI = 0x70


@dataclass(frozen=True, slots=True)
class Framebuffer:
    """Pixels in RAM from physical *base* on, rows from the top, each pixel blue, green, red and a byte unused."""

    base: int
    width: int
    height: int

    @classmethod
    def at_top(cls, memory: int, width: int, height: int) -> Framebuffer:
        """Return the framebuffer of *width* x *height* pixels that a machine with *memory* bytes has.

        Raises ValueError if half of the memory does not hold it.
        """
        base = (memory - width * height * BYTES_PER_PIXEL) // ALIGNMENT * ALIGNMENT
        if base < memory // 2:
            raise ValueError(f"a framebuffer of {width}x{height} takes more than half of {memory >> 20} MiB")
        return cls(base, width, height)

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return self.width * BYTES_PER_PIXEL

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.stride * self.height


@dataclass(frozen=True, slots=True)
class Display:
    """What a machine has to show something on."""

    has_vga: bool = False
    framebuffer: Framebuffer | None = None

    def screen_info(self) -> bytes:
        """Return ``screen_info``: of the framebuffer, or else of the VGA, or zeros if there is neither."""
        if self.framebuffer is not None:
            return _of_framebuffer(self.framebuffer)
        return _of_vga() if self.has_vga else bytes(SCREEN_INFO_SIZE)

    def usable(self, memory: int) -> int:
        """Return where, of *memory* bytes, that part ends which is the guest's own."""
        return memory if self.framebuffer is None else self.framebuffer.base


NO_DISPLAY = Display()


def _of_vga() -> bytes:
    """Describe a VGA in mode 3, with the cursor at the top left."""
    info = bytearray(SCREEN_INFO_SIZE)
    struct.pack_into("<BB", info, 0x06, _TEXT_MODE, _COLUMNS)
    struct.pack_into("<H", info, 0x0A, _EGA_COLOUR_256K)
    struct.pack_into("<BBH", info, 0x0E, _LINES, _IS_VGA, _CHARACTER_HEIGHT)
    return bytes(info)


def _of_framebuffer(framebuffer: Framebuffer) -> bytes:
    info = bytearray(SCREEN_INFO_SIZE)
    info[0x0F] = _VIDEO_TYPE_EFI
    struct.pack_into("<HHH", info, 0x12, framebuffer.width, framebuffer.height, 8 * BYTES_PER_PIXEL)
    # lfb_size is in bytes for this type (drivers/video/fbdev/efifb.c), in 64 KiB for VESA's.
    struct.pack_into("<II", info, 0x18, framebuffer.base, framebuffer.size)
    red, green, blue, unused = (8, 16), (8, 8), (8, 0), (8, 24)
    struct.pack_into("<H8B", info, 0x24, framebuffer.stride, *red, *green, *blue, *unused)
    struct.pack_into("<H", info, 0x32, 1)
    return bytes(info)
