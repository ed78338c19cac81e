"""A live machine's screen, for viewers and for scripts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from library import built
from viewer import RAW, ZRLE, Viewer

from revirt.machine.vga import Vga
from revirt.monitor.console import NullConsole
from revirt.monitor.display import INTERVAL_S, TEXT_BRANCHES, Display
from revirt.monitor.plugs import Plugs
from revirt.monitor.script import Script, ScriptedConsole
from revirt.monitor.session import RecordOptions, record
from revirt.monitor.sources import KeySource
from revirt.monitor.vnc import Address, VncServer
from revirt.recording import Recording
from revirt.replay import replay
from revirt.screen import TextScreen, screen_of
from revirt.timeline import Timeline

WINDOW = 0xB8000
PATIENCE_S = 30.0


@dataclass
class Eye:
    """A viewer that keeps what it is shown."""

    is_watched: bool = True

    def __post_init__(self) -> None:
        self.seen: list[Any] = []

    def start(self, wake: Callable[[], None]) -> None:
        pass

    def publish(self, screen: Any) -> None:
        self.seen.append(screen)

    def close(self) -> None:
        self.is_watched = False


class StillMachine:
    """A machine with a VGA; the test says what its guest does."""

    def __init__(self) -> None:
        self.core = SimpleNamespace(ram=memoryview(bytearray(1 << 20)), branches=0)
        self.clock = SimpleNamespace(now_ns=0)
        self.board = SimpleNamespace(vga=Vga(self.clock))
        self.config = SimpleNamespace(
            memory=1 << 20, devices=SimpleNamespace(display=lambda memory: SimpleNamespace(framebuffer=None))
        )
        self.halted = False

    def show(self, text: str, branches: int = 1000) -> None:
        """Let the guest run, and show *text* in the first line."""
        self.core.branches += branches
        for at, char in enumerate(text.encode()):
            self.core.ram[WINDOW + 2 * at : WINDOW + 2 * at + 2] = bytes((char, 7))


@dataclass
class Host:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def machine() -> StillMachine:
    return StillMachine()


@pytest.fixture
def eye() -> Eye:
    return Eye()


@pytest.fixture
def display(machine: StillMachine, eye: Eye, host: Host) -> Display:
    display = Display([eye], now=host)
    display.attach(machine, lambda: None)
    return display


def test_a_screen_is_shown_to_who_looks(display: Display, machine: StillMachine, eye: Eye) -> None:
    machine.show("hello")

    assert display.take() == ()

    assert [screen.line(0).rstrip() for screen in eye.seen] == ["hello"]


def test_nothing_is_read_while_nobody_looks(display: Display, machine: StillMachine, eye: Eye) -> None:
    eye.is_watched = False
    machine.core = SimpleNamespace()  # whatever is asked of it raises

    assert display.take() == ()


def test_screens_are_not_read_more_often_than_anybody_sees(
    display: Display, machine: StillMachine, eye: Eye, host: Host
) -> None:
    for _ in range(10):
        machine.show("busy")
        display.take()
    assert len(eye.seen) == 1

    host.now_s += INTERVAL_S
    display.take()
    assert len(eye.seen) == 2


def test_what_a_guest_shows_before_it_sleeps_is_looked_at_when_it_is_time(
    machine: StillMachine, eye: Eye, host: Host
) -> None:
    woken = threading.Event()
    display = Display([eye], now=host)
    display.attach(machine, woken.set)
    machine.show("first")
    display.take()
    machine.show("later")
    display.take()

    assert woken.wait(PATIENCE_S)
    host.now_s += INTERVAL_S
    display.take()
    assert eye.seen[-1].line(0).rstrip() == "later"


def test_a_guest_that_stands_still_is_read_once(
    display: Display, machine: StillMachine, eye: Eye, host: Host
) -> None:
    machine.show("still")
    for _ in range(5):
        host.now_s += 1
        display.take()

    assert len({id(screen) for screen in eye.seen}) == 1


def test_the_text_for_scripts_depends_on_the_guest_alone(
    display: Display, machine: StillMachine, host: Host
) -> None:
    machine.show("one")
    assert display.text().startswith("one")

    host.now_s += 100
    machine.show("two", branches=TEXT_BRANCHES - 1)
    assert display.text().startswith("one")
    machine.show("two", branches=1)
    assert display.text().startswith("two")

    machine.show("end", branches=1)
    machine.halted = True
    assert display.text().startswith("end")


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyboard() -> SimpleNamespace:
    return SimpleNamespace(room=4096)


@pytest.fixture
def keys(keyboard: SimpleNamespace) -> KeySource:
    source = KeySource()
    source.attach(SimpleNamespace(board=SimpleNamespace(i8042=keyboard)), lambda: None)
    return source


def test_keys_wait_until_the_guest_listens(keys: KeySource, keyboard: SimpleNamespace) -> None:
    keyboard.room = 0
    keys.press(b"\x1c\xf0\x1c")
    assert keys.take() == ()

    keyboard.room = 2
    (first,) = keys.take()
    keyboard.room = 4096
    (second,) = keys.take()

    assert first.scancodes + second.scancodes == b"\x1c\xf0\x1c"
    assert keys.take() == ()


def test_keys_that_nobody_takes_are_bounded_and_never_cut(keys: KeySource) -> None:
    for _ in range(10_000):
        keys.press(b"\x1c\xf0\x1c")

    taken = b"".join(arrival.scancodes for _ in range(1000) for arrival in keys.take())

    assert taken == b"\x1c\xf0\x1c" * (len(taken) // 3)
    assert 1000 < len(taken) <= 16 << 10


# -- scripts -----------------------------------------------------------------------------------------------------------


class Hands:
    """Somebody who presses keys and sees what the test shows."""

    def __init__(self) -> None:
        self.pressed = b""
        self.shown = ""

    def press(self, scancodes: bytes) -> None:
        self.pressed += scancodes

    def text(self) -> str:
        return self.shown


def test_a_script_waits_for_the_screen_and_types() -> None:
    hands = Hands()
    script = Script.parse('expect-screen "login:"\ntype "ab"\npress ctrl-c\nexpect "x"')
    with ScriptedConsole(script, hands=hands) as console:
        assert not console.pending
        assert hands.pressed == b""

        hands.shown = "Debian\n\nlogin: \n"
        assert not console.pending

        assert hands.pressed.hex() == "1cf01c" + "32f032" + "1421f021f014"
        console.transmitted(b"x")
        assert console.take() == b""


def test_a_script_that_waits_in_vain_says_what_stands_on_the_screen() -> None:
    hands = Hands()
    hands.shown = "one\nKernel panic\n\n"
    now = Host()
    with ScriptedConsole(Script.parse('expect-screen "login"'), hands=hands, now=now) as console:
        now.now_s += 61

        with pytest.raises(Exception, match='"login" did not stand on the screen within 60 s') as caught:
            console.take()

    assert 'the screen\'s last line: "Kernel panic"' in caught.value.hint


def test_a_script_that_wants_a_keyboard_is_refused_where_there_is_none() -> None:
    with pytest.raises(Exception, match="no screen and keyboard") as caught:
        ScriptedConsole(Script.parse('expect "a"\ntype "b"'))

    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('type "für"', "a US keyboard has no 'ü'"),
        ("press nope", "no key is called 'nope'"), ("press", "is not up to 8"),
        ("type x", "wants a text in double quotes"), ('expect-screen "\\xff"', "wants a text in UTF-8"),
    ],
)  # fmt: skip
def test_what_cannot_be_typed_is_said_with_its_line(line: str, said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        Script.parse(f'expect "a"\n{line}')

    assert caught.value.line == 2


# -- a kernel that nobody here wrote ------------------------------------------------------------------------------

CONSOLE_ON_SCREEN = "console=ttyS0 console=tty0"


@pytest.mark.debian
def test_somebody_types_in_debian_by_vnc_and_the_replay_shows_the_same(tmp_path: Path) -> None:
    guest = replace(built("debian"), append=CONSOLE_ON_SCREEN)
    keys = KeySource()
    server = VncServer(Address(path=tmp_path / "vnc"), keys.press, "debian")
    plugs = Plugs(vga=True, keys=keys, display=Display([server]))
    stops: list[Callable[[str], None]] = []

    def look() -> None:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(tmp_path / "vnc"))
                viewer = Viewer(connection)
                viewer.want(ZRLE, RAW)
                _look_for(viewer, server, "\n#\n")
                for char in "echo $((6*7))\r":
                    viewer.key(0xFF0D if char == "\r" else ord(char), True)
                    viewer.key(0xFF0D if char == "\r" else ord(char), False)
                _look_for(viewer, server, "\n42\n")
                pictures.append(viewer)
        finally:
            stops[0]("seen")

    pictures: list[Viewer] = []
    watcher = threading.Thread(target=look)
    watcher.start()
    path = tmp_path / "debian"
    with NullConsole() as console:
        record(guest, console, RecordOptions(clock="host", plugs=plugs), path, on_start=stops.append)
    watcher.join()
    server.close()

    recording = Recording.open(path)
    assert replay(recording).exact
    timeline = Timeline(recording)
    timeline.seek_end()
    screen = screen_of(timeline.machine)
    assert isinstance(screen, TextScreen)
    assert "\n42\n" in screen.text()
    (viewer,) = pictures
    assert (viewer.width, viewer.height) == (720, 400)
    assert b"\xaa\xaa\xaa" in viewer.picture.values()


def _look_for(viewer: Viewer, server: VncServer, text: str) -> None:
    """Let *viewer* ask for pictures until *text* stands in one."""
    end = time.monotonic() + 120
    while text not in (shown := server._screen.text() if isinstance(server._screen, TextScreen) else ""):
        assert time.monotonic() < end, shown
        viewer.update()
        time.sleep(1)
