"""Linux kernels: a bzImage for x86-64 or i386, entered by the boot protocol.

``direct``: the kernel proper (a vmlinux ELF file) is unpacked on the host, its segments are loaded at their
physical addresses, and it is entered as the image's own decompressor would: 64-bit in ``startup_64`` with
paging on, 32-bit in flat protected mode without.  This halves the time of a boot; the kernel stays at the
address it was linked for.

``decompressor``: the protected-mode part of the image is loaded and entered as a boot loader would, by its
64-bit entry if it has one.  The image then unpacks, and perhaps relocates, itself.

Field names and offsets are those of Documentation/arch/x86/boot.rst and zero-page.rst of the kernel; in both
entries RSI holds the address of ``boot_params``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import ImageError
from revirt.image import elf, payload
from revirt.image.boot import PAGE_SIZE, Boot, CpuStart, Mode
from revirt.image.display import NO_DISPLAY, SCREEN_INFO_SIZE, Display
from revirt.image.layout import GDT_LIMIT, HIGH_MEMORY_START, Layout, in_mib, memory_map
from revirt.image.source import encode_command_line, is_bzimage, is_elf, read_file, refuse_foreign

OLDEST_PROTOCOL = 0x0206
_PROTOCOL_PAYLOAD = 0x0208
_PROTOCOL_INIT_SIZE = 0x020A
_PROTOCOL_XLOADFLAGS = 0x020C

# The setup header, by offset in the file and in boot_params.
_SETUP_SECTS = 0x1F1
_SYSSIZE = 0x1F4
_VID_MODE = 0x1FA
_JUMP_LENGTH = 0x201
_VERSION = 0x206
_TYPE_OF_LOADER = 0x210
_LOADFLAGS = 0x211
_CODE32_START = 0x214
_RAMDISK_IMAGE = 0x218
_RAMDISK_SIZE = 0x21C
_CMD_LINE_PTR = 0x228
_INITRD_ADDR_MAX = 0x22C
_XLOADFLAGS = 0x236
_CMDLINE_SIZE = 0x238
_PAYLOAD_OFFSET = 0x248
_PAYLOAD_LENGTH = 0x24C
_PREF_ADDRESS = 0x258
_INIT_SIZE = 0x260
_HEADER_END_BASE = 0x202
_HEADER_END_MAX = 0x290

# The rest of boot_params; it begins with screen_info.
_ALT_MEM_K = 0x1E0
_E820_ENTRIES = 0x1E8
_E820_TABLE = 0x2D0
_E820_USABLE = 1
_E820_RESERVED = 2
_BOOT_PARAMS_SIZE = 4096

_SECTOR_SIZE = 512
_PARAGRAPH_SIZE = 16
_DEFAULT_SETUP_SECTS = 4
_LOADED_HIGH = 0x01
_CAN_USE_HEAP = 0x80
_XLF_KERNEL_64 = 0x01
_VID_MODE_NORMAL = 0xFFFF
_LOADER_UNDEFINED = 0xFF
_DEFAULT_LOAD_ADDRESS = 0x100000
_ENTRY_64 = 0x200
_STACK_SIZE = 4096
# Kernels before protocol 2.10 do not say how much memory unpacking takes; none of them needed more than this.
_OLD_UNPACKED_RATIO = 8


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """What a bzImage says about itself; ``code`` is its protected-mode part, ``raw`` goes to boot_params."""

    version: int
    is_64bit: bool
    raw: bytes
    code: memoryview
    load_address: int
    init_size: int
    initrd_max: int
    command_line_max: int
    payload: memoryview


def load_linux(
    path: Path,
    data: bytes,
    memory: int,
    *,
    initrd: Path | None,
    append: str,
    entry: str,
    note: Callable[[str], None],
    display: Display = NO_DISPLAY,
) -> Boot:
    """Return the bzImage *data*, read from *path*, ready for *memory* bytes.

    *entry* is ``direct`` or ``decompressor``; *note* is told when the first is not possible and the second is
    used; *display* is what the kernel may show its console on.  Raises ImageError if the kernel, *initrd* or the
    command line *append* is not valid or does not fit.
    """
    header = parse(path, data)
    layout = Layout(display.usable(memory), path)
    if entry == "direct" and payload.compression(header.payload) is None:
        note(f"{path}: unknown kernel compression; the guest unpacks the kernel itself, which takes longer")
        entry = "decompressor"
    if entry == "direct":
        is_64bit, pc = _put_kernel(path, header, layout)
        code32_start = _DEFAULT_LOAD_ADDRESS
    else:
        layout.put(header.load_address, header.code, "the kernel", size=header.init_size)
        is_64bit, code32_start = header.is_64bit, header.load_address
        pc = header.load_address + (_ENTRY_64 if is_64bit else 0)
    ramdisk = _put_initrd(layout, initrd, header.initrd_max) if initrd else (0, 0)
    command_line = layout.place(
        encode_command_line(append, path, header.command_line_max), "the command line"
    )
    params = boot_params(header, memory, ramdisk, command_line, code32_start, display)
    registers = {
        "rsi": layout.place(params, "boot_params", align=PAGE_SIZE),
        "rsp": layout.reserve(_STACK_SIZE, "the boot stack") + _STACK_SIZE,
    }
    gdt = layout.place_gdt(is_64bit=is_64bit)
    if not is_64bit:
        return layout.boot(CpuStart(Mode.PROTECTED, pc, registers, gdt, GDT_LIMIT))
    return layout.boot(CpuStart(Mode.LONG, pc, registers, gdt, GDT_LIMIT, layout.place_identity_tables()))


def parse(path: Path, data: bytes) -> SetupHeader:
    """Return the setup header of the bzImage *data*; raises ImageError if it is not a whole one."""
    if not is_bzimage(data):
        refuse_foreign(data, path)
        if is_elf(data):
            raise ImageError(
                "an ELF file where a Linux bzImage is expected", path=path, hint="use format 'elf'"
            )
        raise ImageError("not a Linux kernel for x86: no boot protocol header", path=path)
    if len(data) < _HEADER_END_MAX:
        raise ImageError(f"truncated: {len(data)} bytes", path=path, hint="fetch the kernel again")
    version = _u16(data, _VERSION)
    if version < OLDEST_PROTOCOL or not data[_LOADFLAGS] & _LOADED_HIGH:
        raise ImageError(
            f"boot protocol {version >> 8}.{version & 0xFF:02} is too old",
            path=path,
            hint="use a bzImage of Linux 2.6.22 or later",
        )
    code_start = ((data[_SETUP_SECTS] or _DEFAULT_SETUP_SECTS) + 1) * _SECTOR_SIZE
    code_size = _u32(data, _SYSSIZE) * _PARAGRAPH_SIZE
    # A size in paragraphs is rounded up: Memtest86+ does not fill its last one.
    if code_start + code_size - _PARAGRAPH_SIZE >= len(data) or not code_size:
        raise ImageError(
            f"truncated: {len(data)} bytes of {code_start + code_size}",
            path=path,
            hint="fetch the kernel again",
        )
    code = memoryview(data)[code_start:]
    has_init_size = version >= _PROTOCOL_INIT_SIZE
    return SetupHeader(
        version=version,
        is_64bit=version >= _PROTOCOL_XLOADFLAGS and bool(_u16(data, _XLOADFLAGS) & _XLF_KERNEL_64),
        raw=data[_SETUP_SECTS : min(_HEADER_END_BASE + data[_JUMP_LENGTH], _HEADER_END_MAX)],
        code=code,
        load_address=_u64(data, _PREF_ADDRESS) if has_init_size else _DEFAULT_LOAD_ADDRESS,
        init_size=_u32(data, _INIT_SIZE) if has_init_size else len(code) * _OLD_UNPACKED_RATIO,
        initrd_max=_u32(data, _INITRD_ADDR_MAX),
        command_line_max=_u32(data, _CMDLINE_SIZE),
        payload=_payload(path, data, code) if version >= _PROTOCOL_PAYLOAD else memoryview(b""),
    )


def boot_params(
    header: SetupHeader,
    memory: int,
    ramdisk: tuple[int, int],
    command_line: int,
    code32_start: int,
    display: Display = NO_DISPLAY,
) -> bytes:
    """Return the zero page: the setup header and what a boot loader fills in.

    *ramdisk* is (address, size), *command_line* the address of a zero-terminated string.
    """
    usable = display.usable(memory)
    params = bytearray(_BOOT_PARAMS_SIZE)
    params[:SCREEN_INFO_SIZE] = display.screen_info()
    params[_SETUP_SECTS : _SETUP_SECTS + len(header.raw)] = header.raw
    struct.pack_into("<H", params, _VID_MODE, _VID_MODE_NORMAL)
    params[_TYPE_OF_LOADER] = _LOADER_UNDEFINED
    params[_LOADFLAGS] = (params[_LOADFLAGS] | _LOADED_HIGH) & ~_CAN_USE_HEAP
    struct.pack_into("<III", params, _CODE32_START, code32_start, *ramdisk)
    struct.pack_into("<I", params, _CMD_LINE_PTR, command_line)
    struct.pack_into("<I", params, _ALT_MEM_K, min((usable - HIGH_MEMORY_START) >> 10, 0xFFFF_FFFF))
    regions = memory_map(memory, usable)
    params[_E820_ENTRIES] = len(regions)
    for index, region in enumerate(regions):
        kind = _E820_USABLE if region.is_usable else _E820_RESERVED
        struct.pack_into("<QQI", params, _E820_TABLE + 20 * index, region.start, region.size, kind)
    return bytes(params)


def _put_kernel(path: Path, header: SetupHeader, layout: Layout) -> tuple[bool, int]:
    """Unpack the kernel and put its segments; return whether it is 64-bit, and its entry point."""
    try:
        unpacked = payload.unpack(header.payload)
    except payload.PayloadError as error:
        raise ImageError(str(error), path=path, hint="the file is damaged: fetch it again") from error
    executable = elf.parse(path, unpacked)
    executable.put(layout)
    return executable.is_64bit, executable.entry


def _put_initrd(layout: Layout, initrd: Path, address_max: int) -> tuple[int, int]:
    """Put *initrd* as high as the kernel allows and return its address and size."""
    hint = f"the machine has {in_mib(layout.memory)} of memory: give it more, or use a smaller initrd"
    data = read_file(initrd, "the initrd", limit=layout.memory, hint=hint)
    top = min(layout.memory, address_max + 1)
    start = (top - len(data)) // PAGE_SIZE * PAGE_SIZE
    kernel_end = layout.end
    if start < kernel_end:
        needed = in_mib(-(-kernel_end // PAGE_SIZE) * PAGE_SIZE + len(data) + PAGE_SIZE)
        raise ImageError(
            f"the initrd ({len(data)} bytes) does not fit above the kernel, which ends at {kernel_end:#x}",
            path=initrd,
            hint=f"give the guest at least {needed} of memory"
            if top == layout.memory
            else "use a smaller initrd",
        )
    layout.put(start, data, "the initrd")
    return start, len(data)


def _payload(path: Path, data: bytes, code: memoryview) -> memoryview:
    offset, length = _u32(data, _PAYLOAD_OFFSET), _u32(data, _PAYLOAD_LENGTH)
    if offset + length > len(code):
        raise ImageError(
            f"truncated: the compressed kernel ends at {offset + length} of {len(code)} bytes",
            path=path,
            hint="fetch the kernel again",
        )
    return code[offset : offset + length]


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
