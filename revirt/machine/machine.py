"""The virtual PC: a core, devices on buses, and the loop that runs them.

The loop is the same for a live run, a recorded one and a replay; they differ only in who answers `Inputs`.  At every
taken branch where the core stands, in this order: devices do what the guest told them to, what arrives from outside is
applied, timers are brought up to the machine's time, and a pending interrupt is delivered.  Then the core runs on to
the nearest of the next timer, the inputs' horizon and the caller's target.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from revirt.core import (
    MODE_LONG,
    MODE_PROTECTED,
    MODE_REAL,
    PAGE_SIZE,
    STOP_HALT,
    STOP_SHUTDOWN,
    STOP_STEPS,
    STOP_WATCH,
    create_core,
)
from revirt.image.boot import Boot, Mode
from revirt.machine.board import Board
from revirt.machine.clock import ClockState, MachineClock
from revirt.machine.config import MachineConfig
from revirt.machine.devices import Devices
from revirt.machine.disk import Base, DiskContents
from revirt.machine.inputs import Arrival, ClockRate, ClockReading, Halt, Inputs, Moment
from revirt.machine.memory import GuestMemory
from revirt.machine.state import State, check_version, encode, from_plain, to_plain

WATCHED = "a watch was hit"
"""Why a run halts in which `Core.stop_at_hits` is on."""

MAX_RUN = 2_000_000
"""Branches to run at most without looking up: keeps progress alive where nothing else stops the core."""

CPU_STATE_VERSION = 1
"""Version of what `Core.save` returns."""
STATE_LIMIT = 2 << 20
"""Most bytes of a saved state: a serial line that nobody reads from holds back one MiB, all else are kilobytes.

What is unpacked takes up to 75 times as much.
"""

DIGEST_SIZE = 16
_MODES = {Mode.REAL: MODE_REAL, Mode.PROTECTED: MODE_PROTECTED, Mode.LONG: MODE_LONG}
_ADDRESS_SPACE = 1 << 40
_FOUR_GIB = 1 << 32

TRANSLATION_BUFFER = 20 << 20
"""Bytes for translated code; when they are full, all of it is dropped and made again as it is needed.

Booting Debian translates 40 MB, and much of that again and again: 16 MB cost 5 % of its speed, and more than 20 gain
nothing.
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the guest ended its own run: ``reason`` for people, ``exit_code`` if it gave one.

    ``crashed`` tells a machine that could not go on from one that chose not to.
    """

    reason: str
    exit_code: int | None = None
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Why `Machine.run` returned: the guest ended, or somebody halted the run, or (neither) the target was reached."""

    ended: Ended | None = None
    halted: str | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    """Hashes of the machine's three parts at a moment, 16 bytes each."""

    cpu: bytes
    ram: bytes
    devices: bytes

    def __bytes__(self) -> bytes:
        return self.cpu + self.ram + self.devices

    @classmethod
    def from_bytes(cls, data: bytes) -> Digest:
        """Return the digest whose bytes these are; raises ValueError for another length."""
        if len(data) != 3 * DIGEST_SIZE:
            raise ValueError(f"a digest has {3 * DIGEST_SIZE} bytes, not {len(data)}")
        return cls(*(data[start : start + DIGEST_SIZE] for start in range(0, len(data), DIGEST_SIZE)))


@dataclass
class _RunState(State):
    """What the machine itself knows beyond core, clock and devices."""

    halted: bool


def disk_contents(devices: Devices, bases: Sequence[Base], store: memoryview) -> list[DiskContents]:
    """Return the contents of the disks among *devices*, over *bases*.

    Each has its part of *store*, in order, behind the flash.
    """
    if len(bases) != len(devices.disks):
        raise ValueError(f"{len(bases)} images for {len(devices.disks)} disks")
    contents, start = [], devices.flash_size
    for disk, base in zip(devices.disks, bases, strict=True):
        contents.append(DiskContents(disk, base, store[start : start + disk.store_size]))
        start += disk.store_size
    return contents


