"""``revirt screen``: what stood on the machine's screen at a position."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any

from revirt.cli.opening import opened
from revirt.cli.outputs import write_new
from revirt.errors import UsageError
from revirt.position import Position
from revirt.recording import resolve
from revirt.render import Format, emit_record, has_colour
from revirt.screen import PixelScreen, Screen, TextScreen, draw, in_colour, png, screen_of
from revirt.timeline import Timeline, seek_point


def run(arguments: argparse.Namespace) -> int:
    """Print the screen, or write it to a file as a picture."""
    timeline = opened(resolve(arguments.recording), Timeline)
    seek_point(timeline, arguments.at)
    screen = screen_of(timeline.machine)
    if screen is None:
        raise UsageError(
            f"the machine of {timeline.recording.path.name} has no screen",
            hint="a machine that is recorded with --vga or --framebuffer has one; see also 'revirt console'",
        )
    note = screen.note if isinstance(screen, PixelScreen) else ""
    if note:
        print(f"the screen is black: {note}", file=sys.stderr)
    if arguments.output is not None:
        write_new(arguments.output, png(draw(screen)))
    if arguments.form is not Format.TABLE:
        emit_record(screen_fields(timeline.position, screen), arguments.form, sys.stdout)
    elif arguments.output is None:
        _print(screen)
    return 0


def screen_fields(position: Position, screen: Screen) -> dict[str, Any]:
    """Return *screen*, as it is at *position*, as the fields that ``--json`` prints."""
    if isinstance(screen, PixelScreen):
        return {"position": position, "kind": "pixels", "width": screen.width, "height": screen.height}
    cursor = screen.cursor
    return {
        "position": position,
        "kind": "text",
        "columns": screen.columns,
        "lines": screen.lines,
        "cursor": {"column": cursor.column, "line": cursor.line} if cursor is not None else None,
        "text": [screen.line(number).rstrip() for number in range(screen.lines)],
        "attributes": [_attributes(screen, number) for number in range(screen.lines)],
    }


def _attributes(screen: TextScreen, line: int) -> bytes:
    start = 2 * screen.columns * line
    return screen.cells[start + 1 : start + 2 * screen.columns : 2]


def _print(screen: Screen) -> None:
    if has_colour(sys.stdout):
        # Imported here: pictures and JSON do without it.
        from rich.console import Console

        size = shutil.get_terminal_size()
        Console(file=sys.stdout, width=size.columns).print(in_colour(screen, size.columns, size.lines - 1))
        return
    if isinstance(screen, PixelScreen):
        raise UsageError(
            f"the screen has {screen.width}x{screen.height} pixels, and no text",
            hint="write it to a file with -o shot.png",
        )
    sys.stdout.write(screen.text())
