"""A board with everything plugged, in memory that is fenced off, and the rules that it has to keep.

Rules, whatever is done to it:
- Nothing is raised, and what is read fits the size of the access.
- Registers never act on memory; `service` and arrivals do, within limits that follow from the sizes of queues.
- Nothing but RAM is written, and the disks' store by what is told of as stored; the core is told of every byte in RAM.
- What asks for an answer of the host is content with some.
- States are in their ranges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from fuzzing import FuzzError
from fuzzing.acts import (
    Acknowledge,
    Act,
    Answer,
    Arrive,
    Branch,
    In,
    Load,
    Mark,
    Out,
    Poke,
    Store,
    Wait,
)
from fuzzing.fences import RAM, Core, Memory
from revirt.image.firmware import directory
from revirt.machine.board import Board
from revirt.machine.devices import Devices, Disk, Nic
from revirt.machine.inputs import DiskDone, Entropy
from revirt.machine.machine import disk_contents
from revirt.machine.peripherals import Peripherals
from revirt.machine.state import encode, from_plain, to_plain
from revirt.machine.virtio import blk, console, net, rng
from revirt.machine.virtio.queue import SIZE
from revirt.machine.virtio.transport import VirtioFunction

EPOCH = 1_700_000_000

DEVICES = Devices(
    nics=(Nic("52:54:00:12:34:56"), Nic("52:54:00:12:34:57")),
    disks=(
        Disk(20 * 4096 + 3 * 512, "0" * 64, 21),
        Disk(64 << 20, "1" * 64, 0),
        Disk(40 * 512, "2" * 64, 3),
    ),
    vga=True,
    rng=True,
    console=True,
    firmware=True,
)
"""A disk with room for all of it in its overlay, a large one that is read-only, and one with too little room."""

_SHORT_FILE = b"a short"
LONG_FILE = b"long" * 2250
"""What firmware finds in its configuration device."""

_WALK = SIZE + 3
"""Reads to find a buffer: the ring's index and entry, descriptors, and one that points to a table of them."""
_HEADERS = 3 * 16
"""Reads of a request's header, each byte of which may be in a descriptor of its own."""
BUFFER_OPERATIONS = 2 * _WALK + _HEADERS + 8
QUEUE_OPERATIONS = SIZE * BUFFER_OPERATIONS
"""Most accesses to memory for one queue: each of its buffers is found, moved, and given back.  Found twice, by whoever
looks first, and moved only if it has room."""
_AROUND = 16 * BUFFER_OPERATIONS
_LARGEST = {
    net.Net: net.FRAME_LIMIT + net.HEADER_SIZE,
    blk.Blk: blk.REQUEST_LIMIT,
    console.Console: max(console.TRANSMIT_LIMIT, console.BACKLOG_SIZE),
    rng.Rng: rng.AT_ONCE,
}
"""Most bytes that a buffer of each kind of device moves."""

_DEADLINES = 40
"""Timers that come due in one wait; the rest of it is skipped, as a host's clock may."""


class Saved(NamedTuple):
    """A board's states by name, memory, what was written to each disk by sector, and the time."""

    states: dict[str, Any]
    ram: bytes
    store: bytes
    written: list[dict[int, bytes]]
    now_ns: int


