"""One viewer of a VNC server, from its handshake to its end; a thread of its own serves it (RFC 6143)."""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from typing import Protocol

from revirt.monitor.keyboard import Keysyms
from revirt.monitor.rfb import (
    CHALLENGE_SIZE,
    DESKTOP_SIZE,
    RAW,
    ZRLE,
    Area,
    Encoder,
    PixelFormat,
    ProtocolError,
    changed_areas,
    is_answer,
)
from revirt.screen import PixelScreen

PATIENCE_S = 10.0
"""How long a handshake, the rest of a message, or room to send to a viewer is waited for."""
FRAME_S = 0.04
"""Time between two pictures for one viewer."""

_OURS = b"RFB 003.008\n"
_VERSIONS = {b"RFB 003.007\n": 7, b"RFB 003.008\n": 8}
"""The versions beyond 3.3, which all others are taken for (7.1.1)."""
_NONE, _VNC_AUTH = 1, 2
_OK, _FAILED = struct.pack(">I", 0), struct.pack(">I", 1)


class _Message(IntEnum):
    """What a viewer says (7.5)."""

    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY = 4
    POINTER = 5
    CUT_TEXT = 6


_MAX_ENCODINGS = 1024
_MAX_CUT_TEXT = 1 << 20


class Shown(Protocol):
    """What a viewer is shown, and may do."""

    name: str
    password: str | None
    press: Callable[[bytes], None]

    @property
    def is_shut(self) -> bool: ...
    def frame(self) -> PixelScreen: ...
    def first_frame(self) -> PixelScreen: ...
    def note_failure(self) -> None: ...
    def ask(self) -> None: ...


