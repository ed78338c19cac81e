"""What a hostile guest does to a board, and the world meanwhile: made by chance, of pieces that mean something."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fuzzing.acts import Acknowledge, Act, Answer, Arrive, Branch, In, Load, Mark, Out, Poke, Store, Wait
from fuzzing.bench import Bench
from fuzzing.chances import Chances
from fuzzing.changes import number
from fuzzing.fences import RAM
from fuzzing.rings import DATA_START, QUEUES_START, Driver
from revirt.machine.inputs import DiskDone, Entropy, Frame, Keys, Received
from revirt.machine.pci_function import BASE_ADDRESSES
from revirt.machine.peripherals import FIRST_SLOT
from revirt.machine.virtio import legacy, modern
from revirt.machine.virtio.modern import ACCESS_BAR, ACCESS_DATA, ACCESS_LENGTH, ACCESS_OFFSET

PORTS = (
    *(0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71),
    *range(0x3F8, 0x400),
    *(0xCF8, 0xCF9, 0xCFA, 0xCFC, 0xCFD, 0xCFE, 0xCFF, 0x92, 0x604, 0x605, 0xB004, 0xF4),
    *range(0x3B0, 0x3E0),
    *(0x402, 0x510, 0x511, 0x512, 0, 0xFFFF),
)
_COMMAND, _INTERRUPT_LINE, _PIRQ = 0x04, 0x3C, 0x60
_WIRED = (0x20, 0x40, 0x60, 0x3C0, 0x3F8, 0x500, 0xCC0, 0xCE0, 0xFFC0)
_MOST_ACTS = 400
_I8042 = (0x20, 0x60, 0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAD, 0xAE, 0xC0, 0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xE0)
_KEYBOARD = (0xED, 0xEE, 0xF0, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFE, 0xFF)
_OLD: tuple[tuple[int, int, Sequence[int]], ...] = (
    *((0x43, 0x40 + counter, range(counter << 6, counter + 1 << 6)) for counter in range(3)),
    (0x43, 0x40, range(0xC0, 0x100)),
    *(
        (port, port + 1, (0x10, 0x11, 0x13, 0x19, 0x1B, 0x0A, 0x0B, 0x0C, 0x68, 0x20, 0x80))
        for port in (0x20, 0xA0)
    ),
    (0x70, 0x71, (*range(0x10), 0x32, 0x7F)),
    *((0x3F8 + register, 0x3F8, (0, 1, 2, 7, 0xB, 0x10, 0x1F, 0x80, 0xC7)) for register in range(1, 5)),
    *((port, port + 1, range(32)) for port in (0x3C4, 0x3CE, 0x3D4, 0x3B4)),
    *((0x3C0, 0x3C0, range(64)), (0x3C8, 0x3C9, (0, 255)), (0x3C7, 0x3C9, (0, 255))),
    *((0x3C2, 0x3DA, range(256)), (0x61, 0x42, range(4)), (0xCF9, 0x92, (0, 2, 6))),
)
"""Ports of commands or indices, the ports of what belongs to them, and such commands."""


class Mischief:
    """Makes acts by *chance* against the board of *bench*, which is only looked at."""

    def __init__(self, chance: Chances, bench: Bench) -> None:
        self._chance = chance
        self._drivers: list[Driver] = []
        self._slots: list[int] = []
        self._access: list[int] = []
        place = 0
        for slot, function in enumerate(bench.functions, FIRST_SLOT):
            port = function.read_config(BASE_ADDRESSES[legacy.LEGACY_BAR], 4) & ~3
            address = function.read_config(BASE_ADDRESSES[modern.MODERN_BAR], 4) & ~15
            kind = type(function).__name__.lower()
            queues = len(function.queues)
            self._drivers.append(
                Driver(kind, function.offered, queues, port=port, address=address, place=place)
            )
            self._slots.append(slot)
            self._access.append(function.capability_places[-1])
            place += queues

    def acts(self) -> list[Act]:
        """Return acts until chance is spent, or there are very many."""
        chance, made = self._chance, list[Act]()
        while not chance.is_spent and len(made) < _MOST_ACTS:
            piece = chance.choice(_PIECES)
            made += piece(self)
        if Mark() not in made:
            made.insert(len(made) // 3, Mark())
        return made

    def _start(self) -> Iterator[Act]:
        yield from self._driver().start(self._chance)

    def _offer(self) -> Iterator[Act]:
        driver = self._driver()
        for _ in range(self._chance.choice((1, 1, 2))):
            yield from driver.offer(self._chance)
        yield Branch()
        if self._chance.random() < 0.5:
            yield Answer(self._chance.random() < 0.3)

    def _start_and_offer(self) -> Iterator[Act]:
        driver = self._driver()
        yield from driver.start(self._chance)
        for _ in range(self._chance.choice((1, 2, 4))):
            yield from driver.offer(self._chance)
            if self._chance.random() < 0.7:
                yield Branch()
        if driver.kind == "net" and self._chance.random() < 0.7:
            yield self._frame(self._drivers.index(driver))

    def _reset(self) -> Iterator[Act]:
        yield from self._driver().reset()

    def _register(self) -> Iterator[Act]:
        driver = self._driver()
        for _ in range(self._chance.randrange(1, 5)):
            yield driver.access(self._chance)

    def _ports(self) -> Iterator[Act]:
        chance = self._chance
        for _ in range(chance.randrange(1, 6)):
            size = chance.choice((1, 1, 1, 2, 4))
            port = chance.choice(PORTS) if chance.random() < 0.9 else chance.randrange(0x10000)
            if chance.random() < 0.6:
                yield Out(port, size, self._value(size))
            else:
                yield In(port, size)

    def _addresses(self) -> Iterator[Act]:
        chance = self._chance
        size = chance.choice((1, 2, 4, 8))
        window = chance.choice(self._drivers).address
        address = chance.choice((window + chance.randrange(0x4010), RAM, 1 << 32, number(chance, window, 40)))
        address = max(RAM, address) - chance.choice((0, 0, 1))
        yield Store(address, size, self._value(size)) if chance.random() < 0.5 else Load(address, size)

    def _keyboard(self) -> Iterator[Act]:
        chance = self._chance
        for _ in range(chance.choice((1, 3, 40))):
            way = chance.random()
            if way < 0.35:
                yield Out(0x64, 1, chance.choice(_I8042))
            elif way < 0.7:
                yield Out(0x60, 1, chance.choice(_KEYBOARD) if way < 0.6 else chance.randrange(256))
            else:
                yield In(chance.choice((0x60, 0x64)), 1)

    def _old_devices(self) -> Iterator[Act]:
        """A command or an index, and what belongs to it, for a device that every PC has."""
        chance = self._chance
        command, data, commands = chance.choice(_OLD)
        yield Out(command, 1, chance.choice(commands))
        for _ in range(chance.randrange(1, 4)):
            yield Out(data, 1, chance.randrange(256)) if chance.random() < 0.7 else In(data, 1)

    def _firmware(self) -> Iterator[Act]:
        chance = self._chance
        yield Out(0x510, 2, chance.choice((0, 1, 3, 5, 0x19, 0x20, 0x21, number(chance, bits=16))))
        for _ in range(chance.choice((1, 4, 20))):
            yield In(0x511, 1)

    def _configuration(self) -> Iterator[Act]:
        chance = self._chance
        slot = chance.choice((*self._slots, *self._slots, 0, 1, 2, 31))
        register = chance.choice((_COMMAND, *BASE_ADDRESSES, _INTERRUPT_LINE, _PIRQ, chance.randrange(256)))
        yield Out(0xCF8, 4, 0x8000_0000 | slot << 11 | register & 0xFC)
        size = 4 if register in BASE_ADDRESSES else chance.choice((1, 2, 4))
        data = 0xCFC + (register & 3 & -size)
        if register == _COMMAND:
            yield Out(data, 2, chance.choice((0, 1, 2, 3, 4, 7, 0x400, 0x407, 0xFFFF)))
        elif register in BASE_ADDRESSES:
            yield from self._move(slot, register, data)
        else:
            yield Out(data, size, self._value(size)) if chance.random() < 0.6 else In(data, size)

    def _move(self, slot: int, register: int, data: int) -> Iterator[Act]:
        """Move a window: over another one, over what is wired, over RAM, to an end."""
        chance = self._chance
        other = chance.choice(self._drivers)
        is_legacy = register == BASE_ADDRESSES[legacy.LEGACY_BAR]
        places: tuple[int, ...] = (
            0x20,
            0x40,
            0x60,
            0x3C0,
            0x3F8,
            0x500,
            0xCC0,
            0xCE0,
            0xFFC0,
            other.port,
            other.port + 32,
        )
        if not is_legacy:
            places = (other.address, other.address + 0x2000, 0, 0xB8000, RAM, 0xFFF8_0000, 0xFFFF_C000)
        value = chance.choice((*places, 0xFFFF_FFFF, number(chance, other.port, 32)))
        yield Out(data, 4, value)
        yield In(data, 4)
        place = slot - FIRST_SLOT
        if 0 <= place < len(self._drivers) and is_legacy:
            self._drivers[place].port = value & 0xFFC0
        elif 0 <= place < len(self._drivers) and register == BASE_ADDRESSES[modern.MODERN_BAR]:
            self._drivers[place].address = value & 0xFFFF_C000

    def _by_configuration(self) -> Iterator[Act]:
        """Access a window by VIRTIO_PCI_CAP_PCI_CFG."""
        chance = self._chance
        place = chance.randrange(len(self._slots))
        start = 0x8000_0000 | self._slots[place] << 11
        access = self._access[place]
        size = chance.choice((1, 2, 4, 4, 0, 3, 8, 0xFFFF_FFFF))
        offset = chance.choice(
            (0, 16, 20, 22, 24, 28, 32, 0x1000, 0x2000, 0x3000, number(chance, 0x4000, 32))
        )
        for register, value in ((ACCESS_BAR, chance.choice((0, 4, 4, 1, 255))), (ACCESS_OFFSET, offset)):
            yield Out(0xCF8, 4, start | access + register)
            yield Out(0xCFC, 4, value)
        yield Out(0xCF8, 4, start | access + ACCESS_LENGTH)
        yield Out(0xCFC, 4, size)
        yield Out(0xCF8, 4, start | access + ACCESS_DATA)
        width = chance.choice((1, 2, 4))
        yield Out(0xCFC, width, self._value(width)) if chance.random() < 0.5 else In(0xCFC, width)

    def _arrival(self) -> Iterator[Act]:
        chance = self._chance
        way = chance.randrange(5)
        if way == 0:
            yield self._frame(chance.randrange(2))
        elif way == 1:
            yield Arrive(DiskDone(chance.randrange(3), chance.choice((0, 1, 2, 7, (1 << 64) - 1))))
        elif way == 2:
            yield Arrive(Entropy(chance.randbytes(chance.choice((0, 1, 64, 65)))))
        elif way == 3:
            yield Arrive(Keys(chance.randbytes(chance.choice((1, 2, 40)))))
        else:
            size = chance.choice((0, 1, 20, 4096, 300_000))
            yield Arrive(Received(chance.randbytes(2) * size, chance.randrange(2)))

    def _frame(self, nic: int) -> Act:
        size = self._chance.choice((0, 1, 13, 14, 60, 60, 1514, 1515, 9000, 65_553, 65_554, 200_000))
        return Arrive(Frame(nic, self._chance.randbytes(2) * (size // 2)))

    def _time(self) -> Iterator[Act]:
        chance = self._chance
        yield Wait(chance.choice((1, 1000, 55_000_000, 10**9, 10**13, chance.randrange(10**10))))
        if chance.random() < 0.5:
            yield Acknowledge()
            yield Out(0x20, 1, 0x20)

    def _interrupt(self) -> Iterator[Act]:
        yield Acknowledge()

    def _poke(self) -> Iterator[Act]:
        chance = self._chance
        address = chance.choice((QUEUES_START, DATA_START)) + chance.randrange(0x8000)
        yield Poke(
            chance.choice((address, chance.randrange(RAM))), chance.randbytes(chance.choice((2, 4, 16)))
        )

    def _mark(self) -> Iterator[Act]:
        yield Mark()

    def _branch(self) -> Iterator[Act]:
        yield Branch()

    def _driver(self) -> Driver:
        return self._chance.choice(self._drivers)

    def _value(self, size: int) -> int:
        chance = self._chance
        if chance.random() < 0.4:
            return chance.randrange(256)
        return number(chance, bits=8 * size)


_PIECES: tuple[Callable[[Mischief], Iterator[Act]], ...] = (
    *(Mischief._start_and_offer,) * 5,
    *(Mischief._offer,) * 5,
    *(Mischief._configuration, Mischief._by_configuration, Mischief._register) * 2,
    *(Mischief._ports, Mischief._keyboard, Mischief._arrival, Mischief._arrival, Mischief._time),
    *(Mischief._addresses, Mischief._interrupt, Mischief._poke, Mischief._mark, Mischief._branch),
    *(Mischief._old_devices, Mischief._old_devices, Mischief._firmware),
    *(Mischief._start, Mischief._reset),
)
