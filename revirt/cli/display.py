"""``--display``: who looks at a live machine's screen, and types on its keyboard."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from revirt.errors import UsageError
from revirt.monitor.display import Display, Viewer
from revirt.monitor.plugs import Plugs
from revirt.monitor.screen_console import ScreenConsole
from revirt.monitor.sources import KeySource
from revirt.monitor.vnc import Address, VncServer
from revirt.render import Format, is_terminal, printable


@dataclass(frozen=True, slots=True)
class Desk:
    """A machine's keyboard and screen, with *console* if somebody sits there at a terminal.

    Implements `revirt.monitor.script.Hands`.
    """

    keys: KeySource
    display: Display
    console: ScreenConsole | None

    def press(self, scancodes: bytes) -> None:
        """Press keys."""
        self.keys.press(scancodes)

    def text(self) -> str:
        """Return what stands on the screen."""
        return self.display.text()

    def plug(self, plugs: Plugs) -> Plugs:
        """Return *plugs* with this keyboard and screen."""
        return replace(plugs, keys=self.keys, display=self.display)


@contextmanager
def desk_of(arguments: argparse.Namespace, name: str, *, has_screen: bool) -> Iterator[Desk | None]:
    """Give the desk of the machine called *name*, None if it has no screen; servers end with the ``with`` block.

    Raises UsageError for a --display that cannot be, HostError if an address cannot be listened at.
    """
    if not has_screen:
        if arguments.display:
            raise UsageError("there is no screen to display", hint="give the machine one: --vga")
        yield None
        return
    keys = KeySource()
    console: ScreenConsole | None = None
    viewers: list[Viewer] = []
    with ExitStack() as stack:
        for text in arguments.display:
            what, equals, where = text.partition("=")
            if text == "terminal":
                console = _console(arguments, keys)
                viewers.append(console)
            elif what == "vnc":
                server = VncServer(Address.parse(where) if equals else Address(), keys.press, name)
                stack.callback(server.close)
                viewers.append(server)
                _announce(server)
            else:
                raise UsageError(
                    f"--display {text!r}: no such display", hint="write terminal, vnc or vnc=ADDRESS:PORT"
                )
        yield Desk(keys, Display(viewers), console)


def _console(arguments: argparse.Namespace, keys: KeySource) -> ScreenConsole:
    if arguments.script is not None or arguments.stdin or arguments.batch:
        raise UsageError(
            "--display terminal is for a person, who types, too", hint="--display vnc goes beside a script"
        )
    if arguments.form is not Format.TABLE or not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise UsageError("--display terminal wants a terminal", hint="--display vnc goes without")
    return ScreenConsole(sys.stdout.buffer, sys.stdin.fileno(), keys.press)


def _announce(server: VncServer) -> None:
    password = f", password {server.password}" if server.password is not None else ""
    print(f"revirt: VNC at {printable(str(server.address))}{password}", file=sys.stderr)
