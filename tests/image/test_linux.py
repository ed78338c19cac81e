from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_images import CODE, bzimage, compressed, elf

from revirt.errors import ImageError
from revirt.image import Boot, ImageSpec, Mode, load
from revirt.image.linux import load_linux

MIB = 1 << 20
MEMORY = 64 * MIB
KERNEL_64 = elf((0x1000000, CODE), is_64bit=True)
KERNEL_32 = elf((0x1000000, CODE), entry=0x1000000)


def read(boot: Boot, address: int, size: int) -> bytes:
    """Return *size* bytes of guest memory as *boot* leaves it."""
    memory = bytearray(size)
    for start, data in boot.writes:
        low, high = max(start, address), min(start + len(data), address + size)
        if low < high:
            memory[low - address : high - address] = data[low - start : high - start]
    return bytes(memory)


def boot_linux(
    image: bytes, memory: int = MEMORY, *, append: str = "", entry: str = "direct", initrd: Path | None = None
) -> tuple[Boot, list[str]]:
    notes: list[str] = []
    boot = load_linux(
        Path("vmlinuz"), image, memory, initrd=initrd, append=append, entry=entry, note=notes.append
    )
    return boot, notes


def test_direct_entry_of_a_64_bit_kernel_is_in_long_mode_at_its_entry_point() -> None:
    boot, notes = boot_linux(bzimage(compressed(KERNEL_64)))

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.LONG, 0x1000000)
    assert read(boot, 0x1000000, len(CODE)) == CODE
    assert notes == []


def test_page_tables_map_the_first_4_gib_onto_themselves() -> None:
    boot, _ = boot_linux(bzimage(compressed(KERNEL_64)))

    for vaddr in (0, 0x1000000, 0x3FFFFFFF, 0x40000000, 0xFEE00123, 0xFFFFFFFF):
        entry = boot.cpu.cr3
        for shift in (39, 30, 21):
            index = vaddr >> shift & 0x1FF
            (entry,) = struct.unpack("<Q", read(boot, (entry & ~0xFFF) + 8 * index, 8))
            assert entry & 3 == 3, "present and writable"
        assert entry & 0x80, "a 2 MiB page"
        assert (entry & ~0x1FFFFF) + (vaddr & 0x1FFFFF) == vaddr


def test_direct_entry_of_a_32_bit_kernel_is_in_protected_mode_without_paging() -> None:
    boot, _ = boot_linux(bzimage(compressed(KERNEL_32), xloadflags=0))

    assert (boot.cpu.mode, boot.cpu.pc, boot.cpu.cr3) == (Mode.PROTECTED, 0x1000000, 0)


@pytest.mark.parametrize(("kernel", "code_bits"), [(KERNEL_64, 0x00A09A00), (KERNEL_32, 0x00C09A00)])
def test_gdt_holds_flat_code_at_0x10_and_data_at_0x18(kernel: bytes, code_bits: int) -> None:
    boot, _ = boot_linux(bzimage(compressed(kernel)))

    code, data = struct.unpack("<QQ", read(boot, boot.cpu.gdt_base + 0x10, 16))
    assert code >> 32 & 0x00E0FE00 == code_bits & 0x00E0FE00
    assert data >> 32 & 0x00E0FE00 == 0x00C09200
    assert code & 0xFFFF == data & 0xFFFF == 0xFFFF
    assert boot.cpu.gdt_limit >= 0x1F


def test_boot_params_describe_the_machine(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"070701" + bytes(5000))

    boot, _ = boot_linux(bzimage(compressed(KERNEL_64)), append="console=ttyS0", initrd=initrd)

    params = read(boot, boot.cpu.registers["rsi"], 4096)
    assert params[0x202:0x206] == b"HdrS"
    assert params[0x210] == 0xFF, "type_of_loader"
    ramdisk, size = struct.unpack_from("<II", params, 0x218)
    assert (ramdisk % 4096, size) == (0, 5006)
    assert MEMORY - 8192 <= ramdisk < MEMORY
    assert read(boot, ramdisk, size) == initrd.read_bytes()
    (command_line,) = struct.unpack_from("<I", params, 0x228)
    assert read(boot, command_line, 14) == b"console=ttyS0\0"
    entries = [struct.unpack_from("<QQI", params, 0x2D0 + 20 * index) for index in range(params[0x1E8])]
    assert entries == [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2), (0x100000, MEMORY - MIB, 1)]
    assert struct.unpack_from("<I", params, 0x1E0)[0] == (MEMORY - MIB) // 1024, "alt_mem_k"


