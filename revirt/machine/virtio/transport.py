"""What all virtio functions on PCI share (Virtual I/O Device 1.1, chapters 2, 3 and 4.1).

The functions are *transitional*: their registers exist twice, in a port window for drivers from before version 1.0
(`legacy`) and in a memory window for those since (`modern`).  Both are views of what is kept here.

Rules:
- A register's callback never acts on memory: a notification is noted in ``kicked``, and `service`, called where the
  core stands at a taken branch, does what it asks for.
- A driver's mistake sets DEVICE_NEEDS_RESET (2.1.1), and the function does nothing more until it is reset.
- Calling `service` again changes nothing while the guest stands still, so how often it is called does not matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple, TypeVar

from revirt.machine.device import Line
from revirt.machine.memory import GuestMemory
from revirt.machine.pci import CONFIG_SIZE
from revirt.machine.pci_function import COMMAND_MASTER, Bar, Endpoint, Identity
from revirt.machine.state import U2, U8, U16, U32, U64, Range, State
from revirt.machine.virtio.legacy import LEGACY_BAR, LegacyRegisters, legacy_size
from revirt.machine.virtio.modern import (
    MODERN_BAR,
    MODERN_SIZE,
    ConfigAccess,
    ModernRegisters,
    capabilities,
)
from revirt.machine.virtio.queue import MISTAKES, Queue, QueueState, is_queue_size

VENDOR = 0x1AF4
TRANSITIONAL_IDS = 0x1000
"""First of the device ids of transitional functions (4.1.2.1)."""

ACKNOWLEDGE = 0x01
DRIVER = 0x02
DRIVER_OK = 0x04
FEATURES_OK = 0x08
DEVICE_NEEDS_RESET = 0x40
FAILED = 0x80

F_ANY_LAYOUT = 1 << 27
F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
COMMON_FEATURES = F_ANY_LAYOUT | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1

ISR_QUEUE = 0x1
ISR_CONFIG = 0x2

MOST_QUEUES = 8

T = TypeVar("T")


class Kind(NamedTuple):
    """A kind of virtio device: its number (chapter 5), transitional PCI device id, class code, how many queues."""

    number: int
    device: int
    class_code: int
    queues: int


@dataclass
class TransportState(State):
    """Configuration space, queues and registers; ``kicked`` has a bit for each queue that wants `service`."""

    config: Annotated[bytes, Range(CONFIG_SIZE, CONFIG_SIZE)]
    queues: Annotated[list[QueueState], Range(1, MOST_QUEUES)]
    device_feature_select: U32 = 0
    driver_feature_select: U32 = 0
    driver_features: U64 = 0
    queue_select: U16 = 0
    status: U8 = 0
    isr: U2 = 0
    kicked: U8 = 0


class VirtioFunction(Endpoint):
    """A virtio function called *name*, of a *kind*, that offers *features* and shows *config* to its driver.

    It acts on *memory*, interrupts through *irq*, and calls *reschedule* when `service` has something to do.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        *,
        features: int,
        config: bytes,
        memory: GuestMemory,
        irq: Line,
        reschedule: Callable[[], None],
    ) -> None:
        self.name = name
        self.offered = features | COMMON_FEATURES
        self.device_config = config
        self.queues = [Queue(memory) for _ in range(kind.queues)]
        self.registers = TransportState(b"", [])
        self._reschedule = reschedule
        bars = {
            LEGACY_BAR: Bar(legacy_size(config), True, LegacyRegisters(self)),
            MODERN_BAR: Bar(MODERN_SIZE, False, ModernRegisters(self)),
        }
        super().__init__(
            Identity(VENDOR, kind.device, kind.class_code, VENDOR, kind.number),
            bars=bars,
            capabilities=capabilities(len(config)),
            irq=irq,
        )
        self._access = ConfigAccess(self)
        self._reset()

    # -- configuration space ----------------------------------------------------------------------------------

    def read_config(self, register: int, size: int) -> int:
        """Return *size* bytes (1, 2 or 4), little-endian, from *register*."""
        self._access.before_read(register)
        return super().read_config(register, size)

    def write_config(self, register: int, size: int, value: int) -> None:
        """Write *size* bytes of *value* to *register*, as far as they may change."""
        super().write_config(register, size, value)
        self._access.after_write(register)
        self._look_up()

    # -- what the registers do --------------------------------------------------------------------------------

    def notify(self, index: int) -> None:
        """Note that the driver has made buffers available in queue *index*."""
        if index < len(self.queues):
            self.registers.kicked |= 1 << index
            self._look_up()

    def take_isr(self) -> int:
        """Return the interrupt status, and clear it."""
        isr, self.registers.isr = self.registers.isr, 0
        self.set_pin(False)
        return isr

    def set_status(self, status: int) -> None:
        """Take up the device status that the driver has written (2.1); 0 resets the function."""
        r = self.registers
        if not status:
            self._reset()
            return
        if status & FEATURES_OK and not r.status & FEATURES_OK and not self._accepts_features():
            status &= ~FEATURES_OK
        started = status & ~r.status & DRIVER_OK
        r.status = status & ~DEVICE_NEEDS_RESET | r.status & DEVICE_NEEDS_RESET
        if started:
            # Some drivers notify before they are through with initialising (3.1.2).
            r.kicked = sum(1 << index for index, queue in enumerate(self.queues) if queue.state.is_ready)
            self._look_up()

    def set_features(self, features: int) -> None:
        """Take up what the driver has accepted, unless it has said that it is through with that (3.1.1)."""
        if not self.registers.status & FEATURES_OK:
            self.registers.driver_features = features
            self._apply_features()

    def selected_queue(self) -> Queue | None:
        """Return the queue that the driver has selected, None if it does not exist."""
        index = self.registers.queue_select
        return self.queues[index] if index < len(self.queues) else None

    def has(self, feature: int) -> bool:
        """Return whether *feature* (a mask) was negotiated."""
        return bool(self.registers.driver_features & self.offered & feature)

    # -- acting on memory -------------------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether the driver is ready, and lets the function act on memory."""
        return self.registers.status & (DRIVER_OK | DEVICE_NEEDS_RESET) == DRIVER_OK and bool(
            self.command & COMMAND_MASTER
        )

    def service(self) -> None:
        """Do what the driver's notifications ask for; to be called at a taken branch only."""
        r = self.registers
        if not r.kicked or not self.is_live:
            return
        kicked, r.kicked = r.kicked, 0
        for index, queue in enumerate(self.queues):
            if kicked >> index & 1 and queue.state.is_ready and self.is_live:
                self._guarded(queue, partial(self._serve, index))

    def _serve(self, index: int) -> None:
        """Take what the driver has made available in queue *index*; may raise MISTAKES."""
        raise NotImplementedError

    def _guarded(self, queue: Queue, act: Callable[[], T]) -> T | None:
        """Return what *act* does, and interrupt for what it gave back in *queue*.

        None if the driver has made a mistake, which stops the function.
        """
        try:
            result = act()
            signal = queue.take_signal()
        except MISTAKES:
            self._fail()
            return None
        if signal:
            self._interrupt(ISR_QUEUE)
        return result

    def _fail(self) -> None:
        self.registers.status |= DEVICE_NEEDS_RESET
        self._interrupt(ISR_CONFIG)

    def _interrupt(self, cause: int) -> None:
        self.registers.isr |= cause
        self.set_pin(True)

    def _look_up(self) -> None:
        if self.registers.kicked and self.is_live:
            self._reschedule()

    def _accepts_features(self) -> bool:
        features = self.registers.driver_features
        return not features & ~self.offered and bool(features & F_VERSION_1)

    def _apply_features(self) -> None:
        for queue in self.queues:
            queue.event_index = self.has(F_EVENT_IDX)

    def _reset(self) -> None:
        """Bring everything but configuration space to its initial state (2.1, "reset")."""
        self.registers = TransportState(b"", [])
        for queue in self.queues:
            queue.reset()
        self._apply_features()
        self.set_pin(False)

    # -- state ------------------------------------------------------------------------------------------------

    def save_transport(self) -> TransportState:
        """Return a copy of the state of all but the device itself."""
        queues = [copy.copy(queue.state) for queue in self.queues]
        saved = copy.copy(self.registers)
        saved.config, saved.queues = self.save_config(), queues
        return saved

    def restore_transport(self, state: TransportState) -> None:
        """Replace that state; raises ValueError if it is one of another kind of device."""
        sizes = [queue.size for queue in state.queues]
        if len(sizes) != len(self.queues) or not all(map(is_queue_size, sizes)):
            raise ValueError(f"{self.name} has {len(self.queues)} queues, not any of sizes {sizes}")
        self.registers = copy.copy(state)
        self.registers.config, self.registers.queues = b"", []
        for queue, saved in zip(self.queues, state.queues, strict=True):
            queue.restore(saved)
        self._apply_features()
        self.restore_config(state.config, pin=bool(state.isr))
