from __future__ import annotations

import os
from pathlib import Path

import pytest
from sample_images import CODE, bzimage, compressed, elf, multiboot_header

from revirt.errors import ImageError, UsageError
from revirt.image import ImageSpec, Mode, load

MIB = 1 << 20


def image(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "image"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (CODE.ljust(510, b"\0") + b"\x55\xaa", Mode.REAL),
        (elf(), Mode.PROTECTED),
        (elf(is_64bit=True), Mode.LONG),
        (elf((0x100000, multiboot_header() + CODE)), Mode.PROTECTED),
        (bzimage(compressed(elf((0x1000000, CODE), is_64bit=True))), Mode.LONG),
    ],
)
def test_format_is_recognised(tmp_path: Path, data: bytes, mode: Mode) -> None:
    boot = load(ImageSpec(image(tmp_path, data)), 32 * MIB)

    assert boot.cpu.mode is mode


def test_elf_with_a_multiboot_header_is_loaded_as_multiboot(tmp_path: Path) -> None:
    spec = ImageSpec(image(tmp_path, elf((0x100000, multiboot_header() + CODE))), append="x")

    assert load(spec, 4 * MIB).cpu.registers["rax"] == 0x2BADB002


def test_flat_binary_starts_in_real_mode_where_firmware_would_put_it(tmp_path: Path) -> None:
    boot = load(ImageSpec(image(tmp_path, CODE), format="flat"), MIB)

    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.REAL, 0x7C00)
    assert boot.writes == ((0x7C00, CODE),)


def test_flat_binary_goes_to_the_address_it_is_given(tmp_path: Path) -> None:
    boot = load(ImageSpec(image(tmp_path, CODE), format="flat", address=0x1000), MIB)

    assert (boot.cpu.pc, boot.writes) == (0x1000, ((0x1000, CODE),))


@pytest.mark.parametrize(("address", "size"), [(0x10000, 1), (0x1000, 0xFF001)])
def test_flat_binary_out_of_reach_of_real_mode_is_refused(tmp_path: Path, address: int, size: int) -> None:
    with pytest.raises(ImageError, match="flat binary"):
        load(ImageSpec(image(tmp_path, bytes(size)), format="flat", address=address), 4 * MIB)


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08", b"070701", bytes(0x38) + b"ARM\x64"])
def test_files_of_other_kinds_are_not_run_as_flat_binaries(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ImageError, match="not an x86 image"):
        load(ImageSpec(image(tmp_path, data)), 4 * MIB)


def test_a_file_that_is_nothing_is_not_run_as_a_flat_binary(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no kernel, ELF program or boot sector"):
        load(ImageSpec(image(tmp_path, b"hello world this is not a kernel")), MIB)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere: the image does not exist"):
        load(ImageSpec(tmp_path / "nowhere"), MIB)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="empty"):
        load(ImageSpec(image(tmp_path, b"")), MIB)


def test_directory_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a regular file"):
        load(ImageSpec(tmp_path), MIB)


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ImageError, match="not a regular file"):
        load(ImageSpec(tmp_path / "pipe"), MIB)


def test_endless_device_is_refused() -> None:
    with pytest.raises(ImageError, match="not a regular file"):
        load(ImageSpec(Path("/dev/zero")), MIB)


def test_path_with_a_nul_character_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        load(ImageSpec(Path("a\0b")), MIB)


@pytest.mark.parametrize(
    "options", [{"initrd": Path("initrd")}, {"append": "quiet"}, {"entry": "decompressor"}]
)
def test_options_that_a_flat_binary_would_ignore_are_refused(
    tmp_path: Path, options: dict[str, Path | str]
) -> None:
    with pytest.raises(ImageError, match="means nothing"):
        load(ImageSpec(image(tmp_path, CODE), format="flat", **options), MIB)  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", [0, -4096, MIB - 4096, MIB + 1, 4 << 30])
def test_memory_that_no_machine_has_is_a_usage_error(tmp_path: Path, memory: int) -> None:
    with pytest.raises(UsageError, match="memory"):
        load(ImageSpec(image(tmp_path, CODE)), memory)


def test_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(ImageSpec(image(tmp_path, CODE), format="pe"), MIB)

    assert "multiboot" in caught.value.hint
