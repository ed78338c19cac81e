"""PCI functions with registers, interrupts and capabilities: configuration header type 0 (PCI 3.0, chapter 6).

A *base address register* (6.2.5.1) says where one of the function's windows of ports or memory lies.  Software finds
the size by writing ones: the bits below the size stay as they are.  A window answers while the command register
allows its kind.

The interrupt pin (6.2.4) is INTA#.  Its level shows in the status register also while the command register keeps it
from the line (6.2.2, "Interrupt Disable").

`preset` leaves functions as a PC's firmware does, so that a kernel that is started without one finds them in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from revirt.machine.device import Line, Registers
from revirt.machine.pci import (
    COMMAND,
    CONFIG_SIZE,
    DEVICE_ID,
    LATENCY_TIMER,
    REVISION_ID,
    STATUS,
    VENDOR_ID,
    ConfigSpace,
    Window,
)

PROGRAMMING_INTERFACE = 0x09
"""First of three bytes of class code: interface, subclass, base class."""
CACHE_LINE_SIZE = 0x0C
BASE_ADDRESSES = range(0x10, 0x28, 4)
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
CAPABILITIES = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D
FIRST_CAPABILITY = 0x40

COMMAND_IO = 0x0001
COMMAND_MEMORY = 0x0002
COMMAND_MASTER = 0x0004
COMMAND_INTERRUPT_DISABLE = 0x0400
COMMAND_PRESET = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER

STATUS_INTERRUPT = 0x0008
STATUS_CAPABILITIES = 0x0010

BAR_IO = 0x1
IO_TYPE_BITS = 0x3
MEMORY_TYPE_BITS = 0xF
PIN_A = 1

PORTS_START = 0xC000
MEMORY_START = 0xFEB0_0000


class Identity(NamedTuple):
    """What a function is; *class_code* is base class, subclass and interface in 24 bits."""

    vendor: int
    device: int
    class_code: int
    subsystem_vendor: int = 0
    subsystem: int = 0
    revision: int = 0


class Capability(NamedTuple):
    """An entry of the capabilities list (6.7), whose second byte, the link to the next, is filled in by `Endpoint`.

    *writable* has a bit for each that software may change; missing bytes mean none.
    """

    initial: bytes
    writable: bytes = b""


@dataclass(frozen=True, slots=True)
class Bar:
    """A window that software may place: *size* is in bytes, a power of two (from 4 for ports, 16 for memory)."""

    size: int
    is_io: bool
    registers: Registers


class Endpoint(ConfigSpace):
    """A function of a PCI device.

    *bars* are its windows by the number of their base address register (0 to 5), *capabilities* come to lie at
    ``capability_places``.  *irq* is the line that INTA# is wired to, if it is.  ``command`` is the command register.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        bars: Mapping[int, Bar] | None = None,
        capabilities: Sequence[Capability] = (),
        irq: Line | None = None,
    ) -> None:
        self.bars = dict(sorted((bars or {}).items()))
        self.capability_places: list[int] = []
        super().__init__(*self._header(identity, capabilities, has_pin=irq is not None))
        self._irq = irq or (lambda _: None)
        self._pin = False
        self._decode()

    def read_config(self, register: int, size: int) -> int:
        """Return *size* bytes (1, 2 or 4), little-endian, from *register*."""
        value = super().read_config(register, size)
        if self._pin and register <= STATUS < register + size:
            value |= STATUS_INTERRUPT << 8 * (STATUS - register)
        return value

    def write_config(self, register: int, size: int, value: int) -> None:
        """Write *size* bytes of *value* to *register*, as far as they may change."""
        super().write_config(register, size, value)
        if register < BASE_ADDRESSES.stop:
            self._decode()
            self.drive()

    def set_pin(self, level: bool) -> None:
        """Assert INTA# (True) or not; reaches the line unless software has disabled that."""
        self._pin = level
        self.drive()

    def drive(self) -> None:
        """Drive the interrupt line with the level it has."""
        self._irq(self._pin and not self.command & COMMAND_INTERRUPT_DISABLE)

    def save_config(self) -> bytes:
        """Return the configuration space."""
        return bytes(self.bytes)

    def restore_config(self, config: bytes, *, pin: bool) -> None:
        """Take up what may change in *config*, and the level of INTA#; `drive` then drives the line."""
        changes = zip(self.initial, self.writable, config, strict=True)
        self.bytes[:] = bytes(byte & ~mask | saved & mask for byte, mask, saved in changes)
        self._pin = pin
        self._decode()

    def _decode(self) -> None:
        """Find out where the windows are, and what the command register allows."""
        ports, memory = [], []
        command = self.command = super().read_config(COMMAND, 2)
        for number, bar in self.bars.items():
            start = super().read_config(BASE_ADDRESSES[number], 4) & -bar.size
            window = Window(start, start + bar.size, bar.registers)
            if bar.is_io and command & COMMAND_IO:
                ports.append(window)
            elif not bar.is_io and command & COMMAND_MEMORY:
                memory.append(window)
        self.ports, self.memory = tuple(ports), tuple(memory)

    def _header(
        self, identity: Identity, capabilities: Sequence[Capability], *, has_pin: bool
    ) -> tuple[bytes, bytes]:
        """Return the configuration space after a reset, and which of its bits may be written."""
        initial, writable = bytearray(CONFIG_SIZE), bytearray(CONFIG_SIZE)

        def store(target: bytearray, register: int, size: int, value: int) -> None:
            target[register : register + size] = value.to_bytes(size, "little")

        store(initial, VENDOR_ID, 2, identity.vendor)
        store(initial, DEVICE_ID, 2, identity.device)
        store(initial, REVISION_ID, 1, identity.revision)
        store(initial, PROGRAMMING_INTERFACE, 3, identity.class_code)
        store(initial, SUBSYSTEM_VENDOR_ID, 2, identity.subsystem_vendor)
        store(initial, SUBSYSTEM_ID, 2, identity.subsystem)
        for number, bar in self.bars.items():
            store(initial, BASE_ADDRESSES[number], 4, BAR_IO if bar.is_io else 0)
            store(writable, BASE_ADDRESSES[number], 4, -bar.size & 0xFFFF_FFFF)
        kinds = {COMMAND_IO if bar.is_io else COMMAND_MEMORY for bar in self.bars.values()}
        store(writable, COMMAND, 2, COMMAND_MASTER | COMMAND_INTERRUPT_DISABLE | sum(kinds))
        writable[CACHE_LINE_SIZE] = writable[LATENCY_TIMER] = writable[INTERRUPT_LINE] = 0xFF
        initial[INTERRUPT_PIN] = PIN_A if has_pin else 0

        link, place = CAPABILITIES, FIRST_CAPABILITY
        for capability in capabilities:
            initial[link] = place
            self.capability_places.append(place)
            initial[place : place + len(capability.initial)] = capability.initial
            writable[place : place + len(capability.writable)] = capability.writable
            link, place = place + 1, place + len(capability.initial) + -len(capability.initial) % 4
        if capabilities:
            initial[link] = 0
            store(initial, STATUS, 2, STATUS_CAPABILITIES)
        return bytes(initial), bytes(writable)


def preset(functions: Iterable[tuple[int, Endpoint]], irq_of: Callable[[int], int]) -> None:
    """Place the windows of *functions* (each with its slot) and switch them on, as firmware does.

    *irq_of* says which interrupt request INTA# of a slot ends up at.
    """
    next_start = {True: PORTS_START, False: MEMORY_START}
    for slot, function in functions:
        for number, bar in function.bars.items():
            start = next_start[bar.is_io] + -next_start[bar.is_io] % bar.size
            function.write_config(BASE_ADDRESSES[number], 4, start)
            next_start[bar.is_io] = start + bar.size
        function.write_config(COMMAND, 2, COMMAND_PRESET)
        if function.read_config(INTERRUPT_PIN, 1):
            function.write_config(INTERRUPT_LINE, 1, irq_of(slot))
