from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import ImageError
from revirt.image.boot import Mode
from revirt.image.firmware import FLASH_SIZE, flash, load_bios

MIB = 1 << 20
BIOS = bytes(range(256)) * 512


def test_a_pc_starts_at_its_reset_vector_in_a_copy_of_the_end_of_its_flash() -> None:
    boot = load_bios(Path("bios"), flash(BIOS, {}), 16 * MIB)

    memory = bytearray(16 * MIB + FLASH_SIZE)
    for address, data in boot.writes:
        memory[address : address + len(data)] = data
    assert (boot.cpu.mode, boot.cpu.pc) == (Mode.REAL, 0xFFFF0)
    assert memory[MIB - len(BIOS) : MIB] == BIOS
    assert memory[-len(BIOS) :] == BIOS


def test_a_bios_alone_is_flash_without_files() -> None:
    assert load_bios(Path("bios"), BIOS, MIB) == load_bios(Path("bios"), flash(BIOS, {}), MIB)


@pytest.mark.parametrize("size", [1, FLASH_SIZE - 1, FLASH_SIZE + 1, 96 << 10])
def test_what_no_firmware_has_the_size_of_is_refused(size: int) -> None:
    with pytest.raises(ImageError, match=f"not a PC's firmware: {size} bytes"):
        load_bios(Path("bios"), bytes(size), MIB)


def test_files_follow_one_another_behind_their_directory() -> None:
    image = flash(BIOS, {"etc/a": b"aa", "b": b"b"})

    assert struct.unpack_from(">IIHH56sIHH56s", image) == (
        2, 2, 0x20, 0, b"etc/a".ljust(56, b"\0"), 1, 0x21, 0, b"b".ljust(56, b"\0"),
    )  # fmt: skip
    assert image[4096:4100] == b"aab\0"


@given(st.integers(0, 70), st.integers(0, FLASH_SIZE))
def test_what_does_not_fit_into_a_flash_is_refused(count: int, size: int) -> None:
    files = {f"f{number}": bytes(size if number == 0 else 0) for number in range(count)}
    fits = count <= 63 and (count == 0 or size <= FLASH_SIZE - 4096 - len(BIOS))

    if fits:
        assert len(flash(BIOS, files)) == FLASH_SIZE
    else:
        with pytest.raises(ValueError, match="files of"):
            flash(BIOS, files)


@pytest.mark.parametrize("name", ["", "x" * 56])
def test_a_name_that_the_directory_has_no_room_for_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        flash(BIOS, {name: b""})
