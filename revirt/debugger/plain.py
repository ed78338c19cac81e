"""The debugger line by line: commands in, plain text out, for scripts and for whoever has the screen read to them."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from revirt.debugger.session import Session
from revirt.debugger.table import TABLE, QuitError
from revirt.errors import RevirtError
from revirt.render import printable

PROMPT = "(revirt) "


def run_lines(session: Session, lines: Iterable[str], out: TextIO, err: TextIO, *, goes_on: bool) -> int:
    """Run the command *lines* and write the answers to *out*; return the exit status.

    What goes wrong is said on *err*, and ends it with the status of that error, unless it *goes_on*: a person sees
    what went wrong.  Ctrl-C ends the command that runs.
    """
    with ThreadPoolExecutor(1) as executor:
        for line in lines:
            try:
                with _interruptible(session):
                    answer = executor.submit(TABLE.run, session, line).result()
            except QuitError:
                return 0
            except RevirtError as error:
                out.flush()
                origin = "" if goes_on else f"{printable(line.strip()[:100])}: "
                print(f"{origin}{error_text(error)}", file=err, flush=True)
                if not goes_on:
                    return error.exit_status
            else:
                if answer:
                    print(answer, file=out, flush=True)
    return 0


def prompted(source: TextIO, out: TextIO) -> Iterator[str]:
    """Yield the lines that a person types, each after a prompt; Ctrl-C discards one."""
    while True:
        print(PROMPT, end="", file=out, flush=True)
        try:
            line = source.readline()
        except KeyboardInterrupt:
            print(file=out)
            continue
        if not line:
            print(file=out)
            return
        yield line


def error_text(error: RevirtError) -> str:
    """Return what went wrong and what to do about it, as a line."""
    hint = f" ({printable(error.hint)})" if error.hint else ""
    return f"{printable(str(error))}{hint}"


@contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """Let Ctrl-C end what *session* does in the block."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        session.interrupt()

    saved = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, saved)
