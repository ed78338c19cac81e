"""The VNC server against a viewer of our own, hostile ones, and gtk-vnc's."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from viewer import DESKTOP_SIZE, NATIVE, RAW, ZRLE, Viewer

from revirt.errors import HostError, UsageError
from revirt.monitor.keyboard import chord, make, release
from revirt.monitor.rfb import Area, PixelFormat, ProtocolError, changed_areas, encrypted
from revirt.monitor.vnc import MAX_CLIENTS, Address, VncServer
from revirt.screen import PixelScreen

WAIT_S = 10


def picture(seed: int, width: int = 150, height: int = 70) -> PixelScreen:
    """Return a screen of which every pixel follows from *seed*, with a plain region at its top left."""
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            plain = x < 64 and y < 64
            pixels += bytes((7, 7, 7, 0) if plain else (x * seed & 0xFF, y & 0xFF, x * y + seed & 0xFF, 0))
    return PixelScreen(width, height, bytes(pixels))


def compact(screen: PixelScreen, y: int) -> bytes:
    row = screen.row(y)
    return b"".join(row[at : at + 3] for at in range(0, len(row), 4))


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether *holds* becomes true soon."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def typed() -> list[bytes]:
    return []


@pytest.fixture
def server(typed: list[bytes]) -> Iterator[VncServer]:
    server = VncServer(Address(port=0), typed.append, "a guest")
    server.start(lambda: None)
    server.publish(picture(3))
    yield server
    server.close()


def connect(server: VncServer) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.port), timeout=WAIT_S)


@pytest.mark.parametrize("version", ["003.003", "003.005", "003.007", "003.008", "003.889"])
def test_every_version_of_the_protocol_is_spoken(server: VncServer, version: str) -> None:
    if version == "003.889":  # Apple's: it speaks as 3.8 does, and our viewer knows it by that name
        with connect(server) as raw:
            raw.recv(12)
            raw.sendall(b"RFB 003.889\n")
            assert raw.recv(2) == b"\1\1"
        return
    with connect(server) as connection:
        viewer = Viewer(connection, version)

        viewer.update()

        assert (viewer.width, viewer.height, viewer.name) == (150, 70, "a guest")
        assert viewer.row(69) == picture(3).row(69)


def test_the_screen_is_sent_compressed_to_who_knows_that(server: VncServer) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)
        viewer.want(5, ZRLE, RAW)

        viewer.update()

        assert [rectangle[4] for rectangle in viewer.rectangles] == [ZRLE]
        assert [viewer.row(y) for y in (0, 63, 64, 69)] == [compact(picture(3), y) for y in (0, 63, 64, 69)]


def test_only_what_changed_is_sent(server: VncServer) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)
        viewer.want(ZRLE, RAW)
        viewer.update()
        changed = bytearray(picture(3).pixels)
        changed[4 * (150 * 40 + 100)] ^= 0xFF

        viewer.ask(incremental=True)
        server.publish(PixelScreen(150, 70, bytes(changed)))
        viewer.take()

        assert viewer.rectangles == [(64, 32, 64, 16, ZRLE)]
        assert viewer.row(40) == compact(PixelScreen(150, 70, bytes(changed)), 40)


def test_nothing_is_sent_as_long_as_nothing_changes(server: VncServer) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)
        viewer.update()

        viewer.ask(incremental=True)
        server.publish(picture(3))  # another, but equal
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_viewer_grows_with_the_screen_if_it_can(server: VncServer) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)
        viewer.want(RAW, DESKTOP_SIZE)
        viewer.update()

        viewer.ask(incremental=True)
        server.publish(picture(5, 200, 90))
        viewer.take()

        assert viewer.rectangles == [(0, 0, 200, 90, DESKTOP_SIZE), (0, 0, 200, 90, RAW)]
        assert viewer.row(89) == picture(5, 200, 90).row(89)


def test_a_viewer_that_cannot_grow_sees_as_much_as_it_has_room_for(server: VncServer) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)
        viewer.update()

        viewer.ask(incremental=True)
        server.publish(picture(5, 200, 40))
        viewer.take()

        assert viewer.rectangles == [(0, 0, 150, 70, RAW)]
        assert viewer.row(39) == picture(5, 200, 40).row(39)[: 4 * 150]
        assert viewer.row(40) == bytes(4 * 150)


@pytest.mark.parametrize(
    ("pixel_format", "size", "red", "white"),
    [
        ((16, 16, 0, 1, 31, 63, 31, 11, 5, 0), 2, "00f8", "ffff"),
        ((16, 16, 1, 1, 31, 63, 31, 11, 5, 0), 2, "f800", "ffff"),
        ((8, 8, 0, 1, 7, 7, 3, 0, 3, 6), 1, "07", "ff"),
        ((32, 24, 1, 1, 255, 255, 255, 16, 8, 0), 4, "00ff0000", "00ffffff"),
        ((32, 24, 0, 1, 255, 255, 255, 0, 8, 16), 4, "ff000000", "ffffff00"),
        ((32, 24, 0, 1, 255, 255, 255, 24, 16, 8), 4, "000000ff", "00ffffff"),
    ],
)
def test_pixels_are_as_the_viewer_wants_them(
    server: VncServer, pixel_format: tuple[int, ...], size: int, red: str, white: str
) -> None:
    server.publish(PixelScreen(2, 1, b"\0\0\xff\0\xff\xff\xff\0"))
    with connect(server) as connection:
        viewer = Viewer(connection)
        viewer.use(struct.pack(">BBBBHHHBBB3x", *pixel_format), size, size)

        viewer.update()

        assert viewer.row(0).hex() == red + white


@pytest.mark.parametrize(("shifts", "expected"), [((16, 8, 0), "0000ff"), ((24, 16, 8), "0000ff")])
def test_compact_pixels_leave_out_the_byte_that_says_nothing(shifts: tuple[int, ...], expected: str) -> None:
    pixel_format = PixelFormat(PixelFormat.STRUCT.pack(32, 24, 0, 1, 255, 255, 255, *shifts))

    assert pixel_format.compact(b"\0\0\xff\0").hex() == expected


def test_keys_are_typed_on_the_keyboard(server: VncServer, typed: list[bytes]) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)
        for keysym in (0xFFE3, ord("c")):
            viewer.key(keysym, True)
        for keysym in (ord("c"), 0xFFE3):
            viewer.key(keysym, False)

        assert eventually(lambda: b"".join(typed) == chord("ctrl-c"))


def test_keys_of_a_viewer_that_goes_are_let_go(server: VncServer, typed: list[bytes]) -> None:
    with connect(server) as connection:
        Viewer(connection).key(0xFFE3, True)
        assert eventually(lambda: bool(typed))

    assert eventually(lambda: b"".join(typed) == make("ctrl") + release("ctrl"))


def test_several_look_at_once_and_more_are_turned_away(server: VncServer) -> None:
    connections = [connect(server) for _ in range(MAX_CLIENTS)]
    viewers = [Viewer(connection) for connection in connections]

    with connect(server) as late:
        assert late.recv(1) == b""

    for viewer in viewers:
        viewer.update()
        viewer.socket.close()
    assert eventually(lambda: not server._clients)
    with connect(server) as again:
        Viewer(again)


def test_nobody_is_watched_for_until_somebody_looks(server: VncServer) -> None:
    assert not server.is_watched
    with connect(server) as connection:
        viewer = Viewer(connection)
        viewer.update()
        viewer.ask(incremental=True)
        assert eventually(lambda: server.is_watched)
    assert eventually(lambda: not server.is_watched)


# -- who may look ------------------------------------------------------------------------------------------------


def test_encryption_is_that_of_the_rfc() -> None:
    assert len(encrypted(bytes(16), "password")) == 16
    assert encrypted(bytes(16), "password")[:8] == encrypted(bytes(16), "password-and-more")[8:]
    # NIST SP 500-20, variable key: 0x80 00.. reversed is the key of a password that begins with \x01.
    assert encrypted(bytes(8), "\x01").hex() == "95a8d72813daa94d"


@pytest.fixture
def open_server(typed: list[bytes]) -> Iterator[VncServer]:
    """A server that others than this host could reach."""
    server = VncServer(Address("0.0.0.0", 0), typed.append)
    server.start(lambda: None)
    server.publish(picture(3))
    yield server
    server.close()


@pytest.mark.parametrize("version", ["003.003", "003.007", "003.008"])
def test_others_than_this_host_need_the_password(open_server: VncServer, version: str) -> None:
    assert open_server.password is not None
    with connect(open_server) as connection:
        viewer = Viewer(connection, version, open_server.password)
        viewer.update()

    with connect(open_server) as connection:
        assert Viewer(connection, version, "wrong").result == 1


def test_after_five_wrong_passwords_nobody_is_let_in(open_server: VncServer) -> None:
    assert open_server.password is not None
    for _ in range(5):
        with connect(open_server) as connection:
            assert Viewer(connection, password="wrong").result == 1

    with connect(open_server) as connection:
        assert Viewer(connection, password=open_server.password).result == 1


def test_a_socket_in_the_file_system_is_its_owners_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "vnc"
    server = VncServer(Address.parse(f"unix:{path}"), lambda codes: None)
    server.start(lambda: None)
    server.publish(picture(3))

    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        Viewer(connection).update()
    server.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (":5901", "127.0.0.1:5901"), ("0.0.0.0:0", "0.0.0.0:0"), ("[::1]:5900", "[::1]:5900"),
        ("unix:/run/vnc", "unix:/run/vnc"),
    ],
)  # fmt: skip
def test_addresses_are_written_as_everywhere(text: str, shown: str) -> None:
    assert str(Address.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "5900", "host", "host:", "host:99999", "host:-1", "host:٣", "unix:"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no address for VNC"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "is_private"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_only_loopback_is_private(host: str, is_private: bool) -> None:
    assert Address(host).is_private is is_private


def test_an_address_that_is_taken_is_an_error_of_the_host(server: VncServer) -> None:
    with pytest.raises(HostError, match=r"cannot listen for VNC at 127\.0\.0\.1:\d+: [^(]+$") as raised:
        VncServer(server.address, lambda codes: None)
    assert "--display vnc=ADDRESS:PORT" in raised.value.hint


# -- hostile viewers ----------------------------------------------------------------------------------------------

ENCODINGS = struct.pack(">BxH", 2, 0xFFFF)
CUT_TEXT = struct.pack(">BxxxI", 6, 0xFFFFFFFF)


@pytest.mark.parametrize(
    "said",
    [
        b"\xff", b"\x01", ENCODINGS, CUT_TEXT, struct.pack(">BxxxI", 6, (1 << 20) + 1),
        bytes(4) + struct.pack(">BBBBHHHBBB3x", 24, 24, 0, 1, 255, 255, 255, 16, 8, 0),
        bytes(4) + struct.pack(">BBBBHHHBBB3x", 8, 8, 0, 0, 0, 0, 0, 0, 0, 0),
        bytes(4) + struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 255, 8, 0),
        bytes(4) + struct.pack(">BBBBHHHBBB3x", 8, 8, 0, 1, 65535, 255, 255, 0, 0, 0),
    ],
)  # fmt: skip
def test_who_says_what_must_not_be_said_is_hung_up_on(server: VncServer, said: bytes) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)

        connection.sendall(said)

        with pytest.raises((EOFError, ConnectionError)):
            viewer.read(1)
    assert eventually(lambda: not server._clients)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([0, 2, 3, 4, 5, 6]), max_size=5), st.binary(max_size=200), st.booleans())
def test_whatever_comes_the_server_goes_on(
    server: VncServer, kinds: list[int], noise: bytes, is_greeted: bool
) -> None:
    with connect(server) as connection:
        if is_greeted:
            Viewer(connection)
        connection.sendall(b"".join(bytes((kind,)) + noise for kind in kinds) + noise)

    assert eventually(lambda: not server._clients)
    with connect(server) as connection:
        Viewer(connection).update()


def test_key_presses_without_end_are_not_kept_by_the_server(server: VncServer, typed: list[bytes]) -> None:
    with connect(server) as connection:
        viewer = Viewer(connection)
        connection.sendall(struct.pack(">BBxxI", 4, 1, 0xFFFFFF) * 10_000)
        viewer.key(ord("a"), True)

        assert eventually(lambda: typed == [make("a")])


def test_colours_that_overlap_stay_within_their_pixels() -> None:
    for bits, most, shift in ((8, 255, 0), (16, 255, 8), (32, 255, 24)):
        pixels = PixelFormat(PixelFormat.STRUCT.pack(bits, 24, 0, 1, most, most, most, shift, shift, shift))

        assert pixels.convert(b"\xff\xff\xff\0") == (most << shift).to_bytes(bits // 8, "little")


def test_formats_that_are_none_raise() -> None:
    with pytest.raises(ProtocolError):
        PixelFormat(bytes(16))
    assert PixelFormat(NATIVE).convert(b"abcd") == b"abcd"


# -- what changed ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_pixel_that_differs_is_in_one_area_and_no_area_is_outside(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 80))
    before = PixelScreen(width, height, bytes(4 * width * height))
    places = data.draw(st.lists(st.integers(0, width * height - 1), max_size=10))
    pixels = bytearray(before.pixels)
    for place in places:
        pixels[4 * place] = 1

    areas = changed_areas(before, PixelScreen(width, height, bytes(pixels)))

    for place in places:
        x, y = place % width, place // width
        assert sum(_holds(area, x, y) for area in areas) == 1
    assert all(area.x + area.width <= width and area.y + area.height <= height for area in areas)
    assert bool(areas) == bool(places)


def _holds(area: Area, x: int, y: int) -> bool:
    return area.x <= x < area.x + area.width and area.y <= y < area.y + area.height


# -- a viewer that nobody here wrote --------------------------------------------------------------------------------


def test_gtk_vnc_sees_every_pixel(tmp_path: Path, typed: list[bytes]) -> None:
    shot = tmp_path / "shot.png"
    path = tmp_path / "home"
    path.mkdir()
    server = next(each for each in map(_server_at, range(5917, 5990)) if each is not None)
    server.start(lambda: None)
    server.publish(picture(3, 128, 96))

    display = f"127.0.0.1:{server.address.port - 5900}"
    environ = {**os.environ, "HOME": str(path)}
    subprocess.run(["gvnccapture", "-q", display, str(shot)], env=environ, check=True, timeout=60)

    server.close()
    assert pixels_of(shot.read_bytes()) == (128, 96, picture(3, 128, 96).rgb())


def _server_at(port: int) -> VncServer | None:
    try:
        return VncServer(Address(port=port), lambda codes: None)
    except HostError:
        return None


def pixels_of(data: bytes) -> tuple[int, int, bytes]:
    """Return width, height and the colours of a PNG file (ISO/IEC 15948), of 8 bits each, not interlaced."""
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        at += 12 + size
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", body[:10])
        elif kind == b"IDAT":
            packed += body
    step = {2: 3, 6: 4}[colour]
    raw, stride = zlib.decompress(packed), width * step
    above, rows = bytes(stride), []
    for start in range(0, len(raw), stride + 1):
        above = _unfiltered(raw[start], raw[start + 1 : start + 1 + stride], above, step)
        rows.append(b"".join(above[x : x + 3] for x in range(0, stride, step)))
    return width, height, b"".join(rows)


def _unfiltered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    out = bytearray(row)
    for x in range(len(row)):
        a, b = (out[x - step] if x >= step else 0), above[x]
        c = above[x - step] if x >= step else 0
        paeth = min((a, b, c), key=lambda each: abs(a + b - c - each))
        out[x] = out[x] + (0, a, b, (a + b) // 2, paeth)[kind] & 0xFF
    return bytes(out)