class Base:
    """What a disk holds at first: a pattern, without end."""

    _PATTERN = bytes(range(256)) * 32

    def read(self, offset: int, size: int) -> bytes:
        start = offset % len(self._PATTERN)
        return (self._PATTERN * (size // len(self._PATTERN) + 2))[start : start + size]


class Clock:
    """A machine's clock that is moved by hand."""

    now_ns = 0


class Bench:
    """A board, and everything that is seen of it in ``told``.

    Requests to disks are done *at_once* or when the host says so.  An *eager* one stops at every branch, and twice: so
    may a replay.  If its disks' store is not to be trusted, nobody knows what they hold.
    """

    def __init__(
        self, *, at_once: bool, eager: bool = False, trusts_store: bool = True, devices: Devices = DEVICES
    ) -> None:
        self._eager = eager
        self._trusts_store = trusts_store
        self.told: list[object] = []
        self.clock = Clock()
        self.core = Core(devices.store_size)
        self.memory = Memory(self.core)
        self._bases = [Base() for _ in devices.disks]
        files = directory({"short": len(_SHORT_FILE), "long": len(LONG_FILE)}) + _SHORT_FILE + LONG_FILE
        self.core.store[: len(files)] = files
        self.disks = disk_contents(devices, self._bases, self.core.store)
        self._written: list[dict[int, bytes]] = [{} for _ in devices.disks]
        self._wants_stop = False
        self._intr = False
        self.board = Board(
            self.clock,
            devices=devices,
            memory=self.memory,
            disks=self.disks,
            completes_at_once=at_once,
            flash=self.core.store[: devices.flash_size],
            epoch=EPOCH,
            intr=self._set_intr,
            reschedule=self._want_stop,
            transmit=lambda data: self.told.append(("transmitted", data)),
            printed=lambda port, data: self.told.append(("printed", port, _digest(data))),
            sent=lambda nic, frame: self.told.append(("sent", nic, len(frame), _digest(frame))),
            stored=self._store,
            end=lambda reason, code: self.told.append(("ended", reason, code)),
        )
        assert self.board.peripherals is not None
        self.peripherals: Peripherals = self.board.peripherals
        queues = [(type(each), len(each.queues)) for each in self.functions]
        self._operations = sum(count * QUEUE_OPERATIONS for _, count in queues)
        self._bytes = sum(count * SIZE * (_LARGEST[kind] + _AROUND) for kind, count in queues)

    @property
    def functions(self) -> list[VirtioFunction]:
        """The virtio functions, in the order of their slots."""
        found = self.peripherals
        return [each for each in (*found.nics, *found.disks, found.rng, found.console) if each is not None]

    # -- what is done to it -----------------------------------------------------------------------------------

    def do(self, act: Act) -> None:
        """Do *act*, and note what is seen of it."""
        match act:
            case In(port, size):
                self._show(self.board.ports.read(port, size), size)
            case Out(port, size, value):
                self.board.ports.write(port, size, value)
            case Load(address, size):
                self._show(self.board.mmio.read(address, size), size)
            case Store(address, size, value):
                self.board.mmio.write(address, size, value)
            case Poke(address, data):
                self._poke(address, data)
            case _:
                self._branch()
                self._do_at_branch(act)
        self.told.append((self._intr, self.board.deadline_ns()))

    def _do_at_branch(self, act: Act) -> None:
        match act:
            case Arrive(arrival):
                self.told.append(self._acting(lambda: self.board.has_room_for(arrival)))
                # A log may say that it came all the same.
                self._acting(lambda: self.board.accept(arrival))
            case Answer(backwards):
                self._answer(backwards)
            case Wait(ns):
                self._wait(ns)
            case Acknowledge() if self.board.pic.output:
                self.told.append(("interrupt", self.board.pic.acknowledge()))
            case Mark() | Branch() | _:
                pass

    def _show(self, value: int, size: int) -> None:
        if not 0 <= value < 1 << 8 * size:
            raise FuzzError(f"{value:#x} is read where {size} bytes are")
        self.told.append(value)

    def _poke(self, address: int, data: bytes) -> None:
        data = data[: max(0, RAM - address)]
        self.core.ram[address : address + len(data)] = data
        self.core.known[address : address + len(data)] = data

    def _branch(self) -> None:
        if not self._wants_stop and not self._eager:
            return
        self._wants_stop = False
        for _ in range(2 if self._eager else 1):
            self._acting(self.board.service)
            if self._eager:
                self.board.catch_up()

    def _acting(self, act: Any) -> Any:
        """Return what *act* does, during which devices may act on memory, within limits."""
        memory = self.memory
        memory.operations = memory.bytes = memory.largest = 0
        memory.is_open = True
        try:
            result = act()
        finally:
            memory.is_open = False
        if memory.operations > self._operations or memory.bytes > self._bytes:
            raise FuzzError(f"{memory.operations} accesses to memory, {memory.bytes} bytes at one moment")
        if memory.largest > blk.REQUEST_LIMIT:
            raise FuzzError(f"{memory.largest} bytes of memory asked for at once")
        return result

    def _answer(self, backwards: bool) -> None:
        entropy = self.peripherals.rng
        assert entropy is not None
        for _ in range(2 * SIZE):
            if not entropy.wanted:
                break
            data = hashlib.shake_128(self.clock.now_ns.to_bytes(16, "little")).digest(entropy.wanted)
            self._acting(lambda data=data: self.board.accept(Entropy(data)))
        else:
            raise FuzzError("asks for entropy without an end")
        for number, disk in enumerate(self.peripherals.disks):
            pending = disk.pending
            for each in reversed(pending) if backwards else pending:
                done = DiskDone(number, each.ticket)
                self._acting(lambda done=done: self.board.accept(done))
            if disk.pending:
                raise FuzzError("requests wait that the host is done with")

    def _wait(self, ns: int) -> None:
        end = self.clock.now_ns + ns
        for _ in range(_DEADLINES):
            deadline = self.board.deadline_ns()
            if deadline is None or deadline > end:
                break
            if self._eager:
                self.clock.now_ns = (self.clock.now_ns + deadline) // 2
                self.board.catch_up()
            self.clock.now_ns = max(self.clock.now_ns, deadline)
            self.board.catch_up()
        self.clock.now_ns = end
        self.board.catch_up()

    # -- what it does -----------------------------------------------------------------------------------------

    def _set_intr(self, level: bool) -> None:
        self._intr = level

    def _want_stop(self) -> None:
        self._wants_stop = True

    def _store(self, disk: int, sector: int, data: bytes) -> None:
        if not self.memory.is_open:
            raise FuzzError("a disk is written where no device may act")
        for place in range(0, len(data), blk.SECTOR):
            self._written[disk][sector + place // blk.SECTOR] = data[place : place + blk.SECTOR]
        self.told.append(("stored", disk, sector, _digest(data)))

    # -- state ------------------------------------------------------------------------------------------------

    def save(self) -> Saved:
        """Return all of it, states as they come back from a file."""
        states = self.board.save()
        for state in states.values():
            from_plain(type(state), to_plain(state))
        plain = msgpack.unpackb(encode(states))
        written = [dict(each) for each in self._written]
        return Saved(plain, bytes(self.core.ram), bytes(self.core.store), written, self.clock.now_ns)

    def restore(self, saved: Saved) -> None:
        """Take up what `save` returned; raises ValueError."""
        self.core.ram[:], self.core.store[:], self.core.known[:] = saved.ram, saved.store, saved.ram
        self._written = [dict(each) for each in saved.written]
        self.clock.now_ns = saved.now_ns
        self._wants_stop = False
        self.board.restore(saved.states)

    def check(self) -> None:
        """Raise FuzzError if memory or disks are not what they have to be."""
        self.core.check()
        if not self._trusts_store:
            return
        for disk, base, written in zip(self.disks, self._bases, self._written, strict=True):
            if disk.is_read_only:
                if written:
                    raise FuzzError("a disk that is only read was written")
                continue
            expected = bytearray(base.read(0, blk.SECTOR * disk.sectors))
            for sector, data in written.items():
                expected[blk.SECTOR * sector : blk.SECTOR * (sector + 1)] = data
            if disk.read(0, disk.sectors) != expected:
                raise FuzzError("a disk holds what nobody has stored")


def run(bench: Bench, acts: Sequence[Act]) -> None:
    """Do *acts* with *bench*; what it raises names the act."""
    for number, act in enumerate(acts):
        try:
            bench.do(act)
        except Exception as error:
            error.add_note(f"at act {number}, {act}")
            raise


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()
