"""The other ends of the guest's connections: what `load.c` says of them holds here, too."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Self

_PIECE = 1 << 18
_REPEATED = 1 << 20
"""Bytes after which what is sent without a hash begins anew."""


class Exchange:
    """One connection: *to_guest* and *from_guest* bytes of data that follow from *seed*, not from 0.

    The seed 0 sends anything, and compares nothing: that is for measuring.  ``moved`` says how many bytes went by.
    """

    def __init__(self, to_guest: int, from_guest: int, seed: int) -> None:
        self.size = to_guest + from_guest
        self.moved = 0
        self._to_guest, self._from_guest = to_guest, from_guest
        self._seed = seed

    def talk(self, link: socket.socket) -> str | None:
        """Do it on *link*; return what was wrong."""
        with link:
            try:
                return self._talk(link)
            except OSError as error:
                return f"the connection broke: {error}"

    def _talk(self, link: socket.socket) -> str | None:
        link.settimeout(None)
        link.sendall(struct.pack("<QQQ", self._to_guest, self._from_guest, self._seed))
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(self._send, link)
            received = self._receive(link)
            sent = sending.result()
        if received is None:
            return "the guest hung up"
        link.sendall(received)
        theirs = _read(link, 32)
        if len(theirs) < 32:
            return "the guest hung up before it said what it got"
        return "the guest got something else than was sent" if self._seed and theirs != sent else None

    def _send(self, link: socket.socket) -> bytes:
        chance, found = random.Random(self._seed), hashlib.sha256()
        piece = chance.randbytes(min(self._to_guest, _REPEATED))
        for start in range(0, self._to_guest, _REPEATED):
            part = piece[: min(_REPEATED, self._to_guest - start)]
            link.sendall(part)
            self.moved += len(part)
            if self._seed:
                found.update(part)
                piece = chance.randbytes(_REPEATED)
        return found.digest()

    def _receive(self, link: socket.socket) -> bytes | None:
        found, left, buffer = hashlib.sha256(), self._from_guest, memoryview(bytearray(_PIECE))
        while left:
            came = link.recv_into(buffer[: min(left, _PIECE)])
            if not came:
                return None
            left -= came
            self.moved += came
            if self._seed:
                found.update(buffer[:came])
        return found.digest()


class Peers:
    """Makes connections to the guest when it is told to, and takes those of the guest at ``port``."""

    def __init__(self, taken: list[Exchange], made: list[Exchange]) -> None:
        self.exchanges = taken + made
        self._made = made
        self._waiting = list(taken)
        self._results: list[Future[str | None]] = []
        self._pool = ThreadPoolExecutor(max(1, len(self.exchanges)))
        self._listener = socket.create_server(("", 0), backlog=len(taken) + 1)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._take, name="peers", daemon=True)
        self._thread.start()
        self._links: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for link in self._links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._pool.shutdown()

    @property
    def moved(self) -> int:
        """Bytes that went by, both ways."""
        return sum(exchange.moved for exchange in self.exchanges)

    @property
    def has_begun(self) -> bool:
        """Whether there was a connection."""
        return bool(self._results)

    def connect(self, guest: tuple[str, int]) -> None:
        """Make the connections to the *guest*, an address and a port."""
        for exchange in self._made:
            self._start(exchange.talk, socket.create_connection(guest))

    def problems(self) -> list[str]:
        """Return what was wrong with connections, once the guest has ended; those that never were among that."""
        found = [problem for result in self._results if (problem := result.result()) is not None]
        missing = len(self.exchanges) - len(self._results)
        return found + [f"{missing} connections were never made"] * bool(missing)

    def _take(self) -> None:
        with suppress(OSError):  # closed
            while True:
                link, _ = self._listener.accept()
                if self._waiting:
                    self._start(self._waiting.pop().talk, link)
                else:
                    link.close()

    def _start(self, talk: Callable[[socket.socket], str | None], link: socket.socket) -> None:
        self._links.append(link)
        self._results.append(self._pool.submit(talk, link))


def _read(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := link.recv(size - len(data))):
        data += more
    return data
