"""Serves one client at a time over a stream socket; another may come when it has left.

The timeline belongs to the thread that calls `Server.serve`, which answers packets one by one.  A second thread reads
the socket, so that Ctrl-C in gdb (a byte outside of packets) and a connection that breaks end a search that runs.

A client may be hostile: packets are bounded, so is the number that waits, and a client that does not read what it is
sent is given up.
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from revirt.gdb.packets import Decoder, Garbled, Packet, Sign, encode
from revirt.gdb.stub import INVALID, Disconnect, Stub
from revirt.gdb.target import Target

_SEND_TIMEOUT_S = 30.0
_MOST_WAITING = 256
_RECEIVED_AT_ONCE = 1 << 16
_REPEAT_S = 0.05
"""How often a search is asked again to end: it may not have begun when it was asked first."""


class Server:
    """Lets clients that connect to *listener* look at *target*.

    *make_stub* makes what answers a client; *on_change* is told ``True`` when one has come, ``False`` when it has left.
    """

    def __init__(
        self,
        listener: socket.socket,
        target: Target,
        make_stub: Callable[[], Stub],
        on_change: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._listener = listener
        self._target = target
        self._make_stub = make_stub
        self._on_change = on_change
        self._is_stopping = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> None:
        """Answer clients until `stop` is called."""
        while not self._is_stopping.is_set():
            client = self._accept()
            if client is not None:
                self._on_change(True)
                with client:
                    stub = self._make_stub()
                    _Connection(client, self._listener, self._wake_read, self._target, stub).answer()
                self._on_change(False)

    def stop(self) -> None:
        """Let `serve` return soon, whatever it does.  Safe from any thread and any signal handler."""
        self._is_stopping.set()
        with suppress(OSError):
            os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Close what `stop` writes to; the listener is its maker's."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _accept(self) -> socket.socket | None:
        """Return the next client, or None if the server is to stop."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select()}
        if self._wake_read in ready:
            return None
        return _accepted(self._listener)


class _Connection:
    """One client: a thread that reads, and `answer` on the thread that owns the timeline."""

    def __init__(
        self, client: socket.socket, listener: socket.socket, wake_fd: int, target: Target, stub: Stub
    ) -> None:
        self._client = client
        self._listener = listener
        self._wake_fd = wake_fd
        self._target = target
        self._stub = stub
        self._packets: queue.Queue[Packet | Garbled | None] = queue.Queue()
        self._sending = threading.Lock()
        self._last = b""
        self._acknowledges = True
        self._is_lost = threading.Event()
        self._unanswered = 0
        self._counting = threading.Lock()  # that count, and whether a break is wanted of what it counts
        self._wants_break = threading.Event()
        self._done_read, self._done_write = os.pipe2(os.O_CLOEXEC)
        client.settimeout(_SEND_TIMEOUT_S)

    def answer(self) -> None:
        """Answer the client until it leaves or the server is to stop."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            while not self._is_lost.is_set() and (packet := self._packets.get()) is not None:
                self._reply(packet)
                self._finish_one()
        except Disconnect as done:
            self._is_lost.set()
            self._send_packet(done.reply)
        finally:
            os.close(self._done_write)  # which ends the thread
            reader.join()
            os.close(self._done_read)

    def _reply(self, packet: Packet | Garbled) -> None:
        for reply in self._stub.handle(packet.payload) if isinstance(packet, Packet) else (INVALID,):
            self._send_packet(reply)
        self._acknowledges = self._stub.needs_acknowledgements

    def _finish_one(self) -> None:
        with self._counting:
            self._unanswered -= 1
            if not self._unanswered:
                self._wants_break.clear()

    def _send_packet(self, payload: bytes) -> None:
        self._last = encode(payload)
        self._send(self._last)

    def _send(self, data: bytes) -> None:
        try:
            with self._sending:
                self._client.sendall(data)
        except OSError:
            self._is_lost.set()

    # -- the thread that reads ---------------------------------------------------------------------------------

    def _read(self) -> None:
        decoder = Decoder()
        with selectors.DefaultSelector() as selector:
            for each in (self._client, self._listener, self._wake_fd, self._done_read):
                selector.register(each, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(self._patience)}
                if self._done_read in ready:
                    return
                if self._wake_fd in ready or (self._client in ready and not self._receive(decoder)):
                    self._lose()
                    selector.unregister(self._client)
                    selector.unregister(self._wake_fd)
                if self._listener in ready:
                    # One at a time; but whoever comes once this one has left may wait for a moment.
                    if self._is_lost.is_set():
                        selector.unregister(self._listener)
                    elif (other := _accepted(self._listener)) is not None:
                        other.close()
                if self._wants_break.is_set():
                    self._target.interrupt()

    @property
    def _patience(self) -> float | None:
        return _REPEAT_S if self._wants_break.is_set() else None

    def _receive(self, decoder: Decoder) -> bool:
        """Take what the client sent; return whether it is still there."""
        try:
            data = self._client.recv(_RECEIVED_AT_ONCE)
        except OSError:
            return False
        for each in decoder.feed(data):
            self._take(each)
        return bool(data) and self._packets.qsize() <= _MOST_WAITING

    def _take(self, each: Packet | Garbled | Sign) -> None:
        match each:
            case Garbled(is_worth_repeating=True):
                self._acknowledge(b"-")
            case Packet() | Garbled():
                self._acknowledge(b"+")
                with self._counting:
                    self._unanswered += 1
                self._packets.put(each)
            case Sign.REJECTED if self._acknowledges:
                self._send(self._last)
            case Sign.BREAK:
                self._break()

    def _break(self) -> None:
        """Have what is being answered end; for a search, a break that comes when nothing is comes too late."""
        self._stub.interrupt()
        with self._counting:
            if self._unanswered:
                self._wants_break.set()

    def _acknowledge(self, sign: bytes) -> None:
        if self._acknowledges:
            self._send(sign)

    def _lose(self) -> None:
        self._is_lost.set()
        self._wants_break.set()
        self._packets.put(None)


def _accepted(listener: socket.socket) -> socket.socket | None:
    """Return a client that waits at *listener*; None if it has gone again."""
    try:
        client, _ = listener.accept()
    except OSError:
        return None
    if client.family != socket.AF_UNIX:
        # Packets are small, and each waits for the answer to the one before.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return client
