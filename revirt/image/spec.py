"""Which image to start, and how: what a guest or a command line asks for, and the one way to load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import ImageError, UsageError
from revirt.image.boot import PAGE_SIZE, Boot
from revirt.image.display import NO_DISPLAY, Display
from revirt.image.layout import MAX_MEMORY, MIN_MEMORY
from revirt.image.source import MAX_FILE_SIZE, is_bzimage, is_elf, read_file, refuse_foreign

FORMATS = ("auto", "flat", "elf", "multiboot", "linux", "bios")
ENTRIES = ("direct", "decompressor")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image to load.

    ``format`` is one of `FORMATS`; ``address`` is where a flat binary goes (default 0x7c00); ``initrd`` is
    Linux's initial RAM disk, or a multiboot module; ``append`` is the command line; ``entry``, one of
    `ENTRIES`, says how a Linux kernel is entered.
    """

    file: Path
    format: str = "auto"
    address: int | None = None
    initrd: Path | None = None
    append: str = ""
    entry: str = "direct"


def _ignore(_note: str) -> None:
    pass


def check_memory(memory: int) -> None:
    """Raise UsageError unless a machine can have *memory* bytes of RAM."""
    if not MIN_MEMORY <= memory <= MAX_MEMORY or memory % PAGE_SIZE:
        raise UsageError(
            f"a machine cannot have {memory} bytes of memory",
            hint=f"give a multiple of 4K from {MIN_MEMORY >> 20}M to {MAX_MEMORY >> 20}M",
        )


def load(
    spec: ImageSpec,
    memory: int,
    *,
    note: Callable[[str], None] = _ignore,
    display: Display = NO_DISPLAY,
) -> Boot:
    """Return the image of *spec*, ready for a machine with *memory* bytes of RAM.

    A Linux kernel is told of the *display*.  *note* is told what the user should know though it is no error.
    Raises ImageError if a file is missing, damaged, of the wrong kind or does not fit, UsageError if *spec* or
    *memory* makes no sense.
    """
    check_memory(memory)
    if spec.format not in FORMATS:
        raise UsageError(
            f"no image format is called {spec.format!r}", hint=f"choose from {', '.join(FORMATS)}"
        )
    if spec.entry not in ENTRIES:
        raise UsageError(f"no entry is called {spec.entry!r}", hint=f"choose from {', '.join(ENTRIES)}")
    data = read_file(spec.file, "the image", limit=MAX_FILE_SIZE)
    kind = _detect(spec.file, data) if spec.format == "auto" else spec.format
    _check_options(spec, kind)
    # The loaders are imported when one is wanted: their libraries take as long to import as `--help` may
    # take.
    if kind == "linux":
        from revirt.image.linux import load_linux

        return load_linux(
            spec.file,
            data,
            memory,
            initrd=spec.initrd,
            append=spec.append,
            entry=spec.entry,
            note=note,
            display=display,
        )
    if kind == "multiboot":
        from revirt.image.multiboot import load_multiboot

        return load_multiboot(spec.file, data, memory, module=spec.initrd, append=spec.append)
    if kind == "bios":
        from revirt.image.firmware import load_bios

        return load_bios(spec.file, data, memory)
    if kind == "elf":
        from revirt.image.elf import load_elf

        return load_elf(spec.file, data, memory)
    from revirt.image.flat import DEFAULT_ADDRESS, load_flat

    return load_flat(spec.file, data, memory, DEFAULT_ADDRESS if spec.address is None else spec.address)


BOOT_SIGNATURE = b"\x55\xaa"
"""The last two bytes of a boot sector."""


def _detect(path: Path, data: bytes) -> str:
    """Return the format of *data*; a boot sector is flat.  Raises ImageError for what nothing can be told of."""
    from revirt.image.multiboot import find_header

    if is_bzimage(data):
        return "linux"
    if find_header(data) is not None:
        return "multiboot"
    if is_elf(data):
        return "elf"
    refuse_foreign(data, path)
    if data[510:512] == BOOT_SIGNATURE:
        return "flat"
    raise ImageError(
        "is no kernel, ELF program or boot sector",
        path=path,
        hint='to run it as a flat binary, describe it in a guest.toml with format = "flat"',
    )


def _check_options(spec: ImageSpec, kind: str) -> None:
    """Refuse options that this kind of image would silently ignore."""
    unused = {
        "an initrd": spec.initrd is not None and kind not in ("linux", "multiboot"),
        "a command line": bool(spec.append) and kind not in ("linux", "multiboot"),
        "an address": spec.address is not None and kind != "flat",
        "an entry": spec.entry != "direct" and kind != "linux",
    }
    for option, is_unused in unused.items():
        if is_unused:
            raise ImageError(f"{option} means nothing to an image of format {kind!r}", path=spec.file)