class Machine:
    """A virtual PC built from *config*, which asks *inputs* for what it cannot compute.

    *bases* are what its disks hold at first, one for each.

    ``translation_buffer`` (bytes, 0 for Unicorn's own size, a GiB) and ``track_writes`` are passed to the core; neither
    changes what the guest does.
    """

    def __init__(
        self,
        config: MachineConfig,
        inputs: Inputs,
        *,
        bases: Sequence[Base] = (),
        translation_buffer: int = TRANSLATION_BUFFER,
        track_writes: bool = True,
    ) -> None:
        self.config = config
        self.core = create_core(
            config.memory,
            store_size=config.devices.store_size,
            translation_buffer=translation_buffer,
            track_writes=track_writes,
        )
        self.core.sees_windows = config.devices.firmware
        self.clock = MachineClock(self.core, config.ns_per_branch)
        self.disks = disk_contents(config.devices, bases, self.core.store)
        self.board = Board(
            self.clock,
            devices=config.devices,
            memory=GuestMemory(self.core, lambda: self.halted),
            disks=self.disks,
            completes_at_once=config.clock == "virtual",
            flash=self.core.store[: config.devices.flash_size],
            epoch=config.epoch,
            intr=self._set_intr,
            reschedule=self.core.request_stop,
            transmit=inputs.transmitted,
            printed=lambda port, data: inputs.printed(self.moment(), port, data),
            sent=lambda nic, frame: inputs.sent(self.moment(), nic, frame),
            stored=lambda disk, sector, data: inputs.stored(self.moment(), disk, sector, data),
            end=self._end,
        )
        self.ended: Ended | None = None
        self.halted = False
        self._inputs = inputs
        self._stop: str | None = None
        ports, mmio = self.board.ports, self.board.mmio
        self.core.set_callbacks(ports.read, ports.write, mmio.read, mmio.write)
        # Every hole is MMIO: an unbounded hook for unmapped memory would slow every store down.
        self.core.map_mmio(config.memory, _FOUR_GIB - config.memory)
        self.core.map_mmio(_FOUR_GIB, _ADDRESS_SPACE - _FOUR_GIB)
        self.core.set_cpuid(dict(config.cpuid))

    def load(self, boot: Boot) -> None:
        """Put a guest into the empty machine; what is behind its RAM goes into the flash."""
        ram, flash = self.core.ram, self.core.store[: self.config.devices.flash_size]
        for address, data in boot.writes:
            target, start = (ram, address) if address < len(ram) else (flash, address - len(ram))
            if start < 0 or start + len(data) > len(target):
                raise ValueError(f"{len(data)} bytes at {address:#x} do not fit the machine's memory")
            target[start : start + len(data)] = data
        cpu = boot.cpu
        self.core.start(_MODES[cpu.mode], cpu.pc, cpu.registers, cpu.gdt_base, cpu.gdt_limit, cpu.cr3)

    # -- running -----------------------------------------------------------------------------------------------

    def moment(self) -> Moment:
        """Return where the machine stands."""
        return Moment(self.core.branches, self.halted, self.core.pc)

    def request_stop(self) -> None:
        """Make the core look up at the next taken branch.  Safe from any thread; the guest does not notice."""
        self.core.request_stop()

    def run(self, until: int | None = None) -> Stop:
        """Run until the branch count is *until*, the guest ends, or an input says `Halt`."""
        core, inputs = self.core, self._inputs
        while True:
            # First: how what follows is given in turns does not matter then, for only a guest that runs has more to do.
            self.board.service()
            moment = self.moment()
            while self._stop is None and (arrivals := inputs.arrivals(moment)):
                self._accept(arrivals)
            if self._stop is not None or self.ended is not None:
                stop, self._stop = Stop(self.ended, self._stop), None
                return stop
            if until is not None and moment.branches >= until:
                return Stop()
            self.board.catch_up()
            if self.board.pic.output and core.interruptible:
                vector = self.board.pic.acknowledge()
                inputs.interrupted(moment, vector)
                core.interrupt(vector)
                self.halted = False
            elif self.halted:
                self._idle(moment)
                continue
            self._run_core(moment, until)

    def step(self, count: int) -> int:
        """Execute *count* instructions of the straight line the machine stands on; return how many it had.

        For looking only: nothing arrives meanwhile.  Go back to a taken branch (restore) before running on.
        """
        before = self.core.instructions
        stop = self.core.step(count, self.core.branches + 1)
        return count if stop == STOP_STEPS else self.core.instructions - before

    def _run_core(self, moment: Moment, until: int | None) -> None:
        limit = min(moment.branches + MAX_RUN, self._inputs.horizon(moment.branches))
        if until is not None:
            limit = min(limit, until)
        deadline = self.board.deadline_ns()
        if deadline is not None:
            limit = min(limit, self.clock.branches_at(deadline))
        stop = self.core.run(max(limit, moment.branches + 1))
        if stop == STOP_WATCH:
            self._stop = WATCHED
        elif stop == STOP_HALT:
            self.halted = True
        elif stop == STOP_SHUTDOWN:
            # Like a HLT, and unlike every other stop, somewhere in the straight line behind a branch.
            self.halted = True
            # Code behind the OUT that resets a machine may be anything: it is never run on a real one.
            self.ended = self.ended or Ended(self.core.fault, crashed=True)

    def _accept(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            match arrival:
                case ClockReading(ns):
                    self.clock.jump(ns)
                    # At each reading: a timer that came due between two must not depend on how they were batched.
                    self.board.catch_up()
                case ClockRate(ns_per_branch):
                    self.clock.set_rate(ns_per_branch)
                case Halt(reason):
                    self._stop = reason
                case _:
                    self.board.accept(arrival)

    def _idle(self, moment: Moment) -> None:
        if not self.core.interruptible:
            self.ended = Ended("the CPU halted with interrupts disabled")
            return
        wake_ns = self.board.deadline_ns()
        arrivals = self._inputs.idle(moment, wake_ns)
        self._accept(arrivals)
        if not arrivals:
            if wake_ns is None:
                self.ended = Ended("the CPU halted with no timer armed and nothing to receive")
            else:
                self.clock.jump(wake_ns)

    def _set_intr(self, level: bool) -> None:
        self.core.intr = level

    def _end(self, reason: str, exit_code: int | None) -> None:
        self.ended = Ended(reason, exit_code)
        self.core.request_stop()

    # -- state -------------------------------------------------------------------------------------------------

    def digest(self) -> Digest:
        """Return the digests of CPU, RAM and devices at this moment."""
        self.board.catch_up()
        self.core.scan()
        run = encode({"run": _RunState(self.halted)})
        return Digest(
            cpu=_hash(self.core.digest_input()),
            ram=_hash(self.core.page_hashes),
            devices=_hash(encode(self.board.save()) + run),
        )

    def save(self) -> bytes:
        """Return everything but RAM; `restore` takes it."""
        self.board.catch_up()
        packed: bytes = msgpack.packb(
            {
                "versions": self._versions(),
                "cpu": self.core.save(),
                "clock": to_plain(self.clock.save()),
                "run": to_plain(_RunState(self.halted)),
                "devices": {name: to_plain(state) for name, state in self.board.save().items()},
            }
        )
        return packed

    def restore(self, state: bytes) -> None:
        """Take up a saved state; RAM must hold the pages that belong to it.

        Raises ValueError, naming the field, if *state* is not one, and NewerVersionError, naming the part, if a newer
        revirt saved it.
        """
        if len(state) > STATE_LIMIT:
            raise ValueError(f"not a machine state: {len(state)} bytes")
        try:
            plain = msgpack.unpackb(state)
        except (ValueError, msgpack.UnpackException) as error:
            raise ValueError(f"not a machine state: {error}") from error
        if not isinstance(plain, dict) or set(plain) != {"versions", "cpu", "clock", "run", "devices"}:
            raise ValueError("not a machine state")
        self._check_versions(plain["versions"])
        if not isinstance(plain["cpu"], bytes):
            raise ValueError("not a CPU state")
        self.core.restore(plain["cpu"])
        self.clock.restore(from_plain(ClockState, plain["clock"]))
        self.halted = from_plain(_RunState, plain["run"]).halted
        self.board.restore(plain["devices"])
        self.ended = self._stop = None

    def _versions(self) -> dict[str, int]:
        """Return the versions of what a saved state consists of, by name."""
        devices = {name: state.VERSION for name, state in self.board.save().items()}
        return {
            "cpu": CPU_STATE_VERSION,
            "clock": ClockState.VERSION,
            "run": _RunState.VERSION,
            **devices,
        }

    def _check_versions(self, found: object) -> None:
        known = self._versions()
        if not isinstance(found, dict) or set(found) != set(known):
            raise ValueError("not the states of this machine's parts")
        for name, version in known.items():
            check_version(f"{name} state", found[name], version)

    def changed_pages(self) -> bytes:
        """Return the numbers of pages changed since the last call (32-bit little-endian, ascending)."""
        self.core.scan()
        return self.core.take_changed()

    def used_store_pages(self) -> bytes:
        """Return the numbers of the pages of store that may hold something (32-bit little-endian, ascending)."""
        start = self.config.memory + self.config.devices.flash_size
        numbers = array("I", range(self.config.memory // PAGE_SIZE, start // PAGE_SIZE))
        for disk in self.disks:
            numbers.extend((start + offset) // PAGE_SIZE for offset in range(0, disk.used_size, PAGE_SIZE))
            start += disk.store_size
        return numbers.tobytes()

    @property
    def page_count(self) -> int:
        """Number of pages of memory: RAM, and the store behind it."""
        return self.config.page_count


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()


assert sys.byteorder == "little", (
    "page numbers and hashes are exchanged with the core in the host's byte order"
)
