"""A network on a UNIX stream socket: QEMU, passt or a program of one's own at the other end.

Rules:
- What the guest sends goes out at once if the socket takes it.  What it does not take waits, up to a limit, and the
  thread sends it: a frame that was begun is never left half sent.
- Who connected to a peer has lost its network when that goes away.  Who listens waits for the next one; one at a time.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from revirt.errors import HostError
from revirt.monitor.network.backend import LiveBackend
from revirt.monitor.network.framing import FramingError, Unframer, framed

_PIECE = 1 << 18
_UNSENT_SIZE = 4 << 20
_PATH_LIMIT = 107  # sizeof sun_path, without its zero


class StreamBackend(LiveBackend):
    """A network on the connected *link*; or, if *listener* is given, on each that connects there in turn.

    *name* says in messages what is at the other end.  Closes the sockets it was given.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        name: str,
        link: socket.socket | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        super().__init__(wake)
        self._name = name
        self._link = link
        self._listener = listener
        self._unsent = bytearray()
        for each in (link, listener):
            if each is not None:
                each.setblocking(False)
        self._start()

    @classmethod
    def connect(cls, path: Path, wake: Callable[[], None]) -> StreamBackend:
        """Return the network of whoever listens at *path*; raises HostError if nobody does."""
        link = _socket(path)
        try:
            link.connect(os.fspath(path))
        except OSError as error:
            link.close()
            raise _cannot("connect to", path, error, "start what listens there first") from error
        return cls(wake, os.fspath(path), link)

    @classmethod
    def listen(cls, path: Path, wake: Callable[[], None]) -> StreamBackend:
        """Return the network of whoever connects to *path*, a new socket that only its owner can use.

        Raises HostError if it cannot be made.
        """
        listener = _socket(path)
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            listener.close()
            raise _cannot("listen at", path, error, "name a new path") from error
        finally:
            os.umask(before)
        listener.listen(1)
        return _ListeningBackend(wake, path, listener)

    def send(self, frame: bytes) -> None:
        with self._lock:
            if self._link is None or len(self._unsent) > _UNSENT_SIZE:
                self.drops.outbound += 1
                return
            data = framed(frame)
            if self._unsent:
                self._unsent += data
                return
            try:
                sent = self._link.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The peer has gone; the thread finds out why.
                self.drops.outbound += 1
                return
            self._unsent += data[sent:]
            has_rest = bool(self._unsent)
        if has_rest:
            self._poke()

    def _serve(self) -> str | None:
        while not self._is_closing:
            if self._link is not None:
                ended = self._serve_link(self._link)
                self._drop_link()
                if self._listener is None or ended is None:
                    return ended
            elif self._listener is not None:
                self._accept(self._listener)
        return None

    def _serve_link(self, link: socket.socket) -> str | None:
        """Move frames until the peer goes away; return how, None if this end is being closed."""
        unframer = Unframer()
        while not self._is_closing:
            events = self._input() | (select.POLLOUT if self._unsent else 0)
            ready = dict(self._wait((link.fileno(), events))).get(link.fileno(), 0)
            try:
                if ready & select.POLLOUT:
                    self._send_rest(link)
                if ready & ~select.POLLOUT:
                    piece = link.recv(_PIECE)
                    if not piece:
                        return f"{self._name} went away"
                    self._arrived(unframer.feed(piece))
            except BlockingIOError:
                continue
            except OSError as error:
                return f"{self._name} went away: {error.strerror}"
            except FramingError as error:
                return f"{self._name} sends no frames: {error}"
        return None

    def _send_rest(self, link: socket.socket) -> None:
        with self._lock:
            sent = link.send(self._unsent)
            del self._unsent[:sent]

    def _accept(self, listener: socket.socket) -> None:
        if self._wait((listener.fileno(), select.POLLIN)):
            with suppress(OSError):  # whoever it was has gone again
                link, _ = listener.accept()
                link.setblocking(False)
                self._link = link

    def _drop_link(self) -> None:
        with self._lock:
            link, self._link = self._link, None
            self._unsent.clear()
        if link is not None:
            link.close()

    def _release(self) -> None:
        self._drop_link()
        if self._listener is not None:
            self._listener.close()


class _ListeningBackend(StreamBackend):
    """A `StreamBackend` that listens at *path*, which goes when it is closed."""

    def __init__(self, wake: Callable[[], None], path: Path, listener: socket.socket) -> None:
        self._path = path.absolute()
        super().__init__(wake, os.fspath(path), listener=listener)

    def _release(self) -> None:
        super()._release()
        with suppress(FileNotFoundError):
            self._path.unlink()


def _socket(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise HostError(f"{path}: longer than the path of a socket may be, {_PATH_LIMIT} bytes")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _cannot(do: str, path: Path, error: OSError, hint: str) -> HostError:
    return HostError(f"cannot {do} {path}: {error.strerror}", hint=hint)
