"""Expectations are from QEMU's docs/specs/fw_cfg.rst, and from what SeaBIOS reads."""

from __future__ import annotations

import struct

import pytest

from revirt.image.firmware import DIRECTORY_SIZE, FLASH_SIZE, flash
from revirt.machine.bus import Bus
from revirt.machine.fw_cfg import FwCfg

MEMORY = 48 << 20
FILES = {"etc/show-boot-menu": bytes(8), "vgaroms/vgabios.bin": b"\x55\xaa" + bytes(510)}


def device(image: bytes = b"") -> FwCfg:
    contents = image or flash(bytes(64 << 10), FILES)
    return FwCfg(memoryview(contents), memory_size=MEMORY)


@pytest.fixture
def ports() -> Bus:
    return wired(device())


def wired(fw_cfg: FwCfg) -> Bus:
    ports = Bus()
    ports.map(0x510, 2, fw_cfg, 0, sizes=(2,))
    ports.map(0x511, 1, fw_cfg, 1)
    return ports


def item(ports: Bus, key: int, size: int) -> bytes:
    ports.write(0x510, 2, key)
    return bytes(ports.read(0x511, 1) for _ in range(size))


def test_the_signature_tells_that_it_is_there(ports):
    assert item(ports, 0x0000, 4) == b"QEMU"


def test_it_has_the_ports_and_no_dma(ports):
    assert item(ports, 0x0001, 4) == bytes([1, 0, 0, 0])


def test_it_tells_memory_and_processors(ports):
    assert struct.unpack("<Q", item(ports, 0x0003, 8)) == (MEMORY,)
    assert item(ports, 0x0005, 2) == item(ports, 0x000F, 2) == b"\x01\x00"


def test_firmware_is_told_to_use_the_serial_line(ports):
    assert item(ports, 0x0004, 2) == b"\x01\x00"


def test_files_are_found_by_name_and_read_by_their_key(ports):
    found = {}
    (count,) = struct.unpack(">I", item(ports, 0x0019, 4))
    for number in range(count):
        entry = item(ports, 0x0019, 4 + 64 * count)[4 + 64 * number :]
        size, key, reserved, name = struct.unpack_from(">IHH56s", entry)
        assert reserved == 0
        found[name.rstrip(b"\0").decode()] = item(ports, key, size)

    assert found == FILES


def test_behind_the_end_of_an_item_and_where_there_is_none_are_zeros(ports):
    assert item(ports, 0x0000, 6)[4:] == bytes(2)
    assert item(ports, 0x1234, 4) == bytes(4)


def test_selecting_an_item_again_reads_it_from_its_start(ports):
    item(ports, 0x0000, 2)

    assert item(ports, 0x0000, 4) == b"QEMU"


def test_a_part_of_the_selector_selects_nothing(ports):
    item(ports, 0x0000, 1)
    ports.write(0x510, 1, 0x19)
    ports.write(0x511, 1, 0x00)

    assert bytes(ports.read(0x511, 1) for _ in range(3)) == b"EMU"


def test_a_restored_device_reads_on_where_it_was(ports, through_bytes):
    fw_cfg = device()
    item(wired(fw_cfg), 0x0000, 2)
    other = device()

    other.restore(through_bytes(fw_cfg.save()))

    assert [other.read(1, 1), other.read(1, 1)] == list(b"MU")


@pytest.mark.parametrize(
    "directory",
    [
        b"\xff" * DIRECTORY_SIZE,
        struct.pack(">IIHH56s", 1, 0xFFFF_FFFF, 0x20, 0, b"x").ljust(DIRECTORY_SIZE, b"\0"),
    ],
)
def test_a_directory_that_a_forged_checkpoint_brings_reaches_nothing_but_the_flash(directory):
    image = directory + bytes(FLASH_SIZE - DIRECTORY_SIZE)
    ports = wired(device(image))

    for key in (0x20, 0xFFFF):
        assert item(ports, key, 16) in (bytes(16), b"\xff" * 16)


def test_no_guest_can_upset_it(attack):
    attack(lambda _: device(), 2, (1, 2))
