"""The board: which devices the PC has, where they sit and how they are wired.

port         device                           interrupt
0x20, 0xA0   8259A interrupt controllers      INTR
0x40, 0x61   8254 timer, speaker port         IRQ 0
0x60, 0x64   i8042 keyboard controller        IRQ 1
0x70         MC146818 real-time clock         IRQ 8
0x3F8        16550A, the console              IRQ 4
0xCF8        PCI configuration                -
0x3B0-0x3DF  VGA, if there is one             -
and the ports of `power`: reset, power-off, exit; what `devices` names, on PCI; and for firmware
0x402        debug port                       -
0x510        fw_cfg                           -
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from revirt.machine.bus import Bus, MmioBus
from revirt.machine.device import Clock, Line, Part, Timed
from revirt.machine.devices import Devices
from revirt.machine.disk import DiskContents
from revirt.machine.firmware import Firmware
from revirt.machine.i8042 import I8042
from revirt.machine.inputs import Arrival, DiskDone, Entropy, Frame, Keys, Received
from revirt.machine.memory import GuestMemory
from revirt.machine.pci import ADDRESS_SIZES, CONFIG_ADDRESS, CONFIG_DATA, DATA_SIZES, Pci
from revirt.machine.peripherals import Peripherals
from revirt.machine.pic import ELCR, Pic
from revirt.machine.pit import Pit
from revirt.machine.power import DEBUG_EXIT, PM1_LOW, PORT_A, RESET, RESET_CONTROL, Power
from revirt.machine.rtc import Rtc
from revirt.machine.state import State, from_plain
from revirt.machine.uart import Uart
from revirt.machine.vga import Vga

COM1_IRQ = 4
RTC_IRQ = 8
KEYBOARD_IRQ = 1
TIMER_IRQ = 0
MOUSE_IRQ = 12

VGA_BASE = 0x3B0
VGA_PORTS = ((0x3B4, 2), (0x3BA, 1), (0x3C0, 16), (0x3D4, 2), (0x3DA, 1))


class Board:
    """Every device of one PC.

    *intr* is the CPU's INTR input, *reschedule* is called when the machine should look up at the next branch (a timer
    may have become due earlier, the UART has room again), *transmit* gets what the guest sends on the serial line, and
    *end* is told when the guest ends its own run.

    *devices* are those beyond what every PC has; they act on *memory*, and *disks* are the contents of the disks among
    them, which take requests at once or when an arrival says so; *flash* is the memory that firmware comes in.  What
    they do is told to *printed*, *sent* and *stored* (see `revirt.machine.inputs.Inputs`).
    """

    def __init__(
        self,
        clock: Clock,
        *,
        devices: Devices,
        memory: GuestMemory,
        disks: Sequence[DiskContents],
        completes_at_once: bool,
        flash: memoryview,
        epoch: int,
        intr: Line,
        reschedule: Callable[[], None],
        transmit: Callable[[bytes], None],
        printed: Callable[[int, bytes], None],
        sent: Callable[[int, bytes], None],
        stored: Callable[[int, int, bytes], None],
        end: Callable[[str, int | None], None],
    ) -> None:
        self.ports = Bus()
        self.mmio = MmioBus()
        self.pic = Pic(intr)
        self.pci = Pci()
        self.peripherals = (
            Peripherals(
                devices,
                pci=self.pci,
                pic=self.pic,
                memory=memory,
                disks=disks,
                completes_at_once=completes_at_once,
                reschedule=reschedule,
                printed=printed,
                sent=sent,
                stored=stored,
            )
            if devices
            else None
        )
        line = self.pic.line if self.peripherals is None else self.peripherals.bridge.isa
        self.pit = Pit(clock, self.pic.line(TIMER_IRQ), reschedule)
        self.rtc = Rtc(clock, self.pic.line(RTC_IRQ), reschedule, epoch=epoch, memory_size=memory.size)
        self.uart = Uart(line(COM1_IRQ), transmit, drained=reschedule)
        self.i8042 = I8042(self.pic.line(KEYBOARD_IRQ), line(MOUSE_IRQ), lambda: end(RESET, None))
        self.power = Power(end)
        self.vga = Vga(clock) if devices.vga else None
        self.firmware = Firmware(flash, memory_size=memory.size) if devices.firmware else None
        self._devices: tuple[Part, ...] = (
            self.pic, self.pit, self.rtc, self.uart, self.i8042, self.pci, self.power,
            *(self.peripherals.parts if self.peripherals is not None else ()),
            *((self.vga,) if self.vga is not None else ()),
            *((self.firmware.fw_cfg,) if self.firmware is not None else ()),
        )  # fmt: skip
        self._timed: tuple[Timed, ...] = (self.pit, self.rtc)
        self._driving = (
            *(self.pit, self.rtc, self.uart, self.i8042),
            *((self.peripherals,) if self.peripherals is not None else ()),
            self.pic,
        )
        self._map()
        self._map_plugged()

    def _map(self) -> None:
        ports = self.ports
        ports.map(0x20, 2, self.pic, 0)
        ports.map(0xA0, 2, self.pic, 2)
        ports.map(0x4D0, 2, self.pic, 4)
        ports.map(0x40, 4, self.pit, 0)
        ports.map(0x61, 1, self.pit, 4)
        ports.map(0x60, 1, self.i8042, 0)
        ports.map(0x64, 1, self.i8042, 1)
        ports.map(0x70, 2, self.rtc, 0)
        ports.map(0x3F8, 8, self.uart, 0)
        ports.map(0xCF8, 4, self.pci, CONFIG_ADDRESS, sizes=ADDRESS_SIZES)
        ports.map(0xCFC, 4, self.pci, CONFIG_DATA, sizes=DATA_SIZES)
        ports.map(0xCF9, 1, self.power, RESET_CONTROL)
        ports.map(0x92, 1, self.power, PORT_A)
        ports.map(0x604, 2, self.power, PM1_LOW)
        ports.map(0xB004, 2, self.power, PM1_LOW)
        ports.map(0xF4, 1, self.power, DEBUG_EXIT)

    def _map_plugged(self) -> None:
        if self.vga is not None:
            for start, count in VGA_PORTS:
                self.ports.map(start, count, self.vga, start - VGA_BASE)
        if self.firmware is not None:
            self.firmware.plug(self.ports, self.mmio, self.pci.bridge)
        if self.peripherals is not None:
            self.ports.ask_elsewhere(self.pci.find_port)
            self.mmio.ask_elsewhere(self.pci.find_memory)
            for offset, bits in enumerate(self.peripherals.bridge.level_triggered, ELCR):
                self.pic.write(offset, 1, bits)

    def service(self) -> None:
        """Let every device do what the guest has told it to since it last ran.

        Called wherever the core stands, and doing so again changes nothing: only a guest that runs has more to do.
        """
        if self.peripherals is not None:
            self.peripherals.service()

    def accept(self, arrival: Received | Frame | DiskDone | Entropy | Keys) -> None:
        """Give *arrival* to the device that it is for, which there is."""
        match arrival:
            case Received(data, 0):
                self.uart.receive(data)
                return
            case Keys(scancodes):
                self.i8042.press(scancodes)
                return
        peripherals = self.peripherals
        assert peripherals is not None
        peripherals.accept(arrival)

    def has_room_for(self, arrival: Arrival) -> bool:
        """Return whether the device that *arrival* is for can take it now."""
        match arrival:
            case Received(_, 0):
                return not self.uart.is_backlogged
        return self.peripherals is None or self.peripherals.has_room_for(arrival)

    def deadline_ns(self) -> int | None:
        """Return the machine time of the next timer, None if none is armed."""
        deadlines = [deadline for device in self._timed if (deadline := device.deadline_ns()) is not None]
        return min(deadlines, default=None)

    def catch_up(self) -> None:
        """Bring every timer up to the present time."""
        for device in self._timed:
            device.catch_up()

    def save(self) -> dict[str, State]:
        """Return the state of every device, by name."""
        return {device.name: device.save() for device in self._devices}

    def restore(self, plain: Any) -> None:
        """Take up states by name, as `to_plain` makes them; raises ValueError naming what is wrong."""
        if not isinstance(plain, dict) or set(plain) != {device.name for device in self._devices}:
            raise ValueError("not the states of this board's devices")
        for device in self._devices:
            device.restore(from_plain(type(device.save()), plain[device.name]))
        # Only now: a line driven earlier would reach a controller that is not restored yet.
        for device in self._driving:
            device.drive()
