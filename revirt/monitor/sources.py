"""What a live machine is given by the outside world, beyond its clock and its serial line.

`Live` asks each source whenever the machine stands still, behind what devices did there.

Rules:
- `take` never blocks.  What has to be waited for is waited for in a thread, which calls *wake* when there is something.
- A device that has no room is not given anything: what comes for it waits here, within bounds.
- What answers a request of the guest (a disk is done, random bytes) is not given while the answers of another run are.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from revirt.image.base import BaseImage
from revirt.machine.device import Clock
from revirt.machine.devices import SECTOR_SIZE
from revirt.machine.inputs import Arrival, DiskDone, Entropy, Frame, Keys
from revirt.machine.machine import Machine
from revirt.machine.peripherals import Peripherals
from revirt.machine.virtio.blk import Blk
from revirt.machine.virtio.net import Net
from revirt.machine.virtio.rng import Rng
from revirt.monitor.network.backend import Backend

Wake = Callable[[], None]


class Source(Protocol):
    """Where arrivals come from."""

    answers: bool
    """Whether what it gives answers the guest's own requests."""

    @property
    def is_open(self) -> bool:
        """Whether something may still come, without the guest asking for it."""
        ...

    def attach(self, machine: Machine, wake: Wake, /) -> None:
        """Take the machine that runs, and what makes `Live` ask again; safe from any thread."""
        ...

    def take(self) -> Sequence[Arrival]:
        """Return what arrives now."""
        ...

    def due_ns(self) -> int | None:
        """Return the machine's time at which something comes next, None if that is not known."""
        ...

    def close(self) -> None:
        """End what it does."""
        ...


def peripherals_of(machine: Machine) -> Peripherals:
    """Return what is plugged into *machine*, which has something."""
    assert machine.board.peripherals is not None
    return machine.board.peripherals


class NetSource:
    """Frames for network card *nic*, from the backend that *plug* makes: `connect` comes before `attach`."""

    answers = False
    _card: Net
    _clock: Clock

    def __init__(self, nic: int, plug: Callable[[Wake], Backend | None]) -> None:
        self.nic = nic
        self._plug = plug
        self._backend: Backend | None = None
        self._waiting: deque[bytes] = deque()

    def connect(self, wake: Wake) -> None:
        """Plug in the cable; raises HostError if this host cannot do that."""
        self._backend = self._plug(wake)

    def attach(self, machine: Machine, _wake: Wake) -> None:
        self._card = peripherals_of(machine).nics[self.nic]
        self._clock = machine.clock

    @property
    def warnings(self) -> Sequence[str]:
        """Why the card is cut off, if it is, and how many frames were lost, in words."""
        if self._backend is None:
            return ()
        fault, drops = self._backend.fault, self._backend.drops
        warnings = [fault] if fault is not None else []
        if drops.inbound:
            warnings.append(f"{drops.inbound} of the frames that came were lost: no card takes such sizes")
        if drops.outbound:
            lost = f"at least {drops.outbound} of the guest's frames were lost"
            warnings.append(f"{lost}: the far end did not take them")
        return warnings

    @property
    def is_open(self) -> bool:
        return self._backend is not None and self._backend.is_open

    def take(self) -> Sequence[Arrival]:
        if not self._waiting and self._backend is not None:
            self._waiting.extend(self._backend.frames())
            self._waiting.extend(self._backend.take_due(self._clock.now_ns))
        if not self._waiting or not self._card.can_receive:
            return ()
        return (Frame(self.nic, self._waiting.popleft()),)

    def due_ns(self) -> int | None:
        return self._backend.due_ns() if self._backend is not None and self._card.can_receive else None

    def send(self, frame: bytes) -> None:
        """Pass on what the card sends."""
        if self._backend is not None:
            self._backend.send(frame)

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()


class DiskSource:
    """Says when the host is done with the requests to disk number *disk*, whose base is *image*.

    Data is moved by the machine, when it is told.  So a write is done at once; so is a read of what the host has in
    memory, and for the rest a thread lets the host fetch it.
    """

    answers = True
    _device: Blk
    _wake: Wake

    def __init__(self, disk: int, image: BaseImage) -> None:
        self.disk = disk
        self._image = image
        self._asked: set[int] = set()
        self._done: deque[int] = deque()
        self._wanted: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def attach(self, machine: Machine, wake: Wake) -> None:
        self._device = peripherals_of(machine).disks[self.disk]
        self._wake = wake

    @property
    def is_open(self) -> bool:
        return bool(self._asked)

    def take(self) -> Sequence[Arrival]:
        for each in self._device.pending:
            if each.ticket not in self._asked:
                self._asked.add(each.ticket)
                start, size = each.sector * SECTOR_SIZE, each.count * SECTOR_SIZE
                if each.is_write or self._image.is_in_memory(start, size):
                    self._done.append(each.ticket)
                else:
                    self._fetch(each.ticket, start, size)
        done = []
        while self._done:
            ticket = self._done.popleft()
            self._asked.discard(ticket)
            done.append(DiskDone(self.disk, ticket))
        return done

    def due_ns(self) -> int | None:
        return None

    def close(self) -> None:
        if self._thread is not None:
            self._wanted.put(None)
            self._thread.join()
            self._thread = None

    def _fetch(self, ticket: int, start: int, size: int) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"disk {self.disk}", daemon=True)
            self._thread.start()
        self._wanted.put((ticket, start, size))

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            ticket, start, size = wanted
            self._image.fetch(start, size)
            self._done.append(ticket)
            self._wake()


class EntropySource:
    """Random bytes: the host's, or by the virtual clock such as follow from where the machine stands."""

    answers = True
    _machine: Machine
    _rng: Rng

    def attach(self, machine: Machine, _wake: Wake) -> None:
        rng = peripherals_of(machine).rng
        assert rng is not None
        self._machine, self._rng = machine, rng

    @property
    def is_open(self) -> bool:
        return False

    def take(self) -> Sequence[Arrival]:
        wanted = self._rng.wanted
        if not wanted:
            return ()
        if self._machine.config.clock == "host":
            return (Entropy(os.urandom(wanted)),)
        seed = self._machine.core.branches.to_bytes(8, "little")
        return (Entropy(hashlib.shake_128(b"revirt" + seed).digest(wanted)),)

    def due_ns(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing to end."""


class KeySource:
    """Keys that are pressed on the keyboard: ``press`` may be called from any thread.

    They wait while the guest does not listen to its keyboard, or has not read what came before.
    """

    answers = False
    _WAITING = 16 << 10
    _AT_ONCE = 256

    def __init__(self) -> None:
        self._codes = bytearray()
        self._lock = threading.Lock()
        self._machine: Machine | None = None
        self._wake: Wake = lambda: None

    def attach(self, machine: Machine, wake: Wake) -> None:
        self._machine = machine
        self._wake = wake

    @property
    def is_open(self) -> bool:
        return bool(self._codes)

    def press(self, scancodes: bytes) -> None:
        """Let the keyboard send *scancodes*, of set 2, or nothing of them if so much waits that they have no room."""
        with self._lock:
            if len(self._codes) + len(scancodes) > self._WAITING:
                return
            self._codes += scancodes
        self._wake()

    def take(self) -> Sequence[Arrival]:
        assert self._machine is not None
        if not self._codes:
            return ()
        with self._lock:
            taken = bytes(self._codes[: min(self._AT_ONCE, self._machine.board.i8042.room)])
            del self._codes[: len(taken)]
        return (Keys(taken),) if taken else ()

    def due_ns(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing to end."""
