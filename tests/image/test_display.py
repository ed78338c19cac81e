"""What a kernel is told of screens; the offsets are those of include/uapi/linux/screen_info.h."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from sample_images import CODE, bzimage, compressed, elf

from revirt.image import Boot
from revirt.image.display import NO_DISPLAY, Display, Framebuffer
from revirt.image.linux import load_linux

MIB = 1 << 20
MEMORY = 64 * MIB
KERNEL = bzimage(compressed(elf((0x1000000, CODE), is_64bit=True)))
RESERVED = 2


def boot_linux(display: Display, initrd: Path | None = None) -> Boot:
    return load_linux(
        Path("vmlinuz"),
        KERNEL,
        MEMORY,
        append="",
        entry="direct",
        note=lambda _: None,
        initrd=initrd,
        display=display,
    )


def boot_params(boot: Boot) -> bytes:
    data = dict(boot.writes)[boot.cpu.registers["rsi"]]
    return bytes(data)


def memory_map(params: bytes) -> list[tuple[int, int, int]]:
    return [struct.unpack_from("<QQI", params, 0x2D0 + 20 * index) for index in range(params[0x1E8])]


def test_a_machine_without_screen_tells_the_kernel_of_none() -> None:
    assert boot_params(boot_linux(NO_DISPLAY))[:64] == bytes(64)


def test_a_vga_is_in_mode_3_with_80_columns_and_25_lines() -> None:
    info = boot_params(boot_linux(Display(has_vga=True)))[:64]

    assert (info[0x06], info[0x07], info[0x0E], info[0x0F]) == (3, 80, 25, 1)
    assert struct.unpack_from("<H", info, 0x10) == (16,)


def test_a_framebuffer_is_described_and_reserved(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"070701" + bytes(5000))
    framebuffer = Framebuffer.at_top(MEMORY, 1024, 768)

    boot = boot_linux(Display(framebuffer=framebuffer), initrd)

    params = boot_params(boot)
    assert framebuffer.base == MEMORY - 4 * MIB
    assert params[0x0F] == 0x70, "VIDEO_TYPE_EFI"
    assert struct.unpack_from("<HHH", params, 0x12) == (1024, 768, 32)
    assert struct.unpack_from("<II", params, 0x18) == (framebuffer.base, 1024 * 768 * 4)
    assert struct.unpack_from("<H", params, 0x24) == (4096,)
    assert memory_map(params)[-2:] == [
        (MIB, framebuffer.base - MIB, 1),
        (framebuffer.base, 4 * MIB, RESERVED),
    ]
    assert max(start + len(data) for start, data in boot.writes) <= framebuffer.base


def test_a_framebuffer_goes_before_a_vga() -> None:
    framebuffer = Framebuffer.at_top(MEMORY, 640, 480)

    assert boot_params(boot_linux(Display(True, framebuffer)))[0x0F] == 0x70


def test_a_framebuffer_leaves_the_guest_half_of_its_memory() -> None:
    with pytest.raises(ValueError, match="more than half of 16 MiB"):
        Framebuffer.at_top(16 * MIB, 1920, 1200)
