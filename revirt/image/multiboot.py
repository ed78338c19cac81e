"""Multiboot kernels, version 0.6.96 of the specification.

    header (within the first 8192 bytes of the file, aligned to 4):
        magic, flags, checksum [, header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr if flags bit
        16]

The kernel is loaded by its ELF headers, or, with the address fields ("a.out kludge"), as the header says.  It
is entered in flat protected mode with EAX = 0x2BADB002 and EBX = the address of the information structure
(section 3.3), which has the memory sizes, the command line, at most one module, the memory map and the
loader's name.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from revirt.errors import ImageError
from revirt.image import elf
from revirt.image.boot import PAGE_SIZE, Boot, CpuStart, Mode
from revirt.image.layout import (
    GDT_LIMIT,
    HIGH_MEMORY_START,
    LOW_MEMORY_END,
    Layout,
    in_mib,
    memory_map,
)
from revirt.image.source import encode_command_line, is_elf, read_file

HEADER_MAGIC = 0x1BADB002
BOOT_MAGIC = 0x2BADB002

_SEARCH_SIZE = 8192
_HEADER = struct.Struct("<III")
_ADDRESSES = struct.Struct("<IIIII")
# Header flags, section 3.1.2.  Bits 0 to 15 are requirements: a loader that does not know one must not go on.
_ALIGN_MODULES = 1 << 0
_WANT_MEMORY = 1 << 1
_WANT_VIDEO = 1 << 2
_REQUIREMENTS = 0xFFFF
# There is no video to report; the information structure says so, as it does on a machine in text mode.
_KNOWN_REQUIREMENTS = _ALIGN_MODULES | _WANT_MEMORY | _WANT_VIDEO
_HAS_ADDRESSES = 1 << 16

# Information structure, section 3.3, up to boot_loader_name; the gap is the symbol table, which is not given.
_INFO = struct.Struct("<IIIIIII16xIIIIII")
_INFO_MEMORY = 1 << 0
_INFO_COMMAND_LINE = 1 << 2
_INFO_MODULES = 1 << 3
_INFO_MEMORY_MAP = 1 << 6
_INFO_LOADER_NAME = 1 << 9
_MODULE = struct.Struct("<IIII")
# The size field in front of an entry does not count itself.
_MAP_ENTRY = struct.Struct("<IQQI")
_MAP_ENTRY_SIZE = 20
_USABLE = 1
_RESERVED = 2


class Header(NamedTuple):
    """The multiboot header found at ``offset`` of the file."""

    offset: int
    flags: int


def find_header(data: bytes) -> Header | None:
    """Return the multiboot header in *data*, None if it has none."""
    start = 0
    end = min(len(data), _SEARCH_SIZE)
    while (offset := data.find(HEADER_MAGIC.to_bytes(4, "little"), start, end)) >= 0:
        if offset % 4 == 0 and offset + _HEADER.size <= end:
            magic, flags, checksum = _HEADER.unpack_from(data, offset)
            if (magic + flags + checksum) & 0xFFFF_FFFF == 0:
                return Header(offset, flags)
        start = offset + 1
    return None


def load_multiboot(path: Path, data: bytes, memory: int, *, module: Path | None, append: str) -> Boot:
    """Return the multiboot kernel *data*, read from *path*, ready for *memory* bytes.

    Raises ImageError if it is not one, is truncated, needs what this loader does not have, or does not fit
    with its *module* and its command line *append*.
    """
    header = find_header(data)
    if header is None:
        raise ImageError(
            "no multiboot header", path=path, hint="it belongs into the first 8192 bytes of the file"
        )
    unknown = header.flags & _REQUIREMENTS & ~_KNOWN_REQUIREMENTS
    if unknown:
        raise ImageError(f"the multiboot header demands unknown features ({unknown:#x})", path=path)
    layout = Layout(memory, path)
    if header.flags & _HAS_ADDRESSES:
        entry = _put_by_addresses(path, data, header, layout)
    else:
        entry = _put_elf(path, data, layout)
    loaded = _put_module(layout, module) if module else None
    info = _place_info(layout, loaded, encode_command_line(append, path))
    registers = {"rax": BOOT_MAGIC, "rbx": info}
    gdt = layout.place_gdt(is_64bit=False)
    return layout.boot(CpuStart(Mode.PROTECTED, entry, registers, gdt, GDT_LIMIT))


def _put_elf(path: Path, data: bytes, layout: Layout) -> int:
    if not is_elf(data):
        raise ImageError("a multiboot kernel that is not ELF needs the address fields (flag 16)", path=path)
    executable = elf.parse(path, data)
    if executable.is_64bit:
        raise ImageError(
            "a 64-bit multiboot kernel: multiboot 1 starts 32-bit ELF files only",
            path=path,
            hint="link it as i386 with a 32-bit entry, or give it without multiboot as format 'elf'",
        )
    executable.put(layout)
    return executable.entry


def _put_by_addresses(path: Path, data: bytes, header: Header, layout: Layout) -> int:
    """Load by the header's address fields, section 3.1.3; return the entry point."""
    if header.offset + _HEADER.size + _ADDRESSES.size > len(data):
        raise ImageError("truncated within the multiboot header", path=path)
    fields: tuple[int, ...] = _ADDRESSES.unpack_from(data, header.offset + _HEADER.size)
    header_address, load_address, load_end, bss_end, entry = fields
    start = header.offset - (header_address - load_address)
    if load_address > header_address or start < 0:
        raise ImageError("the multiboot header's load address lies before the file", path=path)
    size = load_end - load_address if load_end else len(data) - start
    if size < 0 or start + size > len(data):
        raise ImageError(
            f"truncated: the multiboot header wants {start + size} bytes of {len(data)}", path=path
        )
    if bss_end and bss_end < load_address + size:
        raise ImageError("the multiboot header's bss ends before it starts", path=path)
    occupied = max(bss_end - load_address, size)
    if not load_address <= entry < load_address + occupied:
        raise ImageError(f"the entry point {entry:#x} is outside the kernel", path=path)
    layout.put(load_address, data[start : start + size], "the kernel", size=occupied)
    return entry


