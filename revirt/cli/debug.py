"""``revirt debug``: look at a recording on a full screen, or line by line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TextIO

from revirt.cli.opening import opened
from revirt.debugger import TABLE, QuitError, Session
from revirt.debugger.commands import LONGEST
from revirt.debugger.plain import LineByLine, prompted
from revirt.errors import UsageError
from revirt.recording import resolve
from revirt.render import Format, is_terminal
from revirt.timeline import seek_point


def run(arguments: argparse.Namespace) -> int:
    """Let somebody, or a script, look at a recording."""
    is_screen = not arguments.plain and arguments.screenshot is None
    if is_screen and not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise UsageError("the debugger's screen wants a terminal", hint="--plain reads commands line by line")
    if arguments.size is not None and arguments.screenshot is None:
        raise UsageError("--size is that of a --screenshot")
    if arguments.form is not Format.TABLE and not arguments.plain:
        raise UsageError(f"--{arguments.form.value} is for --plain")
    path = resolve(arguments.recording)
    session = opened(path, lambda recording: Session(recording, arguments.symbols))
    if arguments.at is not None:
        seek_point(session.timeline, arguments.at)
    return _run_plain(session, arguments) if arguments.plain else _show(session, arguments)


def _run_plain(session: Session, arguments: argparse.Namespace) -> int:
    """Run the commands that were given, or else those that come from standard input."""
    has_person = not arguments.commands and arguments.form is Format.TABLE and is_terminal(sys.stdin)
    if arguments.commands:
        lines = _given(arguments)
    else:
        lines = prompted(sys.stdin, sys.stdout) if has_person else _lines(sys.stdin)
    interpreter = LineByLine(session, sys.stderr, goes_on=has_person)
    interpreter.run(lines, arguments.form, sys.stdout)
    return interpreter.status


def _show(session: Session, arguments: argparse.Namespace) -> int:
    """Run the commands that were given, then draw the screen."""
    answer = ""
    try:
        for line in _given(arguments):
            answer = TABLE.run(session, line) or answer
    except QuitError:
        return 0
    # Imported here: textual takes longer than all else that --plain does.
    from revirt.debugger.screen import run_screen, take_screenshot

    said = "  ".join(answer.splitlines())
    if arguments.screenshot is not None:
        take_screenshot(session, arguments.screenshot, arguments.size or (80, 24), said)
        return 0
    return run_screen(session, said)


def _given(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the commands of -e and -x, in the order in which these stand."""
    for text, path in arguments.commands:
        if path is None:
            yield text
        else:
            with path.open(errors="replace") as file:
                yield from _lines(file)


def _lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of *file*, one that is too long for a command in pieces that are."""
    return iter(lambda: file.readline(LONGEST + 1), "")
