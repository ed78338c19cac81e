"""The debugger line by line: commands in, plain text out, for scripts and for whoever has the screen read to them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TextIO

from revirt.debugger.session import Session
from revirt.debugger.table import TABLE, QuitError
from revirt.errors import RevirtError
from revirt.position import Position
from revirt.render import Column, Format, emit, printable

PROMPT = "(revirt) "
_COLUMNS = tuple(Column(name, name) for name in ("command", "answer", "position"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a *command* answered, and where the guest stands behind it."""

    command: str
    answer: str
    position: Position


class LineByLine:
    """Runs commands on *session*, and says on *err* what goes wrong.

    That is the end, with the exit ``status`` of the error, and so is Ctrl-C; unless it *goes_on*: a person sees what
    went wrong, and Ctrl-C ends the command that runs.
    """

    def __init__(self, session: Session, err: TextIO, *, goes_on: bool) -> None:
        self._session = session
        self._err = err
        self._goes_on = goes_on
        self.status = 0

    def run(self, lines: Iterable[str], form: Format, out: TextIO) -> None:
        """Run the command *lines*; write each answer to *out* before the next line is read."""
        answers = self._flushed(lines, out)
        if form is not Format.TABLE:
            emit(answers, _COLUMNS, form, out)
            return
        for each in answers:
            if each.answer:
                print(each.answer, file=out)

    def _flushed(self, lines: Iterable[str], out: TextIO) -> Iterator[Answer]:
        for each in self._answers(lines):
            yield each
            out.flush()

    def _answers(self, lines: Iterable[str]) -> Iterator[Answer]:
        with ThreadPoolExecutor(1) as executor:
            for line in lines:
                try:
                    with _interruptible(self._session) as is_interrupted:
                        answer = executor.submit(TABLE.run, self._session, line).result()
                except QuitError:
                    return
                except RevirtError as error:
                    origin = "" if self._goes_on else f"{printable(line.strip()[:100])}: "
                    print(f"{origin}{error_text(error)}", file=self._err, flush=True)
                    if not self._goes_on:
                        self.status = error.exit_status
                        return
                    continue
                if is_interrupted.is_set() and not self._goes_on:
                    # What it came to is not what the next command is meant for.
                    raise KeyboardInterrupt
                yield Answer(line.strip(), answer, self._session.position)


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
def _interruptible(session: Session) -> Iterator[threading.Event]:
    """Let Ctrl-C end what *session* does in the block; yield what is set then."""
    is_interrupted = threading.Event()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        is_interrupted.set()
        session.interrupt()

    saved = signal.signal(signal.SIGINT, interrupt)
    try:
        yield is_interrupted
    finally:
        signal.signal(signal.SIGINT, saved)
