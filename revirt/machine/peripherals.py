"""The devices that a machine's configuration names, in their slots on PCI.

slot     device
1        the bridge that routes the others' interrupts (PIIX3)
3, ...   network cards, disks, the source of entropy, the console, as far as there are any, in this order

They are placed, switched on and routed as firmware leaves them, so that a kernel that is started directly finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from revirt.machine.device import Part
from revirt.machine.devices import Devices
from revirt.machine.disk import DiskContents
from revirt.machine.inputs import Arrival, DiskDone, Entropy, Frame, Received
from revirt.machine.memory import GuestMemory
from revirt.machine.pci import Pci
from revirt.machine.pci_function import preset
from revirt.machine.pic import Pic
from revirt.machine.piix3 import ROUTABLE, SLOT, Piix3
from revirt.machine.virtio.blk import Blk
from revirt.machine.virtio.console import Console
from revirt.machine.virtio.net import Net
from revirt.machine.virtio.rng import Rng

Function = Net | Blk | Rng | Console
F = TypeVar("F", bound=Function)

FIRST_SLOT = 3
CONSOLE_PORT = 1
"""What arrivals and output call the virtio console; 0 is the serial line."""


class Peripherals:
    """What *devices* names, plugged into *pci*; *disks* are the contents of the disks.

    They act on *memory*, interrupt through *pic*, and call *reschedule* when they have something to do.  With
    *completes_at_once* requests to disks do not wait for the host.  What they do is told to *printed*, *sent* and
    *stored*.
    """

    def __init__(
        self,
        devices: Devices,
        *,
        pci: Pci,
        pic: Pic,
        memory: GuestMemory,
        disks: Sequence[DiskContents],
        completes_at_once: bool,
        reschedule: Callable[[], None],
        printed: Callable[[int, bytes], None],
        sent: Callable[[int, bytes], None],
        stored: Callable[[int, int, bytes], None],
    ) -> None:
        self.bridge = Piix3({irq: pic.line(irq) for irq in ROUTABLE})
        pci.plug(SLOT, self.bridge)
        slots = iter(range(FIRST_SLOT, 32))
        self._functions: list[tuple[int, Function]] = []

        def place(make: Callable[..., F]) -> F:
            slot = next(slots)
            function = make(memory=memory, irq=self.bridge.intx(slot), reschedule=reschedule)
            pci.plug(slot, function)
            self._functions.append((slot, function))
            return function

        self.nics = [
            place(partial(Net, f"net{number}", mac=nic.address, send=partial(sent, number)))
            for number, nic in enumerate(devices.nics)
        ]
        self.disks = [
            place(
                partial(
                    Blk,
                    f"disk{number}",
                    contents=contents,
                    stored=partial(stored, number),
                    completes_at_once=completes_at_once,
                    serial=f"revirt{number}".encode(),
                )
            )
            for number, contents in enumerate(disks)
        ]
        self.rng = place(partial(Rng, "rng")) if devices.rng else None
        self.console = (
            place(partial(Console, "console", transmit=partial(printed, CONSOLE_PORT), drained=reschedule))
            if devices.console
            else None
        )
        preset(self._functions, self.bridge.irq_of)

    @property
    def parts(self) -> list[Part]:
        """All of them, which save and restore themselves."""
        functions = [function for _, function in self._functions]
        return [self.bridge, *functions]

    def service(self) -> None:
        """Let every device do what the guest has told it to."""
        for _, function in self._functions:
            function.service()

    def drive(self) -> None:
        """Drive every interrupt line."""
        for _, function in self._functions:
            function.drive()
        self.bridge.drive()

    def accept(self, arrival: Arrival) -> None:
        """Give *arrival* to the device that it is for, which there is."""
        match arrival:
            case Received(data) if self.console is not None:
                self.console.receive(data)
            case Frame(nic, data):
                self.nics[nic].receive(data)
            case DiskDone(disk, ticket):
                self.disks[disk].complete(ticket)
            case Entropy(data) if self.rng is not None:
                self.rng.feed(data)

    def has_room_for(self, arrival: Arrival) -> bool:
        """Return whether the device that *arrival* is for can take it now."""
        match arrival:
            case Received():
                return self.console is not None and not self.console.is_backlogged
            case Frame(nic, _):
                return self.nics[nic].can_receive
        return True
