"""The cable at a guest's network card, a bad one: it loses frames, doubles them, and lets some be overtaken.

What happens to which frame is drawn by lot, from a seed; which frames there are is up to the two ends.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

from loading import Load
from revirt.monitor.network import Backend
from revirt.monitor.network.passt import GUEST_ADDRESS, ROUTER_ADDRESS
from revirt.monitor.network.stream import StreamBackend

_MILLION = 1_000_000
_LOOK_S = 0.02
"""How long a frame is held back at most for others to overtake it."""
_MOST_OVERTAKING = 6


class Fault:
    """One direction of a bad cable; ``counts`` says how many frames came to what."""

    def __init__(self, load: Load, seed: str) -> None:
        self.counts: Counter[str] = Counter()
        self._load = load
        self._chance = random.Random(seed)
        self._held: list[tuple[int, bytes]] = []

    def carry(self, frame: bytes) -> list[bytes]:
        """Return the frames that come out for *frame* and now: none, it, it twice, or earlier ones behind it."""
        out, load = [frame], self._load
        lot = self._chance.randrange(_MILLION)
        if lot < load.drop:
            out, fate = [], "dropped"
        elif lot < load.drop + load.duplicate:
            out, fate = [frame, frame], "duplicated"
        elif lot < load.drop + load.duplicate + load.reorder:
            out, fate = [], "overtaken"
            self._held.append((self._chance.randint(2, _MOST_OVERTAKING), frame))
        else:
            fate = "carried"
        self.counts[fate] += 1
        self._held = [(left - 1, held) for left, held in self._held]
        return out + self._release(0)

    def let_go(self) -> list[bytes]:
        """Return what is still held back: nothing more came to overtake it."""
        return self._release(_MOST_OVERTAKING)

    def _release(self, most: int) -> list[bytes]:
        out = [held for left, held in self._held if left <= most]
        self._held = [(left, held) for left, held in self._held if left > most]
        return out


class Flood:
    """Pings of the guest, in the name of its router: one for every answer, and some more, while it lasts."""

    _AHEAD = 16
    _IDENT = 0x7265
    _PATIENCE_S = 0.05

    def __init__(self, seconds: float, seed: str) -> None:
        self.sent = self.answered = 0
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._ends = 0.0
        self._last_answer = 0.0
        self._ahead = 0

    def start(self) -> None:
        """Begin, now."""
        self._last_answer = time.monotonic()
        self._ends = self._last_answer + self._seconds

    def due(self, guest: bytes, router: bytes) -> list[bytes]:
        """Return the pings to send now, from and to these hardware addresses."""
        now = time.monotonic()
        if now >= self._ends:
            return []
        if now - self._last_answer > self._PATIENCE_S:
            self._ahead, self._last_answer = 0, now  # those have got lost
        count, self._ahead = self._AHEAD - self._ahead, self._AHEAD
        return [self._ping(guest, router) for _ in range(count)]

    def takes(self, frame: bytes) -> bool:
        """Return whether *frame* is an answer, which nobody else is to see."""
        # An IPv4 header without options, and ICMP's echo reply (RFC 792).
        is_answer = frame[12:15] == b"\x08\x00\x45" and frame[23:24] == b"\x01" and frame[34:35] == b"\0"
        if not is_answer or frame[38:40] != struct.pack(">H", self._IDENT):
            return False
        self.answered += 1
        self._ahead -= 1
        self._last_answer = time.monotonic()
        return True

    def _ping(self, guest: bytes, router: bytes) -> bytes:
        self.sent += 1
        data = self._chance.randbytes(self._chance.randrange(0, 1400))
        echo = _summed(struct.pack(">BBHHH", 8, 0, 0, self._IDENT, self.sent & 0xFFFF) + data, 2)
        addresses = b"".join(bytes(map(int, text.split("."))) for text in (ROUTER_ADDRESS, GUEST_ADDRESS))
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(echo), self.sent & 0xFFFF, 0, 64, 1, 0)
        return guest + router + b"\x08\x00" + _summed(header + addresses, 10) + echo


class Relay:
    """The cable from the UNIX socket *path*, where a recorder may connect, to the far end that *plug* makes."""

    def __init__(
        self, path: Path, plug: Callable[[Callable[[], None]], Backend], load: Load, seed: str
    ) -> None:
        self._awake = threading.Event()
        self.outward, self.inward = Fault(load, f"{seed} out"), Fault(load, f"{seed} in")
        self.flood = Flood(load.flood_s, f"{seed} ping")
        self._guest_mac = self._router_mac = b""
        self._is_closing = False
        self._far: Backend = plug(self._awake.set)
        self._card: Backend = StreamBackend.listen(path, self._awake.set)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        self._awake.set()
        self._thread.join()
        self._card.close()
        self._far.close()

    @property
    def counts(self) -> dict[str, int]:
        """How many frames came to what, both ways together, and how many pings to an answer."""
        lost = sum(each.drops.inbound + each.drops.outbound for each in (self._card, self._far))
        flood = {"pings": self.flood.sent, "answered": self.flood.answered}
        return {**(self.outward.counts + self.inward.counts), "congested": lost, **flood}

    def _run(self) -> None:
        while not self._is_closing:
            self._awake.wait(_LOOK_S)
            is_quiet = not self._awake.is_set()
            self._awake.clear()
            while self._move_some():
                pass
            if is_quiet:
                self._let_go()
            self._ping()

    def _move_some(self) -> bool:
        out, back = self._card.frames(), self._far.frames()
        for frame in out:
            self._guest_mac = frame[6:12]
            if not self.flood.takes(frame):
                for each in self.outward.carry(frame):
                    self._far.send(each)
        for frame in back:
            self._router_mac = frame[6:12]
            for each in self.inward.carry(frame):
                self._card.send(each)
        if out:
            self._ping()
        return bool(out or back)

    def _let_go(self) -> None:
        for frame in self.outward.let_go():
            self._far.send(frame)
        for frame in self.inward.let_go():
            self._card.send(frame)

    def _ping(self) -> None:
        if self._guest_mac and self._router_mac:
            for frame in self.flood.due(self._guest_mac, self._router_mac):
                self._card.send(frame)


def _summed(data: bytes, place: int) -> bytes:
    """Return *data* with the Internet checksum of all of it (RFC 1071) at *place*, where zeros are."""
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:place] + struct.pack(">H", total ^ 0xFFFF) + data[place + 2 :]
