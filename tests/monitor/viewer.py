"""A VNC viewer for tests, after RFC 6143: what it is sent it puts together to a picture of red, green, blue."""

from __future__ import annotations

import socket
import struct
import zlib

from revirt.monitor.rfb import encrypted

RAW, ZRLE, DESKTOP_SIZE = 0, 16, -223
NATIVE = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class Viewer:
    """A viewer that is connected by *connection*; ``picture`` holds pixels as tuples by (x, y)."""

    def __init__(
        self, connection: socket.socket, version: str = "003.008", password: str | None = None
    ) -> None:
        self.socket = connection
        self.socket.settimeout(10)
        self.picture: dict[tuple[int, int], bytes] = {}
        self.rectangles: list[tuple[int, int, int, int, int]] = []
        self._inflater = zlib.decompressobj()
        self._pixel = 4
        self._compact = 3
        assert self.read(12) == b"RFB 003.008\n"
        self.socket.sendall(f"RFB {version}\n".encode())
        if version < "003.007":
            (kind,) = struct.unpack(">I", self.read(4))
        else:
            (kind,) = self.read(self.read(1)[0])
            self.socket.sendall(bytes((kind,)))
        assert kind == (1 if password is None else 2)
        if password is not None:
            self.socket.sendall(encrypted(self.read(16), password))
        if password is not None or version == "003.008":
            (self.result,) = struct.unpack(">I", self.read(4))
            if self.result:
                return
        self.socket.sendall(b"\1")
        self.width, self.height = struct.unpack(">HH", self.read(4))
        assert self.read(16) == NATIVE
        self.name = self.read(struct.unpack(">I", self.read(4))[0]).decode()

    def read(self, size: int) -> bytes:
        """Return *size* bytes; raises EOFError where there are no more."""
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def want(self, *encodings: int) -> None:
        """Say which encodings are known."""
        self.socket.sendall(struct.pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings))

    def use(self, pixel_format: bytes, size: int, compact: int) -> None:
        """Ask for pixels in *pixel_format*, of *size* bytes, *compact* ones in ZRLE."""
        self.socket.sendall(bytes(4) + pixel_format)
        self._pixel, self._compact = size, compact

    def key(self, keysym: int, is_down: bool) -> None:
        """Press or let go a key."""
        self.socket.sendall(struct.pack(">BBxxI", 4, is_down, keysym))

    def ask(self, *, incremental: bool) -> None:
        """Ask for a picture."""
        self.socket.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def update(self, *, incremental: bool = False) -> None:
        """Ask for a picture and take it."""
        self.ask(incremental=incremental)
        self.take()

    def take(self) -> None:
        """Take the next picture; ``rectangles`` are those that it consisted of."""
        kind, count = struct.unpack(">BxH", self.read(4))
        assert kind == 0
        self.rectangles = []
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self.read(12))
            self.rectangles.append((x, y, width, height, encoding))
            if encoding == DESKTOP_SIZE:
                self.width, self.height = width, height
                self.picture.clear()
            elif encoding == RAW:
                self._put(x, y, width, height, self.read(self._pixel * width * height), self._pixel)
            else:
                assert encoding == ZRLE
                size = struct.unpack(">I", self.read(4))[0]
                self._put_tiles(x, y, width, height, self._inflater.decompress(self.read(size)))

    def row(self, y: int) -> bytes:
        """Return the pixels of a row."""
        return b"".join(self.picture[x, y] for x in range(self.width))

    def _put_tiles(self, left: int, top: int, width: int, height: int, data: bytes) -> None:
        for y in range(top, top + height, 64):
            for x in range(left, left + width, 64):
                columns, rows = min(64, left + width - x), min(64, top + height - y)
                kind, data = data[0], data[1:]
                size = self._compact * (1 if kind == 1 else columns * rows)
                pixels, data = data[:size], data[size:]
                self._put(x, y, columns, rows, pixels * (columns * rows if kind == 1 else 1), self._compact)
        assert not data

    def _put(self, left: int, top: int, width: int, height: int, data: bytes, size: int) -> None:
        for number in range(width * height):
            pixel = data[number * size : (number + 1) * size]
            self.picture[left + number % width, top + number // width] = pixel
