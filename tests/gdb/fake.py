"""A timeline of a made-up guest, short enough to know every position of, and a client that speaks to a server of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

from revirt.core import MODE_LONG, MODE_PROTECTED, MODE_REAL, create_core
from revirt.errors import InterruptedSeekError, UsageError
from revirt.gdb.packets import escape
from revirt.log.events import Event, Kind
from revirt.position import Position
from revirt.timeline import Access, Condition, Execute, Read, Stopped, StopReason, Write

LENGTH = 100
BASE = 0x1000
COUNTER, TABLE = 0x2000, 0x2010
MODES = {"i8086": MODE_REAL, "i386": MODE_PROTECTED, "amd64": MODE_LONG}


def cpu_registers(arch: str) -> dict[str, int]:
    """Return the registers that the CPU core has in the mode of *arch*."""
    core = create_core(1 << 20)
    core.start(MODES[arch], BASE, {}, 0, 0, 0)
    return core.registers()


@dataclass
class FakeTimeline:
    """LENGTH instructions of four bytes, of which every tenth writes COUNTER and every seventh reads TABLE.

    Position number n is ``n // 10 : n % 10``.  Searches and seeks wait while ``is_slow`` is set, until they are
    interrupted.
    """

    arch: str = "i386"
    is_slow: bool = False
    at: int = 0
    checkpoints: dict[int, Position] = field(default_factory=dict)
    began: threading.Event = field(default_factory=threading.Event)
    interrupted: threading.Event = field(default_factory=threading.Event)
    start: ClassVar = Position(0)
    end: ClassVar = Position((LENGTH - 1) // 10, (LENGTH - 1) % 10)

    def __post_init__(self) -> None:
        self.values = cpu_registers(self.arch)
        self.machine: Any = SimpleNamespace(
            clock=SimpleNamespace(now_ns=1_500_000_000), config=SimpleNamespace(memory=1 << 20)
        )
        events = [Event(Kind.CLOCK, n, False, BASE, number=n) for n in range(12)]
        self.recording: Any = SimpleNamespace(
            path="/recordings/made-up\x1b[2J",
            state="complete",
            event_end=len(events),
            event_count=len(events),
            events=lambda after=0: iter(events[after:]),
            checkpoints=[SimpleNamespace(number=3, branches=4)],
            manifest=SimpleNamespace(guest={"name": "made-up"}, uuid="u", clock="virtual", created="then"),
        )

    @property
    def position(self) -> Position:
        return Position(self.at // 10, self.at % 10)

    @property
    def next_event(self) -> int:
        return self.at // 10 + 1

    def seek(self, position: Position) -> Position:
        if position > self.end or position.steps > 9:
            raise UsageError(f"there is no position {position}", hint=f"the last is {self.end}")
        if self.is_slow:
            self._wait()
            raise InterruptedSeekError(self.position)
        self.at = position.branches * 10 + position.steps
        return self.position

    def seek_event(self, ordinal: int) -> Position:
        return self.seek(Position(ordinal))

    def seek_fraction(self, fraction: float) -> Position:
        self.at = int(fraction * (LENGTH - 1))
        return self.position

    def seek_time(self, guest_ns: int) -> Position:
        return self.seek(Position(guest_ns // 10**9))

    def seek_icount(self, instructions: int) -> Position:
        return self.seek(Position(instructions // 10, instructions % 10))

    def seek_end(self) -> Position:
        return self.seek(self.end)

    def icount(self) -> int:
        return self.at

    def step(self, count: int = 1) -> Stopped:
        return self._move(count)

    def step_back(self, count: int = 1) -> Stopped:
        return self._move(-count)

    def _move(self, count: int) -> Stopped:
        self.at += count
        if self.at < 0:
            self.at = 0
            return Stopped(StopReason.START, self.position)
        if self.at >= LENGTH:
            self.at = LENGTH - 1
            return Stopped(StopReason.END, self.position)
        return Stopped(StopReason.STEP, self.position)

    def run(self, conditions: Sequence[Condition], until: Position | None = None) -> Stopped:
        return self._search(conditions, until, 1)

    def run_back(self, conditions: Sequence[Condition], until: Position | None = None) -> Stopped:
        return self._search(conditions, until, -1)

    def _search(self, conditions: Sequence[Condition], until: Position | None, count: int) -> Stopped:
        if self.is_slow:
            self._wait()
            return Stopped(StopReason.INTERRUPTED, self.position)
        while True:
            stopped = self._move(count)
            if stopped.reason is not StopReason.STEP:
                return stopped
            passed = self.at - 1 if count > 0 else self.at
            for each in conditions:
                if isinstance(each, Execute) and each.address == BASE + 4 * self.at:
                    return Stopped(StopReason.BREAKPOINT, self.position, each, each.address)
                if (address := accessed(each, passed)) is not None:
                    return Stopped(StopReason.WATCHPOINT, self.position, each, address)
            if self.position == until:
                return stopped

    def _wait(self) -> None:
        self.interrupted.clear()
        self.began.set()
        assert self.interrupted.wait(60)

    def interrupt(self) -> None:
        self.interrupted.set()

    def registers(self) -> dict[str, int]:
        return {**self.values, "rip": BASE + 4 * self.at, "rax": self.at}

    def read(self, address: int, size: int) -> bytes:
        return bytes((address + at) & 0xFF for at in range(min(size, max(0, 0x10000 - address))))

    def read_physical(self, address: int, size: int) -> bytes:
        return b"\xee" * size

    def checkpoint(self) -> int:
        number = max(self.checkpoints, default=0) + 1
        self.checkpoints[number] = self.position
        return number

    def restart(self, number: int) -> Position:
        if number not in self.checkpoints:
            raise UsageError(f"there is no checkpoint {number}")
        return self.seek(self.checkpoints[number])

    def delete_checkpoint(self, number: int) -> None:
        if self.checkpoints.pop(number, None) is None:
            raise UsageError(f"there is no checkpoint {number}")


def accessed(condition: Condition, instruction: int) -> int | None:
    """Return the address at which *instruction*, by its number, does what *condition* waits for."""
    writes, reads = instruction % 10 == 0, instruction % 7 == 0
    found = None
    if writes and isinstance(condition, Write | Access):
        found = COUNTER
    elif reads and isinstance(condition, Read | Access):
        found = TABLE
    watched = isinstance(condition, Write | Read | Access) and found is not None
    if watched and found - 4 < condition.address + condition.size and condition.address < found + 4:
        return found
    return None


class Client:
    """Speaks the protocol as gdb does: waits for acknowledgements until it asked to do without."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(60)
        self._received = b""
        self.acknowledges = True

    def ask(self, payload: bytes) -> bytes:
        """Return the answer to *payload*."""
        self.send(payload)
        return self.answer()

    def send(self, payload: bytes) -> None:
        body = escape(payload)
        self.socket.sendall(b"$%b#%02x" % (body, sum(body) & 0xFF))
        if self.acknowledges:
            assert self.take(1) == b"+"

    def answer(self) -> bytes:
        """Return the payload of the next packet, its repetitions undone."""
        assert self.take(1) == b"$"
        body = b""
        while not body.endswith(b"#"):
            body += self.take(1)
        body = body[:-1]
        assert int(self.take(2), 16) == sum(body) & 0xFF
        if self.acknowledges:
            self.socket.sendall(b"+")
        return expanded(body)

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes; raises EOFError if the server has closed the connection."""
        while len(self._received) < count:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def is_closed(self) -> bool:
        """Wait until the server closes the connection; whatever comes before is forgotten."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return True


def expanded(body: bytes) -> bytes:
    """Undo run-length encoding as the manual describes it for clients, escapes left alone."""
    out = bytearray()
    at = 0
    while at < len(body):
        if body[at] == ord("*"):
            out += bytes((out[-1],)) * (body[at + 1] - 29)
            at += 2
        else:
            out.append(body[at])
            at += 1
    return bytes(out)


def joined(replies: Iterable[bytes]) -> str:
    """Return what the replies to a monitor command print."""
    *output, last = replies
    assert last == b"OK"
    return "".join(bytes.fromhex(each[1:].decode()).decode() for each in output)