def test_decompressor_is_entered_as_the_boot_protocol_says() -> None:
    image = bzimage(compressed(KERNEL_64))

    boot, notes = boot_linux(image, entry="decompressor")

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.LONG, 0x1000000 + 0x200)
    assert read(boot, 0x1000000, len(image) - 1024) == image[1024:]
    assert notes == []


def test_32_bit_decompressor_is_entered_at_its_first_byte() -> None:
    boot, _ = boot_linux(bzimage(compressed(KERNEL_32), xloadflags=0), entry="decompressor")

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.PROTECTED, 0x1000000)


def test_unknown_compression_falls_back_to_the_decompressor_and_says_so() -> None:
    boot, notes = boot_linux(bzimage(b"\x89LZO" + bytes(60)))

    assert boot.cpu.pc == 0x1000000 + 0x200
    assert len(notes) == 1
    assert "compression" in notes[0]


def test_protocol_without_a_payload_field_falls_back_to_the_decompressor() -> None:
    boot, notes = boot_linux(bzimage(compressed(KERNEL_32), version=0x0206))

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.PROTECTED, 0x100000)
    assert len(notes) == 1


def test_kernel_larger_than_memory_tells_how_much_it_needs() -> None:
    image = bzimage(compressed(elf((40 * MIB, CODE), is_64bit=True)))

    with pytest.raises(ImageError) as caught:
        boot_linux(image, 32 * MIB)

    assert "41M" in caught.value.hint


def test_decompressor_without_room_to_unpack_tells_how_much_it_needs() -> None:
    with pytest.raises(ImageError) as caught:
        boot_linux(bzimage(compressed(KERNEL_64), init_size=100 * MIB), entry="decompressor")

    assert "116M" in caught.value.hint


def test_initrd_that_does_not_fit_above_the_kernel_tells_how_much_memory_it_takes(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(20 * MIB))

    with pytest.raises(ImageError, match="initrd") as caught:
        boot_linux(bzimage(compressed(KERNEL_64)), 32 * MIB, initrd=initrd)

    assert caught.value.path == initrd
    assert "37M" in caught.value.hint


def test_initrd_that_fits_exactly_as_the_hint_says_is_loaded(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(20 * MIB))

    boot, _ = boot_linux(bzimage(compressed(KERNEL_64)), 37 * MIB, initrd=initrd)

    assert boot.cpu.mode is Mode.LONG