def _put_module(layout: Layout, module: Path) -> tuple[int, int]:
    """Put *module* into the first gap, aligned to a page, and return its start and end."""
    hint = f"the machine has {in_mib(layout.memory)} of memory: give it more, or use a smaller module"
    data = read_file(module, "the module", limit=layout.memory, hint=hint)
    start = layout.place(data, "the module", align=PAGE_SIZE)
    return start, start + len(data)


def _place_info(layout: Layout, module: tuple[int, int] | None, command_line: bytes) -> int:
    """Place the information structure and what it points to; return its address."""
    flags = _INFO_MEMORY | _INFO_COMMAND_LINE | _INFO_MODULES | _INFO_MEMORY_MAP | _INFO_LOADER_NAME
    line = layout.place(command_line, "the command line")
    modules = 0
    if module is not None:
        modules = layout.place(
            _MODULE.pack(*module, layout.place(b"\0", "the module's name"), 0), "the module list"
        )
    entries = b"".join(
        _MAP_ENTRY.pack(_MAP_ENTRY_SIZE, start, size, _USABLE if is_usable else _RESERVED)
        for start, size, is_usable in memory_map(layout.memory)
    )
    memory_lower = LOW_MEMORY_END >> 10
    memory_upper = (layout.memory - HIGH_MEMORY_START) >> 10
    table = layout.place(entries, "the memory map")
    name = layout.place(b"revirt\0", "the loader's name")
    boot_device = drives_length = drives = config_table = 0
    info = _INFO.pack(
        *(flags, memory_lower, memory_upper, boot_device, line, module is not None, modules),
        *(len(entries), table, drives_length, drives, config_table, name),
    )
    return layout.place(info, "the multiboot information")
