"""Guests of a few instructions: cores with their memory laid out, ready to run.

The layout is the same in every mode, so that snippets can be moved between them:

    0x00600  TSS: stack of ring 0 at 0x9000, IST1 at 0xa000
    0x00700  descriptors for LGDT (0x700) and LIDT (0x710)
    0x00800  GDT
    0x01000  IDT, 256 gates
    0x02000  page tables: identity, one page of 2 MiB, user and writable
    0x07c00  the snippet
    0x09000  top of the stack
"""

from __future__ import annotations

from assembly import assemble

from revirt.core import MODE_LONG, MODE_PROTECTED, MODE_REAL, Core, create_core

RAM_SIZE = 2 << 20
TSS, GDT, IDT, PAGE_TABLES, CODE, STACK, IST_STACK = 0x600, 0x800, 0x1000, 0x2000, 0x7C00, 0x9000, 0xA000
GDT_LIMIT = 0x4F
KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA, USER_CODE64, TASK = 0x10, 0x18, 0x23, 0x2B, 0x33, 0x40
FOREVER = 1 << 60

LOAD_TABLES = f"lidt [0x710]\n mov ax, {TASK}\n ltr ax\n"
"""What a snippet in protected or long mode starts with to be able to take exceptions."""


def new_core(*, translation_buffer: int = 0, track_writes: bool = True) -> Core:
    """Return a core with devices that answer zeros and ignore writes, and MMIO above RAM up to 4 GiB."""
    core = create_core(RAM_SIZE, translation_buffer=translation_buffer, track_writes=track_writes)
    core.set_callbacks(
        lambda port, size: 0,
        lambda port, size, value: None,
        lambda address, size: 0,
        lambda address, size, value: None,
    )
    core.map_mmio(RAM_SIZE, (1 << 32) - RAM_SIZE)
    return core


def put(core: Core, address: int, source: str, bits: int) -> None:
    """Assemble *source* and write it to physical *address*."""
    code = assemble(source, bits, address)
    core.ram[address : address + len(code)] = code
    core.written(address, len(code))


def real(source: str, core: Core | None = None) -> Core:
    """Return a core about to run *source* in real mode."""
    core = core or new_core()
    put(core, CODE, source, 16)
    core.start(MODE_REAL, CODE, {"rsp": STACK}, 0, 0, 0)
    return core


def protected(source: str, core: Core | None = None) -> Core:
    """Return a core about to run *source* in flat 32-bit mode without paging, at ring 0."""
    core = core or new_core()
    write_tables(core, is_long=False)
    put(core, CODE, source, 32)
    core.start(MODE_PROTECTED, CODE, {"rsp": STACK}, GDT, GDT_LIMIT, 0)
    return core


def long(source: str, core: Core | None = None) -> Core:
    """Return a core about to run *source* in 64-bit mode at ring 0, memory mapped one to one."""
    core = core or new_core()
    write_tables(core, is_long=True)
    put(core, CODE, source, 64)
    core.start(MODE_LONG, CODE, {"rsp": STACK}, GDT, GDT_LIMIT, PAGE_TABLES)
    return core


def set_vector(core: Core, vector: int, address: int) -> None:
    """Point interrupt *vector* of real mode at *address*."""
    core.ram[4 * vector : 4 * vector + 4] = address.to_bytes(4, "little")


def set_gate(core: Core, vector: int, address: int, *, is_long: bool, dpl: int = 0, ist: int = 0) -> None:
    """Point interrupt gate *vector* at *address* in the kernel's code segment."""
    low = (address & 0xFFFF) | KERNEL_CODE << 16
    high = (address & 0xFFFF0000) | 0x8E00 | dpl << 13 | ist
    gate = low.to_bytes(4, "little") + high.to_bytes(4, "little")
    size = 16 if is_long else 8
    core.ram[IDT + size * vector : IDT + size * (vector + 1)] = gate.ljust(size, b"\0")


def to_user(entry: str, *, bits: int, iopl: int = 0) -> str:
    """Return source that leaves for *entry* at ring 3 with interrupts off and the stack at 0xb000."""
    code = USER_CODE64 if bits == 64 else USER_CODE
    iret = "iretq" if bits == 64 else "iretd"
    return f"push {USER_DATA}\n push 0xb000\n push {2 | iopl << 12}\n push {code}\n push offset {entry}\n {iret}\n"


def write_tables(core: Core, *, is_long: bool) -> None:
    """Write GDT, IDT (all gates absent), TSS and page tables."""
    kernel_code = 0x00AF9B00_0000FFFF if is_long else 0x00CF9B00_0000FFFF
    task = 0x67 | TSS << 16 | 0x89 << 40
    descriptors = [
        0,
        0,
        kernel_code,
        0x00CF9300_0000FFFF,
        0x00CFFB00_0000FFFF,
        0x00CFF300_0000FFFF,
        0x00AFFB00_0000FFFF,
        0,
        task,
        0,
    ]
    core.ram[GDT : GDT + GDT_LIMIT + 1] = b"".join(entry.to_bytes(8, "little") for entry in descriptors)
    core.ram[0x710:0x71A] = (0xFFF).to_bytes(2, "little") + IDT.to_bytes(8, "little")
    if is_long:
        _write_word(core, TSS + 4, STACK, 8)
        _write_word(core, TSS + 0x24, IST_STACK, 8)
    else:
        _write_word(core, TSS + 4, STACK, 4)
        _write_word(core, TSS + 8, KERNEL_DATA, 4)
    _write_word(core, TSS + 0x66, 0x68, 2)
    for table, entry in ((0x2000, 0x3007), (0x3000, 0x4007), (0x4000, 0x87)):
        _write_word(core, table, entry, 8)


def word(core: Core, address: int, size: int = 4) -> int:
    """Return the little-endian word at physical *address*."""
    return int.from_bytes(core.ram[address : address + size], "little")


def _write_word(core: Core, address: int, value: int, size: int) -> None:
    core.ram[address : address + size] = value.to_bytes(size, "little")
