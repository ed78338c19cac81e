from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_images import CODE, elf, multiboot_header

from revirt.errors import ImageError
from revirt.image import Boot, Mode
from revirt.image.multiboot import find_header, load_multiboot

MIB = 1 << 20
MEMORY = 16 * MIB
PATH = Path("kernel.bin")
KERNEL = elf((0x100000, multiboot_header() + CODE), entry=0x10000C)
FLAT = multiboot_header(0x10003, 0x100010, 0x100000, 0, 0x102000, 0x100030)
"""Address fields of a kernel whose header lies 0x10 bytes into it."""


def load(data: bytes, *, module: Path | None = None, append: str = "") -> Boot:
    return load_multiboot(PATH, data, MEMORY, module=module, append=append)


def read(boot: Boot, address: int, size: int) -> bytes:
    for start, data in boot.writes:
        if start <= address and address + size <= start + len(data):
            return data[address - start : address - start + size]
    raise AssertionError(f"nothing is loaded at {address:#x}")


def info_field(boot: Boot, offset: int) -> int:
    (value,) = struct.unpack("<I", read(boot, boot.cpu.registers["rbx"] + offset, 4))
    assert isinstance(value, int)
    return value


def test_elf_kernel_is_entered_in_protected_mode_with_the_magic_in_eax() -> None:
    boot = load(KERNEL)

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.PROTECTED, 0x10000C)
    assert boot.cpu.registers["rax"] == 0x2BADB002


def test_information_gives_the_memory_in_kib() -> None:
    boot = load(KERNEL)

    assert info_field(boot, 0) & 1, "flag of the memory fields"
    assert (info_field(boot, 4), info_field(boot, 8)) == (639, (MEMORY - MIB) // 1024)


def test_memory_map_entries_do_not_count_their_size_field() -> None:
    boot = load(KERNEL)

    assert info_field(boot, 0) & 1 << 6
    length, address = info_field(boot, 44), info_field(boot, 48)
    entries = list(struct.iter_unpack("<IQQI", read(boot, address, length)))
    assert entries == [
        (20, 0, 0x9FC00, 1),
        (20, 0x9FC00, 0x60400, 2),
        (20, 0x100000, MEMORY - MIB, 1),
    ]


def test_command_line_is_a_string() -> None:
    boot = load(KERNEL, append="verbose")

    assert info_field(boot, 0) & 1 << 2
    assert read(boot, info_field(boot, 16), 8) == b"verbose\0"


def test_initrd_is_the_only_module_and_starts_on_a_page(tmp_path: Path) -> None:
    module = tmp_path / "module"
    module.write_bytes(b"m" * 5000)

    boot = load(KERNEL, module=module)

    assert info_field(boot, 20) == 1, "mods_count"
    start, end, _, _ = struct.unpack("<IIII", read(boot, info_field(boot, 24), 16))
    assert (start % 4096, end - start) == (0, 5000)
    assert read(boot, start, 5000) == module.read_bytes()


def test_loader_gives_its_name() -> None:
    boot = load(KERNEL)

    assert info_field(boot, 0) & 1 << 9
    assert read(boot, info_field(boot, 64), 7) == b"revirt\0"


def test_without_a_module_the_module_count_is_zero() -> None:
    assert info_field(load(KERNEL), 20) == 0


def test_address_fields_load_the_file_as_the_header_says() -> None:
    data = b"file prefix, 32 bytes, not loaded"[:32] + b"0123456789abcdef" + FLAT + CODE

    boot = load(data)

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.PROTECTED, 0x100030)
    assert (0x100000, data[32:]) in boot.writes
    assert boot.cpu.gdt_base < 0x100000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (elf(), "no multiboot header"),
        (elf((0x100000, multiboot_header() + CODE), is_64bit=True), "64-bit multiboot kernel"),
        (elf((0x100000, multiboot_header(0x11) + CODE)), "unknown features .0x10"),
        (multiboot_header() + CODE, "needs the address fields"),
        (multiboot_header(0x10003)[:12], "truncated"),
        (multiboot_header(0x10003, 0x100000, 0x100000, 0x200000, 0, 0x100000), "truncated"),
        (multiboot_header(0x10003, 0x100000, 0x200000, 0, 0, 0x200000), "before the file"),
        (multiboot_header(0x10003, 0x100000, 0x100000, 0, 0x100001, 0x100000), "bss ends before"),
        (multiboot_header(0x10003, 0x100000, 0x100000, 0, 0, 0x300000), "outside the kernel"),
        (multiboot_header(0x10003, 0x100000, 0x100000, 0, 0xFFFFFFFF, 0x100000), "has 16M"),
    ],
)
def test_wrong_kernels_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(data)


def test_header_is_found_only_where_the_specification_puts_it() -> None:
    header = multiboot_header()

    assert find_header(bytes(8180) + header) is not None
    assert find_header(bytes(8184) + header) is None
    assert find_header(b"x" + header) is None
    assert find_header(header[:-1] + b"\0") is None


@given(
    flags=st.sampled_from([3, 0x10003]),
    fields=st.lists(st.integers(0, 0xFFFFFFFF) | st.integers(0xFFFF0, 0x100100), min_size=5, max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_hostile_address_fields_load_within_memory_or_are_an_image_error(
    flags: int, fields: list[int]
) -> None:
    try:
        boot = load(multiboot_header(flags, *fields) + CODE)
    except ImageError:
        return

    assert all(start + len(data) <= MEMORY for start, data in boot.writes)
