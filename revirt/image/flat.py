"""Flat binaries: the bytes of the file at one address, entered there in real mode."""

from __future__ import annotations

from pathlib import Path

from revirt.errors import ImageError
from revirt.image.boot import Boot, CpuStart, Mode
from revirt.image.layout import Layout

DEFAULT_ADDRESS = 0x7C00
"""Where a PC's firmware loads a boot sector."""

_SEGMENT_SIZE = 0x10000
_REAL_MODE_SIZE = 0x100000


def load_flat(path: Path, data: bytes, memory: int, address: int) -> Boot:
    """Return *data*, read from *path*, to be entered at *address* with all segments 0.

    Raises ImageError if that is not within reach of real mode, or of *memory* bytes.
    """
    if not 0 <= address < _SEGMENT_SIZE:
        raise ImageError(
            f"a flat binary cannot start at {address:#x}", path=path, hint="its address must be below 0x10000"
        )
    if address + len(data) > _REAL_MODE_SIZE:
        raise ImageError(
            f"a flat binary of {len(data)} bytes does not fit into the 1 MiB of real mode",
            path=path,
            hint="if this is a kernel, it is of a kind that revirt does not know",
        )
    layout = Layout(memory, path)
    layout.put(address, data, "the flat binary")
    return layout.boot(CpuStart(Mode.REAL, address))
