"""What stands beside fw_cfg; expectations are from SeaBIOS's fw/shadow.c and hw/pci, and Intel's 290549."""

from __future__ import annotations

from revirt.machine.bus import Bus, MmioBus
from revirt.machine.firmware import DebugPort, Flash, describe_board
from revirt.machine.pci import host_bridge


def test_the_end_of_the_flash_is_what_the_cpu_finds_below_4_gib():
    mmio = MmioBus()
    contents = bytes(range(256)) * 256
    mmio.map((1 << 32) - len(contents), len(contents), Flash(memoryview(contents)))

    assert mmio.read(0xFFFF_FFF0, 8) == int.from_bytes(bytes(range(0xF0, 0xF8)), "little")
    assert mmio.read(0xFFFF_0001, 1) == 1


def test_the_flash_cannot_be_written():
    contents = bytearray(b"firmware")
    flash = Flash(memoryview(contents))

    flash.write(0, 4, 0)

    assert contents == b"firmware"


def test_what_firmware_says_on_the_debug_port_is_heard():
    heard = []
    port = DebugPort()
    ports = Bus()
    ports.map(0x402, 1, port, 0)
    ports.write(0x402, 1, ord("?"))  # nobody listens

    port.hear = heard.append
    ports.write(0x402, 1, ord("S"))

    assert (heard, ports.read(0x402, 1)) == ([b"S"], 0xE9)


def test_the_board_is_recognised_and_has_ram_behind_its_bios():
    bridge = host_bridge()

    describe_board(bridge)

    assert bridge.read_config(0x2C, 4) == 0x1100_1AF4
    assert bridge.read_config(0x59, 1) & 0x10
