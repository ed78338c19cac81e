"""PCI configuration space: mechanism #1, and the host bridge of an i440FX behind it.

    offset   port    register
    0-3      0xCF8   CONFIG_ADDRESS: 32-bit accesses only; smaller ones pass the bridge by (PCI 2.1, 3.7.4.1)
    4-7      0xCFC   CONFIG_DATA: any size

Map the two apart, so that byte-wide neighbours such as the reset control register at 0xCF9 stay reachable:
offset 0 with ``ADDRESS_SIZES``, offset 4 with ``DATA_SIZES``.  Absent functions read all ones.

A function may answer in windows of port and memory addresses that software moves about (`revirt.machine.pci_function`);
`Pci.find_port` and `Pci.find_memory` tell a bus which.  Where windows overlap, the function in the lowest slot answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

from revirt.machine.device import Registers
from revirt.machine.state import U32, Range, State

CONFIG_ADDRESS = 0
CONFIG_DATA = 4
ADDRESS_SIZES = (4,)
DATA_SIZES = (1, 2, 4)

ADDRESS_ENABLE = 0x8000_0000
ADDRESS_BUS = 0x00FF_0000
ADDRESS_FUNCTION_SHIFT = 8
ADDRESS_REGISTER = 0xFC
ADDRESS_WRITABLE = ADDRESS_ENABLE | ADDRESS_BUS | 0xFFFC

CONFIG_SIZE = 256
VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
REVISION_ID = 0x08
CLASS_CODE = 0x0A
LATENCY_TIMER = 0x0D

VENDOR_INTEL = 0x8086
DEVICE_440FX = 0x1237
CLASS_HOST_BRIDGE = 0x0600
COMMAND_MEMORY_AND_MASTER = 0x0006
STATUS_MEDIUM_DEVSEL = 0x0200

# The 82441FX's own registers (Intel 290549) that software may change.
PMC_CONFIGURATION = range(0x50, 0x54)
PMC_DRAM = range(0x57, 0x59)
PMC_ATTRIBUTES = range(0x59, 0x60)
PMC_ROW_BOUNDARIES = range(0x60, 0x69)
PMC_SMRAM = 0x72
SMRAM_RESET = 0x02


class Window(NamedTuple):
    """Addresses ``[start, end)`` at which *registers* answer."""

    start: int
    end: int
    registers: Registers


class PciFunction(Protocol):
    """A function: its configuration space, and where it answers at present."""

    @property
    def ports(self) -> Sequence[Window]:
        """The windows of port addresses."""
        ...

    @property
    def memory(self) -> Sequence[Window]:
        """The windows of memory addresses."""
        ...

    def read_config(self, register: int, size: int) -> int:
        """Return *size* bytes (1, 2 or 4), little-endian, from *register*, a multiple of *size* below 256."""
        ...

    def write_config(self, register: int, size: int, value: int) -> None:
        """Write *size* bytes of *value* to *register*."""
        ...


class ConfigSpace:
    """A configuration space that is memory: a byte changes only in the bits that its mask allows."""

    ports: Sequence[Window] = ()
    memory: Sequence[Window] = ()

    def __init__(self, initial: bytes, writable: bytes) -> None:
        self.initial = initial
        self.writable = writable
        self.bytes = bytearray(initial)

    def read_config(self, register: int, size: int) -> int:
        """Return *size* bytes (1, 2 or 4), little-endian, from *register*."""
        return int.from_bytes(self.bytes[register : register + size], "little")

    def write_config(self, register: int, size: int, value: int) -> None:
        """Write *size* bytes of *value* to *register*, as far as they may change."""
        for index, byte in enumerate(value.to_bytes(size, "little"), register):
            writable = self.writable[index]
            self.bytes[index] = self.bytes[index] & ~writable | byte & writable


def host_bridge() -> ConfigSpace:
    """Return the configuration space of an 82441FX, at its defaults.

    What it controls on a real board (shadow RAM, row boundaries, SMRAM) does not exist here: all RAM is plain
    RAM.
    """
    initial, writable = bytearray(CONFIG_SIZE), bytearray(CONFIG_SIZE)

    def store_word(register: int, value: int) -> None:
        initial[register : register + 2] = value.to_bytes(2, "little")

    store_word(VENDOR_ID, VENDOR_INTEL)
    store_word(DEVICE_ID, DEVICE_440FX)
    store_word(COMMAND, COMMAND_MEMORY_AND_MASTER)
    store_word(STATUS, STATUS_MEDIUM_DEVSEL)
    initial[REVISION_ID] = 2
    store_word(CLASS_CODE, CLASS_HOST_BRIDGE)
    initial[PMC_SMRAM] = SMRAM_RESET
    writable[LATENCY_TIMER] = 0xF8
    for register in (*PMC_CONFIGURATION, *PMC_DRAM, *PMC_ATTRIBUTES, *PMC_ROW_BOUNDARIES, PMC_SMRAM):
        writable[register] = 0xFF
    return ConfigSpace(bytes(initial), bytes(writable))


@dataclass
class PciState(State):
    """The address register and the host bridge; other functions save themselves."""

    address: U32
    bridge: Annotated[bytes, Range(CONFIG_SIZE, CONFIG_SIZE)]


class Pci:
    """Bus 0 and its host bridge."""

    name = "pci"

    def __init__(self) -> None:
        self._address = 0
        self.bridge = host_bridge()
        self._functions: dict[int, PciFunction] = {0: self.bridge}
        self._by_slot: list[PciFunction] = []

    def plug(self, device: int, function: PciFunction) -> None:
        """Let *function* be function 0 of *device* (1 to 31) on bus 0; raises ValueError if there is one."""
        number = device << 3
        if not 0 < device < 32 or number in self._functions:
            raise ValueError(f"PCI device {device} is taken or does not exist")
        self._functions[number] = function
        self._by_slot = [self._functions[number] for number in sorted(self._functions)]

    def find_port(self, address: int, size: int) -> tuple[Registers, int] | None:
        """Return who answers all *size* bytes at port *address*, and at which offset; None if no one function does."""
        for function in self._by_slot:
            for window in function.ports:
                if window.start < address + size and address < window.end:
                    return _answering(window, address, size)
        return None

    def find_memory(self, address: int, size: int) -> tuple[Registers, int] | None:
        """Return who answers all *size* bytes at *address*, and at which offset; None if no one function does."""
        for function in self._by_slot:
            for window in function.memory:
                if window.start < address + size and address < window.end:
                    return _answering(window, address, size)
        return None

    def read(self, offset: int, size: int) -> int:
        """Return CONFIG_ADDRESS, or *size* bytes of what it points to."""
        absent = (1 << 8 * size) - 1
        if offset < CONFIG_DATA:
            return self._address if size == 4 else absent
        function = self._selected()
        return function.read_config(self._register(offset, size), size) if function else absent

    def write(self, offset: int, size: int, value: int) -> None:
        """Write CONFIG_ADDRESS, or *size* bytes of what it points to."""
        if offset < CONFIG_DATA:
            if size == 4:
                self._address = value & ADDRESS_WRITABLE
        elif function := self._selected():
            function.write_config(self._register(offset, size), size, value)

    def save(self) -> PciState:
        """Return a copy of the state."""
        return PciState(self._address, bytes(self.bridge.bytes))

    def restore(self, state: PciState) -> None:
        """Replace the state."""
        self._address = state.address
        self.bridge.bytes[:] = state.bridge

    def _selected(self) -> PciFunction | None:
        if not self._address & ADDRESS_ENABLE or self._address & ADDRESS_BUS:
            return None
        return self._functions.get(self._address >> ADDRESS_FUNCTION_SHIFT & 0xFF)

    def _register(self, offset: int, size: int) -> int:
        return self._address & ADDRESS_REGISTER | offset & 3 & -size


def _answering(window: Window, address: int, size: int) -> tuple[Registers, int] | None:
    """Return who answers an access that *window* has a part in; None if it has to be split first."""
    start, end, registers = window
    whole = size <= 4 and not address % size and start <= address and address + size <= end
    return (registers, address - start) if whole else None
