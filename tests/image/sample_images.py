"""Small images, laid out by hand from their specifications."""

from __future__ import annotations

import gzip
import struct

CODE = b"\xf4\xeb\xfd"  # hlt; jmp .-1


def elf(
    *segments: tuple[int, bytes],
    is_64bit: bool = False,
    entry: int | None = None,
    machine: int | None = None,
    kind: int = 2,
    virtual_base: int = 0,
) -> bytes:
    """Return an executable with a PT_LOAD for each (physical address, contents), and 16 bytes of zeros."""
    segments = segments or ((0x100000, CODE),)
    header_size, entry_size = (64, 56) if is_64bit else (52, 32)
    machine = machine if machine is not None else (62 if is_64bit else 3)
    entry = segments[0][0] + virtual_base if entry is None else entry
    ident = b"\x7fELF" + bytes([2 if is_64bit else 1, 1, 1]) + bytes(9)
    form = "<HHIQQQIHHHHHH" if is_64bit else "<HHIIIIIHHHHHH"
    fields = (kind, machine, 1, entry, header_size, 0, 0, header_size, entry_size, len(segments), 0, 0, 0)
    headers = ident + struct.pack(form, *fields)
    offset = header_size + entry_size * len(segments)
    contents = b""
    for paddr, data in segments:
        place, sizes = (offset + len(contents), virtual_base + paddr, paddr), (len(data), len(data) + 16)
        if is_64bit:
            headers += struct.pack("<IIQQQQQQ", 1, 7, *place, *sizes, 0x1000)
        else:
            headers += struct.pack("<IIIIIIII", 1, *place, *sizes, 7, 0x1000)
        contents += data
    return headers + contents


def compressed(kernel: bytes) -> bytes:
    """Return *kernel* as the payload of a bzImage."""
    return gzip.compress(kernel, mtime=0)


def bzimage(payload: bytes, **fields: int) -> bytes:
    """Return a bzImage around *payload*; *fields* replace those of its setup header (see `_FIELDS`)."""
    code = bytes(0x300) + payload
    code += bytes(-len(code) % 16)
    image = bytearray(1024) + code
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb\x6a"
    image[0x202:0x206] = b"HdrS"
    values = {
        "setup_sects": 1,
        "syssize": len(code) // 16,
        "version": 0x020F,
        "loadflags": 1,
        "initrd_addr_max": 0x7FFFFFFF,
        "xloadflags": 1,
        "cmdline_size": 2047,
        "payload_offset": 0x300,
        "payload_length": len(payload),
        "pref_address": 0x1000000,
        "init_size": 0x100000,
        **fields,
    }
    for name, value in values.items():
        offset, form = _FIELDS[name]
        struct.pack_into(form, image, offset, value)
    return bytes(image)


_FIELDS = {
    "setup_sects": (0x1F1, "<B"),
    "syssize": (0x1F4, "<I"),
    "version": (0x206, "<H"),
    "loadflags": (0x211, "<B"),
    "initrd_addr_max": (0x22C, "<I"),
    "xloadflags": (0x236, "<H"),
    "cmdline_size": (0x238, "<I"),
    "payload_offset": (0x248, "<I"),
    "payload_length": (0x24C, "<I"),
    "pref_address": (0x258, "<Q"),
    "init_size": (0x260, "<I"),
}


def multiboot_header(flags: int = 3, *addresses: int) -> bytes:
    """Return a multiboot header, with its checksum right."""
    magic = 0x1BADB002
    return struct.pack(f"<{3 + len(addresses)}I", magic, flags, -(magic + flags) & 0xFFFF_FFFF, *addresses)
