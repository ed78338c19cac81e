from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_images import CODE, elf

from revirt.errors import ImageError
from revirt.image import Boot, Mode
from revirt.image.elf import load_elf

MIB = 1 << 20
PATH = Path("kernel.elf")
HIGH_HALF = 0xC0000000


def test_32_bit_file_starts_in_protected_mode_at_its_entry() -> None:
    boot = load_elf(PATH, elf((0x100000, CODE), (0x200000, b"data")), 4 * MIB)

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.PROTECTED, 0x100000)
    assert (0x100000, CODE) in boot.writes
    assert (0x200000, b"data") in boot.writes


def test_64_bit_file_starts_in_long_mode_with_page_tables_beside_it() -> None:
    boot = load_elf(
        PATH, elf((0x1000, bytes(0x9E000)), (0x100000, CODE), is_64bit=True, entry=0x100000), 4 * MIB
    )

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.LONG, 0x100000)
    assert boot.cpu.cr3 >= 0x100000 + len(CODE), "low memory is full"
    assert boot.cpu.cr3 % 4096 == 0


def test_entry_in_virtual_space_is_translated_to_where_the_segment_is_loaded() -> None:
    boot = load_elf(PATH, elf((0x100000, CODE), virtual_base=HIGH_HALF), 4 * MIB)

    assert boot.cpu.pc == 0x100000


@pytest.mark.parametrize(
    ("flag", "emulation", "mode"), [("--32", "elf_i386", Mode.PROTECTED), ("--64", "elf_x86_64", Mode.LONG)]
)
def test_file_made_by_the_linker_is_loaded(tmp_path: Path, flag: str, emulation: str, mode: Mode) -> None:
    source = tmp_path / "kernel.s"
    source.write_text('.globl _start\n.text\nnop\n_start: hlt\n.data\n.ascii "in data"\n.bss\n.skip 9000\n')
    kernel = tmp_path / "kernel"
    subprocess.run(["as", flag, "-o", tmp_path / "kernel.o", source], check=True)
    subprocess.run(
        ["ld", "-m", emulation, "-Ttext=0x200000", "-o", kernel, tmp_path / "kernel.o"], check=True
    )

    boot = load_elf(kernel, kernel.read_bytes(), 16 * MIB)

    assert (boot.cpu.mode, boot.cpu.pc) == (mode, 0x200001)
    assert byte_at(boot, 0x200001) == 0xF4
    assert any(b"in data" in bytes(data) for _, data in boot.writes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF", "not a valid ELF"),
        (elf(machine=40), "another processor .EM_ARM"),
        (elf(machine=62), "32-bit ELF file for EM_X86_64"),
        (elf(kind=1), "not an executable .ET_REL"),
        (elf(entry=0x500000), "entry point 0x500000 is in none"),
        (elf((0x100000, CODE * 100), (0x100010, CODE)), "overlaps"),
        (elf((0x100000, CODE), (8 * MIB, CODE)), "has 4M of memory"),
    ],
)
def test_wrong_files_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_elf(PATH, data, 4 * MIB)

    assert caught.value.path == PATH


def test_program_of_this_host_is_not_a_kernel() -> None:
    program = Path("/bin/sh")

    with pytest.raises(ImageError, match="program for an operating system"):
        load_elf(program, program.read_bytes(), 64 * MIB)


def test_too_many_program_headers_are_refused() -> None:
    data = bytearray(elf())
    struct.pack_into("<H", data, 44, 0xFFFF)

    with pytest.raises(ImageError, match="65535 program headers"):
        load_elf(PATH, bytes(data), 4 * MIB)


@given(size=st.integers(0, len(elf()) - 1), is_64bit=st.booleans())
@settings(max_examples=150, deadline=None)
def test_file_cut_off_anywhere_is_an_image_error(size: int, is_64bit: bool) -> None:
    with pytest.raises(ImageError):
        load_elf(PATH, elf(is_64bit=is_64bit)[:size], 4 * MIB)


@given(
    damage=st.dictionaries(st.integers(4, 120), st.integers(0, 255), min_size=1, max_size=4),
    is_64bit=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_damaged_headers_load_within_memory_or_are_an_image_error(
    damage: dict[int, int], is_64bit: bool
) -> None:
    data = bytearray(elf((0x100000, CODE * 50), is_64bit=is_64bit))
    for offset, value in damage.items():
        data[offset] = value

    try:
        boot = load_elf(PATH, bytes(data), 4 * MIB)
    except ImageError:
        return

    assert all(start + len(contents) <= 4 * MIB for start, contents in boot.writes)


def byte_at(boot: Boot, address: int) -> int:
    for start, data in boot.writes:
        if start <= address < start + len(data):
            return data[address - start]
    raise AssertionError(f"nothing is loaded at {address:#x}")
