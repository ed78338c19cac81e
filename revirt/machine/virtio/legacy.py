"""Registers for drivers from before virtio 1.0 (Virtual I/O Device 1.1, 4.1.4.8), in a window of ports.

    offset   size   register
    0        4      features that the device offers
    4        4      features that the driver accepts
    8        4      address of the selected queue, in pages of 4 KiB; 0: there is none
    12       2      its size, which the driver cannot change
    14       2      which queue is selected
    16       2      notification: a queue's number
    18       1      device status
    19       1      interrupt status; reading clears it
    20       -      the device's configuration

A queue's three parts lie one behind the other, the used ring on a page of its own (2.6.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revirt.machine.virtio.transport import VirtioFunction

LEGACY_BAR = 0

# Offset and size of each register.
DEVICE_FEATURES = (0, 4)
DRIVER_FEATURES = (4, 4)
QUEUE_ADDRESS = (8, 4)
QUEUE_SIZE = (12, 2)
QUEUE_SELECT = (14, 2)
QUEUE_NOTIFY = (16, 2)
DEVICE_STATUS = (18, 1)
ISR_STATUS = (19, 1)
DEVICE_CONFIG = 20
"""Where the device's configuration begins."""

LOW_FEATURES = 0xFFFF_FFFF
"""All that these drivers know of."""
ADDRESS_MASK = 0xFFFF_FFFF
QUEUE_PAGE = 4096
"""What the address counts in, and where the used ring is aligned to."""


def legacy_size(config: bytes) -> int:
    """Return how many ports the registers and *config* need: a power of two."""
    return 1 << (DEVICE_CONFIG + len(config) - 1).bit_length()


class LegacyRegisters:
    """The window of *function*."""

    def __init__(self, function: VirtioFunction) -> None:
        self._function = function

    def read(self, offset: int, size: int) -> int:
        """Return *size* bytes from *offset*; all ones where that is no register of this size."""
        f = self._function
        if offset >= DEVICE_CONFIG:
            return int.from_bytes(f.device_config[offset - DEVICE_CONFIG :][:size], "little")
        place = (offset, size)
        if place == ISR_STATUS:
            return f.take_isr()
        if place == DEVICE_STATUS:
            return f.registers.status
        if place == DEVICE_FEATURES:
            return f.offered & LOW_FEATURES
        if place == DRIVER_FEATURES:
            return f.registers.driver_features & LOW_FEATURES
        if place == QUEUE_SELECT:
            return f.registers.queue_select
        queue = f.selected_queue()
        if place == QUEUE_ADDRESS:
            return (
                queue.state.descriptors // QUEUE_PAGE & ADDRESS_MASK if queue and queue.state.is_ready else 0
            )
        if place == QUEUE_SIZE:
            return queue.state.size if queue else 0
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write *size* bytes of *value* to *offset*, if that is a register of this size."""
        f = self._function
        place = (offset, size)
        if place == QUEUE_NOTIFY:
            f.notify(value)
        elif place == DEVICE_STATUS:
            f.set_status(value)
        elif place == DRIVER_FEATURES:
            f.set_features(value & f.offered)
        elif place == QUEUE_SELECT:
            f.registers.queue_select = value
        elif place == QUEUE_ADDRESS:
            self._place_queue(value * QUEUE_PAGE)

    def _place_queue(self, address: int) -> None:
        queue = self._function.selected_queue()
        if queue is None:
            return
        queue.reset()
        if address:
            s = queue.state
            s.descriptors = address
            s.available = address + 16 * s.size
            end = s.available + 6 + 2 * s.size
            s.used = end + -end % QUEUE_PAGE
            s.is_ready = True
