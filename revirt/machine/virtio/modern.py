"""Registers for drivers since virtio 1.0 (Virtual I/O Device 1.1, 4.1.4), in a window of memory.

    offset   capability        registers
    0x0000   common (4.1.4.3)  see the table of fields below
    0x1000   ISR (4.1.4.5)     interrupt status, one byte; reading clears it
    0x2000   device (4.1.4.6)  the device's configuration
    0x3000   notify (4.1.4.4)  4 bytes for each queue; writing anything there notifies

A driver finds these by capabilities in configuration space.  One more capability, VIRTIO_PCI_CAP_PCI_CFG (4.1.4.7), is
itself a window to all of this, for firmware that cannot reach memory windows.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from revirt.machine.pci_function import Capability
from revirt.machine.virtio.queue import is_queue_size

if TYPE_CHECKING:
    from revirt.machine.virtio.transport import VirtioFunction

MODERN_BAR = 4

COMMON = 0x0000
ISR = 0x1000
DEVICE = 0x2000
NOTIFY = 0x3000
MODERN_SIZE = 0x4000

COMMON_SIZE = 56
NOTIFY_MULTIPLIER = 4
NO_VECTOR = 0xFFFF
"""VIRTIO_MSI_NO_VECTOR: there is no MSI-X."""

# Offset and size of each field of the common configuration; one of 64 bits is accessed by halves (4.1.3.1).
DEVICE_FEATURE_SELECT = (0, 4)
DEVICE_FEATURE = (4, 4)
DRIVER_FEATURE_SELECT = (8, 4)
DRIVER_FEATURE = (12, 4)
MSIX_CONFIG = (16, 2)
NUM_QUEUES = (18, 2)
DEVICE_STATUS = (20, 1)
CONFIG_GENERATION = (21, 1)
QUEUE_SELECT = (22, 2)
QUEUE_SIZE = (24, 2)
QUEUE_MSIX_VECTOR = (26, 2)
QUEUE_ENABLE = (28, 2)
QUEUE_NOTIFY_OFF = (30, 2)
QUEUE_ADDRESSES = {32: "descriptors", 40: "available", 48: "used"}

CAP_VENDOR_SPECIFIC = 0x09
CAP_COMMON = 1
CAP_NOTIFY = 2
CAP_ISR = 3
CAP_DEVICE = 4
CAP_PCI_CFG = 5

ACCESS_BAR = 4
ACCESS_OFFSET = 8
ACCESS_LENGTH = 12
ACCESS_DATA = 16

_HALF = 0xFFFF_FFFF


class ModernRegisters:
    """The window of *function*."""

    def __init__(self, function: VirtioFunction) -> None:
        self._function = function

    def read(self, offset: int, size: int) -> int:
        """Return *size* bytes from *offset*; zero where that is no register of this size.

        Of the features that is also their low part: iPXE reads 16 of these 32 bits, against 4.1.3.1.
        """
        f = self._function
        if offset < ISR:
            width = 4 if (offset, 4) in (DEVICE_FEATURE, DRIVER_FEATURE) else size
            return self._read_common(offset, width) & (1 << 8 * size) - 1
        if offset < DEVICE:
            return f.take_isr() if (offset, size) == (ISR, 1) else 0
        if offset < NOTIFY:
            return int.from_bytes(f.device_config[offset - DEVICE :][:size], "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write *size* bytes of *value* to *offset*, if that is a register of this size."""
        if offset >= NOTIFY:
            self._function.notify((offset - NOTIFY) // NOTIFY_MULTIPLIER)
        elif offset < ISR:
            self._write_common(offset, size, value)

    def _read_common(self, offset: int, size: int) -> int:
        f = self._function
        r, field = f.registers, (offset, size)
        if field == DEVICE_STATUS:
            return r.status
        if field == DEVICE_FEATURE_SELECT:
            return r.device_feature_select
        if field == DEVICE_FEATURE:
            return _half(f.offered, r.device_feature_select)
        if field == DRIVER_FEATURE_SELECT:
            return r.driver_feature_select
        if field == DRIVER_FEATURE:
            return _half(r.driver_features, r.driver_feature_select)
        if field == NUM_QUEUES:
            return len(f.queues)
        if field == QUEUE_SELECT:
            return r.queue_select
        if field in (MSIX_CONFIG, QUEUE_MSIX_VECTOR):
            return NO_VECTOR
        return self._read_queue(offset, size)

    def _read_queue(self, offset: int, size: int) -> int:
        queue = self._function.selected_queue()
        if queue is None:
            return 0
        if (offset, size) == QUEUE_SIZE:
            return queue.state.size
        if (offset, size) == QUEUE_ENABLE:
            return int(queue.state.is_ready)
        if (offset, size) == QUEUE_NOTIFY_OFF:
            return self._function.registers.queue_select
        name = QUEUE_ADDRESSES.get(offset & ~4)
        if name is not None and size == 4:
            return _half(getattr(queue.state, name), offset >> 2 & 1)
        return 0

    def _write_common(self, offset: int, size: int, value: int) -> None:
        f = self._function
        r, field = f.registers, (offset, size)
        if field == DEVICE_STATUS:
            f.set_status(value)
        elif field == DEVICE_FEATURE_SELECT:
            r.device_feature_select = value
        elif field == DRIVER_FEATURE_SELECT:
            r.driver_feature_select = value
        elif field == DRIVER_FEATURE:
            if r.driver_feature_select < 2:
                f.set_features(_with_half(r.driver_features, r.driver_feature_select, value))
        elif field == QUEUE_SELECT:
            r.queue_select = value
        else:
            self._write_queue(offset, size, value)

    def _write_queue(self, offset: int, size: int, value: int) -> None:
        queue = self._function.selected_queue()
        # A queue that is enabled stays where and as it is until the function is reset (4.1.4.3.2).
        if queue is None or queue.state.is_ready:
            return
        if (offset, size) == QUEUE_SIZE:
            if is_queue_size(value):
                queue.state.size = value
        elif (offset, size) == QUEUE_ENABLE:
            queue.state.is_ready = value == 1
        elif size == 4 and (name := QUEUE_ADDRESSES.get(offset & ~4)) is not None:
            address = getattr(queue.state, name)
            setattr(queue.state, name, _with_half(address, offset >> 2 & 1, value))


class ConfigAccess:
    """VIRTIO_PCI_CAP_PCI_CFG of *function*: reading or writing the capability's last four bytes accesses a window."""

    def __init__(self, function: VirtioFunction) -> None:
        self._function = function
        self._place = function.capability_places[-1]

    def before_read(self, register: int) -> None:
        """Fetch what the driver is about to read, if it is that."""
        if 0 <= register - self._place - ACCESS_DATA < 4 and (target := self._target()):
            bar, offset, length = target
            value = self._function.bars[bar].registers.read(offset, length)
            place = self._place + ACCESS_DATA
            self._function.bytes[place : place + length] = value.to_bytes(length, "little")

    def after_write(self, register: int) -> None:
        """Pass on what the driver has written, if it is that."""
        if 0 <= register - self._place - ACCESS_DATA < 4 and (target := self._target()):
            bar, offset, length = target
            value = self._field(ACCESS_DATA, length)
            self._function.bars[bar].registers.write(offset, length, value)

    def _target(self) -> tuple[int, int, int] | None:
        """Return BAR, offset and length of the access, None if it is none that the driver may make."""
        bar = self._field(ACCESS_BAR, 1)
        offset, length = self._field(ACCESS_OFFSET, 4), self._field(ACCESS_LENGTH, 4)
        if bar not in self._function.bars or length not in (1, 2, 4) or offset % length:
            return None
        return (bar, offset, length) if offset + length <= self._function.bars[bar].size else None

    def _field(self, offset: int, size: int) -> int:
        start = self._place + offset
        return int.from_bytes(self._function.bytes[start : start + size], "little")


def capabilities(config_size: int) -> list[Capability]:
    """Return the capabilities that say where everything is; a device without configuration has none for that."""
    entries = [
        _capability(CAP_COMMON, COMMON, COMMON_SIZE),
        _capability(CAP_NOTIFY, NOTIFY, MODERN_SIZE - NOTIFY, pack("<I", NOTIFY_MULTIPLIER)),
        _capability(CAP_ISR, ISR, 1),
    ]
    if config_size:
        entries.append(_capability(CAP_DEVICE, DEVICE, config_size))
    access = _capability(CAP_PCI_CFG, 0, 0, bytes(4)).initial
    writable = bytes(ACCESS_BAR) + b"\xff" + bytes(3) + b"\xff" * 12
    return [*entries, Capability(access, writable)]


def _capability(kind: int, offset: int, length: int, more: bytes = b"") -> Capability:
    """Return a `struct virtio_pci_cap` (4.1.4), with *more* behind it."""
    size = 16 + len(more)
    return Capability(
        pack("<BBBBBxxxII", CAP_VENDOR_SPECIFIC, 0, size, kind, MODERN_BAR, offset, length) + more
    )


def _half(value: int, index: int) -> int:
    """Return 32 bits of the 64 of *value*: the low ones for 0, the high ones for 1, none for any other index."""
    return value >> 32 * index & _HALF if index < 2 else 0


def _with_half(value: int, index: int, half: int) -> int:
    """Return *value* with its low (0) or high (1) 32 bits replaced."""
    return value & ~(_HALF << 32 * index) | half << 32 * index