def test_initrd_larger_than_memory_is_refused_without_reading_it(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(ImageError, match="too large"):
        boot_linux(bzimage(compressed(KERNEL_64)), initrd=initrd)


def test_initrd_stays_below_the_address_that_the_kernel_names(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(4096))

    boot, _ = boot_linux(bzimage(compressed(KERNEL_64), initrd_addr_max=0x1FFFFFF), initrd=initrd)

    params = read(boot, boot.cpu.registers["rsi"], 4096)
    assert struct.unpack_from("<II", params, 0x218) == (0x1FFF000, 4096)


@pytest.mark.parametrize("limit", [10, 2047])
def test_command_line_longer_than_the_kernel_takes_is_refused(limit: int) -> None:
    image = bzimage(compressed(KERNEL_64), cmdline_size=limit)

    boot_linux(image, append="x" * limit)
    with pytest.raises(ImageError, match=f"takes {limit}"):
        boot_linux(image, append="x" * (limit + 1))


def test_a_kernel_need_not_fill_the_last_paragraph_of_its_size() -> None:
    """What was seen: the size that Debian's Memtest86+ tells is rounded up, and 8 bytes more than it has."""
    whole = bzimage(b"\x90" * 40, payload_length=0)

    boot, _ = boot_linux(whole[:-8], entry="decompressor")

    assert boot.cpu.mode is Mode.LONG


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_command_line_that_is_no_string_for_a_kernel_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="command line"):
        boot_linux(bzimage(compressed(KERNEL_64)), append=text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (elf(), "ELF file where a Linux bzImage"),
        (bytes(0x24) + b"\x18\x28\x6f\x01" + bytes(100), "ARM kernel"),
        (bytes(0x38) + b"ARM\x64" + bytes(100), "ARM64 kernel"),
        (compressed(KERNEL_64), "gzip-compressed"),
        (b"070701" + bytes(1000), "cpio"),
        (b"hello", "not a Linux kernel"),
        (bzimage(compressed(KERNEL_64), version=0x0200), "2.00 is too old"),
        (bzimage(compressed(KERNEL_64), loadflags=0), "too old"),
        (bzimage(compressed(KERNEL_64), payload_length=0xFFFF_FFFF), "truncated"),
        (bzimage(compressed(KERNEL_64), syssize=0xFFFF_FFFF), "truncated"),
        (bzimage(compressed(elf(machine=40))), "another processor"),
        (bzimage(compressed(b"no kernel at all")), "not a valid ELF"),
    ],
)
def test_wrong_kinds_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        boot_linux(data)


# A paragraph less may be what its size, which counts those, is rounded up by.
@given(size=st.integers(0, len(bzimage(compressed(KERNEL_64))) - 16))
@settings(max_examples=200, deadline=None)
def test_kernel_cut_off_anywhere_is_an_image_error(size: int) -> None:
    with pytest.raises(ImageError):
        boot_linux(bzimage(compressed(KERNEL_64))[:size])


@given(
    offset=st.integers(0x1F0, 0x26F),
    value=st.integers(0, 255),
    entry=st.sampled_from(["direct", "decompressor"]),
)
@settings(max_examples=300, deadline=None)
def test_damaged_setup_header_loads_within_memory_or_is_an_image_error(
    offset: int, value: int, entry: str
) -> None:
    image = bytearray(bzimage(compressed(KERNEL_64)))
    image[offset] = value

    try:
        boot, _ = boot_linux(bytes(image), entry=entry)
    except ImageError:
        return

    assert all(start + len(data) <= MEMORY for start, data in boot.writes)


@pytest.mark.debian
@pytest.mark.parametrize(
    ("name", "mode", "compression"),
    [("debian", Mode.LONG, b"\x02\x21\x4c\x18"), ("debian-i386", Mode.PROTECTED, b"\xfd7zXZ")],
)
def test_debian_kernels_unpack_on_the_host(
    debian_guest: Callable[[str], Path], name: str, mode: Mode, compression: bytes
) -> None:
    directory = debian_guest(name)
    spec = ImageSpec(directory / "vmlinuz", initrd=directory / "initrd", append="console=ttyS0")

    boot = load(spec, 256 * MIB, note=pytest.fail)

    assert compression in spec.file.read_bytes()
    assert (boot.cpu.mode, boot.cpu.pc) == (mode, 0x1000000)
    assert any(b"Linux version " in bytes(data) for _, data in boot.writes)


@pytest.mark.debian
@pytest.mark.parametrize("name", ["debian", "debian-i386"])
def test_debian_kernels_cut_off_anywhere_before_their_signature_are_an_image_error(
    debian_guest: Callable[[str], Path], name: str
) -> None:
    image = (debian_guest(name) / "vmlinuz").read_bytes()
    # What follows the code is the Secure Boot signature, which nobody here reads.
    end = (image[0x1F1] + 1) * 512 + 16 * struct.unpack_from("<I", image, 0x1F4)[0]

    for size in [*range(0, 1024, 97), *range(1024, end, end // 20), end - 16]:
        with pytest.raises(ImageError):
            boot_linux(image[:size], 256 * MIB)