class Client:
    """The viewer at the other end of *connection*, which is shown what *server* has."""

    def __init__(self, server: Shown, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._socket.settimeout(PATIENCE_S)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._event_lock = threading.Lock()
        self.keys = Keysyms()
        self._encoder = Encoder()
        self._resizes = False
        self._wants_all = False
        self.is_waiting = True
        """Whether it wants a screen: the first, or one that it has asked for."""
        self._shown: PixelScreen | None = None
        self._size = (0, 0)
        self._sent_s = 0.0

    def wake(self) -> None:
        """Look for a new screen; safe from any thread."""
        with self._event_lock:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def hang_up(self) -> None:
        """End the connection; safe from any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free what the connection holds, when nobody serves it any more."""
        with self._event_lock:
            os.close(self._event)
            self._event = -1
        self._socket.close()

    def serve(self) -> None:
        """Serve the viewer until it goes; raises OSError or ProtocolError if it does not do so in order."""
        deadline_s = time.monotonic() + PATIENCE_S
        self._shake_hands(deadline_s)
        while True:
            connection = self._socket.fileno()
            ready, _, _ = select.select([connection, self._event], [], [], self._time_to_next())
            if self._event in ready:
                os.eventfd_read(self._event)
            if connection in ready:
                self._read_message()
            if self.is_waiting and time.monotonic() >= self._sent_s + FRAME_S:
                self._send_update()

    def _time_to_next(self) -> float | None:
        """Return the seconds until something may be sent that there is; None as long as there is nothing."""
        if not self.is_waiting or (not self._wants_all and self._server.frame() is self._shown):
            return None
        return max(0.0, self._sent_s + FRAME_S - time.monotonic())

    # -- the handshake (7.1 to 7.3) --------------------------------------------------------------------------

    def _shake_hands(self, deadline_s: float) -> None:
        self._socket.sendall(_OURS)
        said = self._read(len(_OURS), deadline_s)
        if not said.startswith(b"RFB "):
            raise ProtocolError("not a viewer")
        minor = _VERSIONS.get(said, 3 if said < _OURS else 8)
        kind = _NONE if self._server.password is None else _VNC_AUTH
        if minor == 3:
            self._socket.sendall(struct.pack(">I", kind))
        else:
            self._socket.sendall(bytes((1, kind)))
            if self._read(1, deadline_s)[0] != kind:
                raise ProtocolError("a security type that was not offered")
        if kind == _VNC_AUTH:
            self._authenticate(minor, deadline_s)
        elif minor == 8:
            self._socket.sendall(_OK)
        self._read(1, deadline_s)  # whether others may look, too: they may
        frame = self._server.first_frame()
        self.is_waiting = False
        self._size = (frame.width, frame.height)
        name = self._server.name.encode()
        init = struct.pack(">HH", *self._size) + PixelFormat.NATIVE + struct.pack(">I", len(name)) + name
        self._socket.sendall(init)

    def _authenticate(self, minor: int, deadline_s: float) -> None:
        challenge = secrets.token_bytes(CHALLENGE_SIZE)
        self._socket.sendall(challenge)
        answer = self._read(CHALLENGE_SIZE, deadline_s)
        assert self._server.password is not None
        if not self._server.is_shut and is_answer(challenge, self._server.password, answer):
            self._socket.sendall(_OK)
            return
        self._server.note_failure()
        reason = b"wrong password"
        self._socket.sendall(_FAILED + (struct.pack(">I", len(reason)) + reason if minor == 8 else b""))
        raise ProtocolError("wrong password")

    # -- messages from the viewer (7.5) ----------------------------------------------------------------------

    def _read_message(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        kind = self._read(1, deadline_s)[0]
        match kind:
            case _Message.SET_PIXEL_FORMAT:
                self._encoder.format = PixelFormat(self._read(19, deadline_s)[3:])
                self._wants_all = True
            case _Message.SET_ENCODINGS:
                (count,) = struct.unpack(">xH", self._read(3, deadline_s))
                self._set_encodings(self._read_list(4 * count, 4 * _MAX_ENCODINGS, deadline_s))
            case _Message.UPDATE_REQUEST:
                is_incremental = self._read(9, deadline_s)[0]
                self.is_waiting = True
                self._wants_all = self._wants_all or not is_incremental
                self._server.ask()
            case _Message.KEY:
                is_down, keysym = struct.unpack(">BxxI", self._read(7, deadline_s))
                if codes := self.keys.press(keysym, bool(is_down)):
                    self._server.press(codes)
            case _Message.POINTER:
                self._read(5, deadline_s)
            case _Message.CUT_TEXT:
                (length,) = struct.unpack(">xxxI", self._read(7, deadline_s))
                self._read_list(length, _MAX_CUT_TEXT, deadline_s)
            case _:
                raise ProtocolError(f"a message of type {kind}")

    def _set_encodings(self, data: bytes) -> None:
        wanted = [encoding for (encoding,) in struct.iter_unpack(">i", data)]
        known = [each for each in wanted if each in (RAW, ZRLE)]
        # The first that is known is the one that is preferred (7.5.2).
        self._encoder.encoding = known[0] if known else RAW
        self._resizes = DESKTOP_SIZE in wanted

    def _read_list(self, size: int, limit: int, deadline_s: float) -> bytes:
        if size > limit:
            raise ProtocolError(f"a message of {size} bytes")
        return self._read(size, deadline_s)

    def _read(self, size: int, deadline_s: float) -> bytes:
        """Return *size* bytes; raises ProtocolError if they do not come until *deadline_s*, or never."""
        parts = bytearray()
        while len(parts) < size:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise ProtocolError("too slow")
            self._socket.settimeout(left_s)
            part = self._socket.recv(min(size - len(parts), 1 << 16))
            if not part:
                raise ProtocolError("it has gone")
            parts += part
        self._socket.settimeout(PATIENCE_S)
        return bytes(parts)

    # -- pictures (7.6) --------------------------------------------------------------------------------------

    def _send_update(self) -> None:
        """Send what the viewer waits for, if there is anything."""
        frame = self._server.frame()
        before, size = self._shown, (frame.width, frame.height)
        rectangles = []
        if size != self._size and self._resizes:
            self._size = size
            rectangles.append(Area(0, 0, *size).header(DESKTOP_SIZE))
            self._wants_all = True
        if self._wants_all or before is None or (before.width, before.height) != size:
            areas = [Area(0, 0, *self._size)]
        else:
            areas = [] if frame is before else self._visible(changed_areas(before, frame))
        self._shown = frame
        rectangles += [self._encoder.rectangle(frame, area) for area in areas]
        if not rectangles:
            return
        self._wants_all = self.is_waiting = False
        self._sent_s = time.monotonic()
        self._socket.sendall(struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles))

    def _visible(self, areas: list[Area]) -> list[Area]:
        """Return what of *areas* a viewer sees whose screen could not grow."""
        width, height = self._size
        cut = (
            Area(each.x, each.y, min(each.width, width - each.x), min(each.height, height - each.y))
            for each in areas
        )
        return [each for each in cut if each.width > 0 and each.height > 0]
