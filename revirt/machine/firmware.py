"""What a PC has for its firmware beside fw_cfg: the flash memory, a debug port, and a board that it recognises.

SeaBIOS knows a board by the subsystem ids of its host bridge, and whether RAM stands behind the BIOS already by the
bridge's PAM registers (Intel 290549, 3.2.17): `describe_board` sets both.
"""

from __future__ import annotations

from collections.abc import Callable

from revirt.machine.bus import Bus, MmioBus
from revirt.machine.fw_cfg import DATA, SELECTOR, FwCfg
from revirt.machine.pci import ConfigSpace

SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
SUBSYSTEM_VENDOR_QEMU = 0x1AF4
SUBSYSTEM_QEMU = 0x1100

PAM0 = 0x59
PAM0_BIOS_IS_RAM = 0x30
"""Reads and writes of 0xF0000 to 0xFFFFF go to RAM."""

DEBUG_READY = 0xE9
"""What the debug port reads as, so that firmware knows that it is there."""


_FOUR_GIB = 1 << 32


class Flash:
    """The end of *flash* as the CPU finds it below 4 GiB: for reading only.  It has no state but what it holds."""

    name = "flash"

    def __init__(self, flash: memoryview) -> None:
        self._flash = flash

    def read(self, offset: int, size: int) -> int:
        """Return *size* bytes at *offset*."""
        return int.from_bytes(self._flash[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Do nothing: the flash is write-protected."""


class DebugPort:
    """The port (0x402, as in Bochs and QEMU) that firmware writes to what it does, character by character.

    *hear* gets each; None drops them.  The port remembers nothing.
    """

    name = "debug"

    def __init__(self) -> None:
        self.hear: Callable[[bytes], object] | None = None

    def read(self, _offset: int, _size: int) -> int:
        """Say that there is such a port."""
        return DEBUG_READY

    def write(self, _offset: int, _size: int, value: int) -> None:
        """Hand a character on."""
        if self.hear is not None:
            self.hear(bytes([value]))


class Firmware:
    """All of that, for a PC with *memory_size* bytes of RAM and firmware in *flash*."""

    def __init__(self, flash: memoryview, *, memory_size: int) -> None:
        self.fw_cfg = FwCfg(flash, memory_size=memory_size)
        self.debug_port = DebugPort()
        self._flash = flash

    def plug(self, ports: Bus, mmio: MmioBus, bridge: ConfigSpace) -> None:
        """Put everything where firmware looks for it; *bridge* is the board's host bridge."""
        ports.map(0x510, 2, self.fw_cfg, SELECTOR, sizes=(2,))
        ports.map(0x511, 1, self.fw_cfg, DATA)
        ports.map(0x402, 1, self.debug_port, 0)
        mmio.map(_FOUR_GIB - len(self._flash), len(self._flash), Flash(self._flash))
        describe_board(bridge)


def describe_board(bridge: ConfigSpace) -> None:
    """Let firmware find in the host *bridge* that this is a PC as QEMU has it, with RAM behind the BIOS."""
    for register, value in (
        (SUBSYSTEM_VENDOR_ID, SUBSYSTEM_VENDOR_QEMU),
        (SUBSYSTEM_ID, SUBSYSTEM_QEMU),
    ):
        bridge.bytes[register : register + 2] = value.to_bytes(2, "little")
    bridge.bytes[PAM0] = PAM0_BIOS_IS_RAM
