r"""Console scripts: what to wait for and what to type, without a person.

    # comment; blank lines are fine
    timeout 20              seconds that each line below may take (60 unless told)
    expect "login: "        wait until the guest has sent this, after what the last expect matched
    send "root\n"           type this
    type "root\n"           type this on the keyboard
    press ctrl-alt-delete   press these keys of it together
    expect-screen "login:"  wait until this stands in a line of the machine's screen
    quit                    end the run here

Texts stand in double quotes and take C's escapes: \n \r \t \a \b \f \v \e \0 \\ \" \' \? \ooo, and \x with
exactly two digits (so that text may follow).  They are UTF-8.

How a script ends:
- ``quit`` ends the run there and then.
- After an ``expect`` or ``expect-screen`` in the last line the guest may finish what it is doing: the run
  ends when the guest ends by itself or goes idle, or is still busy a second later.
- After a ``send``, ``type`` or ``press`` in the last line the guest has to end by itself, within the time-out.

Rules:
- A script only reacts: what it types, and when, depends on nothing but what the guest has sent.  The moment
  an ``expect`` matches, the ``send`` lines after it are pending: with a virtual clock two runs are the same.
- Whatever takes longer than the time-out is a ScriptError naming the line.  Time-outs count the host's
  seconds: they fail a run, they never shape one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from revirt.errors import GuestError, ScriptError
from revirt.monitor.console import NullConsole
from revirt.monitor.keyboard import chord, typed
from revirt.render import escape

DEFAULT_TIMEOUT_S = 60.0
ESCAPES_HINT = "a backslash is written \\\\, a byte \\xNN"
_PIECE_SIZE = 64 << 10
"""Most bytes that are typed at once: far less than the UART's backlog holds."""

_GRACE_S = 1.0
_LONGEST_TIMEOUT_S = 7 * 86400.0
_LARGEST_SCRIPT = 16 << 20
_RECENT_SIZE = 1024  # output kept to tell, after a time-out, what the guest said last
_SHOWN_SIZE = 120

# Possessive, so that no line takes more than linear time.
_LINE = re.compile(r"\s*+(?P<word>[^\s\"#]++)\s*+(?P<argument>\"(?:[^\"\\]|\\.)*+\"|[^\s\"#]++)?\s*+(?:#.*)?")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_SIMPLE = {
    "a": b"\a",
    "b": b"\b",
    "e": b"\x1b",
    "f": b"\f",
    "n": b"\n",
    "r": b"\r",
    "t": b"\t",
    "v": b"\v",
    "\\": b"\\",
    '"': b'"',
    "'": b"'",
    "?": b"?",
}


@dataclass(frozen=True, slots=True)
class Expect:
    """Wait until the guest has sent *text*."""

    line: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Type *text*."""

    line: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Press:
    """Press keys: the keyboard sends *scancodes*."""

    line: int
    scancodes: bytes


@dataclass(frozen=True, slots=True)
class ExpectScreen:
    """Wait until *text* stands in a line of the screen."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Timeout:
    """Allow *seconds* for each line from here on."""

    line: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Quit:
    """End the run."""

    line: int


Command = Expect | Send | Press | ExpectScreen | Timeout | Quit


class Hands(Protocol):
    """Who sits before the machine: presses its keys, and reads its screen."""

    def press(self, scancodes: bytes) -> None:
        """Let the keyboard send *scancodes* of set 2."""
        ...

    def text(self) -> str:
        """Return what stands on the screen, line by line."""
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed script; *path* is what errors call it."""

    path: str
    commands: tuple[Command, ...]

    @classmethod
    def load(cls, path: Path) -> Script:
        """Read the script in the file *path*.

        Raises GuestError if it cannot be read and ScriptError if it is malformed.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_LARGEST_SCRIPT + 1)
        except OSError as error:
            raise GuestError(f"{path}: cannot read the script: {error.strerror or error}") from error
        if len(data) > _LARGEST_SCRIPT:
            raise GuestError(f"{path}: larger than {_LARGEST_SCRIPT >> 20} MiB", hint="is this a script?")
        try:
            return cls.parse(data.decode(), str(path))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            hint = "write other bytes as \\xNN"
            raise ScriptError("not UTF-8", path=str(path), line=line, hint=hint) from error

    @classmethod
    def parse(cls, text: str, path: str = "<script>") -> Script:
        """Return the script written in *text*; raises ScriptError naming *path* and the line."""
        commands: list[Command] = []
        # Not splitlines(): a form feed or U+2028 inside a text does not end a line for any editor.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                if commands and isinstance(commands[-1], Quit):
                    raise ScriptError("nothing can follow quit", path=path, line=number)
                commands.append(_command(line, number, path))
        if all(isinstance(command, Timeout) for command in commands):
            hint = 'it wants lines such as expect "text"'
            raise ScriptError("the script does nothing", path=path, line=1, hint=hint)
        return cls(path, tuple(commands))

    @property
    def first_of_hands(self) -> int | None:
        """The first line that needs a keyboard or a screen, None if there is none."""
        needed = (each.line for each in self.commands if isinstance(each, Press | ExpectScreen))
        return next(needed, None)


class ScriptedConsole(NullConsole):
    """Runs *script*; what the guest sends goes to *output*, or nowhere, keys are pressed by *hands*.

    Time-outs count from the creation of the console, then from the last line done, in seconds by *now*.  Raises
    ScriptError for a script that needs hands and has none.
    """

    def __init__(
        self,
        script: Script,
        output: BinaryIO | None = None,
        *,
        hands: Hands | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if hands is None and (line := script.first_of_hands) is not None:
            raise ScriptError(
                "the machine has no screen and keyboard", path=script.path, line=line, hint="give it a --vga"
            )
        super().__init__(output)
        self._script = script
        self._hands = hands
        self._now = now
        self._next = 0
        self._unmatched = b""
        self._recent = b""
        self._typed = b""
        self._has_quit = False
        # Whether the guest may end, or not, once the last line is done.
        last = [each for each in script.commands if not isinstance(each, Timeout)][-1]
        self._ends_softly = isinstance(last, Expect | ExpectScreen)
        self._timeout_s = DEFAULT_TIMEOUT_S
        self._progress_s = now()
        self._advance()

    @property
    def pending(self) -> bool:
        self._look()
        return bool(self._typed) or self._is_late

    @property
    def finished(self) -> str | None:
        is_over = self._is_ending and self._now() >= self._progress_s + _GRACE_S
        if is_over or (self._has_quit and not self._typed):
            return "script ended"
        return super().finished

    def transmitted(self, data: bytes) -> None:
        super().transmitted(data)
        self._recent = (self._recent + data)[-_RECENT_SIZE:]
        self._unmatched += data
        self._advance()

    def take(self) -> bytes:
        """Return a piece of what the script has to say now; raises ScriptError if it has waited too long."""
        if self._typed:
            data, self._typed = self._typed[:_PIECE_SIZE], self._typed[_PIECE_SIZE:]
            self._progress_s = self._now()
            return data
        if self._is_late:
            raise self._late()
        return b""

    def wait(self, timeout_s: float | None) -> None:
        self._look()
        if self._is_ending:
            self._has_quit = True
        if self._typed or self.finished is not None:
            return
        left_s = self._progress_s + self._timeout_s - self._now()
        self._waker.sleep(left_s if timeout_s is None else min(timeout_s, left_s))

    @property
    def _is_done(self) -> bool:
        return self._next == len(self._script.commands)

    @property
    def _is_ending(self) -> bool:
        return self._is_done and self._ends_softly

    @property
    def _is_late(self) -> bool:
        is_waiting = not self._has_quit and not self._is_ending
        return is_waiting and self._now() >= self._progress_s + self._timeout_s

    def _advance(self) -> None:
        """Do every line that can be done with what the guest has sent so far."""
        commands = self._script.commands
        while self._next < len(commands):
            match commands[self._next]:
                case Expect(text=text):
                    if not self._match(text):
                        return
                    self._progress_s = self._now()
                case ExpectScreen(text=wanted):
                    assert self._hands is not None
                    if not any(wanted in line for line in self._hands.text().splitlines()):
                        return
                    self._progress_s = self._now()
                case Send(text=text):
                    self._typed += text
                case Press(scancodes=scancodes):
                    assert self._hands is not None
                    self._hands.press(scancodes)
                case Timeout(seconds=seconds):
                    self._timeout_s = seconds
                case Quit():
                    self._has_quit = True
            self._next += 1
        self._unmatched = b""

    def _look(self) -> None:
        """Go on if what is waited for stands on the screen."""
        if not self._is_done and isinstance(self._script.commands[self._next], ExpectScreen):
            self._advance()

    def _match(self, text: bytes) -> bool:
        before, found, after = self._unmatched.partition(text)
        # Without a match keep only what may be the beginning of one.
        self._unmatched = after if found else before[max(0, len(before) - len(text) + 1) :]
        return bool(found)

    def _late(self) -> ScriptError:
        said = [line.strip() for line in self._recent.splitlines() if line.strip()]
        hint = "the guest has said nothing"
        if said:
            hint = f'the guest said last: "{escape(said[-1][-_SHOWN_SIZE:])}"'
        seconds = f"{self._timeout_s:g} s"
        if not self._is_done:
            waiting = self._script.commands[self._next]
            assert isinstance(waiting, Expect | ExpectScreen)
            if isinstance(waiting, ExpectScreen):
                assert self._hands is not None
                shown = [each.rstrip() for each in self._hands.text().splitlines() if each.strip()]
                hint = f'the screen\'s last line: "{shown[-1]}"' if shown else "the screen is empty"
                problem = f'timed out: "{waiting.text}" did not stand on the screen within {seconds}'
                return ScriptError(problem, path=self._script.path, line=waiting.line, hint=hint)
            problem = f'timed out: "{escape(waiting.text)}" did not come within {seconds}'
            return ScriptError(problem, path=self._script.path, line=waiting.line, hint=hint)
        problem = f"the guest runs on {seconds} after the last line"
        hint += "; end the script with quit, or with an expect"
        return ScriptError(problem, path=self._script.path, line=self._script.commands[-1].line, hint=hint)


def _command(line: str, number: int, path: str) -> Command:
    match = _LINE.fullmatch(line)
    if match is None:
        hint = 'write as expect "TEXT", send "TEXT", press KEYS, timeout SECONDS or quit'
        raise ScriptError("malformed line", path=path, line=number, hint=hint)
    word, argument = match["word"], match["argument"]
    match word:
        case "expect":
            return Expect(number, _text(word, argument, number, path))
        case "send":
            return Send(number, _text(word, argument, number, path))
        case "expect-screen":
            return ExpectScreen(number, _characters(word, argument, number, path))
        case "type":
            return _press(number, path, typed, _characters(word, argument, number, path))
        case "press":
            return _press(number, path, chord, argument or "")
        case "timeout":
            return Timeout(number, _seconds(argument, number, path))
        case "quit":
            if argument is not None:
                raise ScriptError("quit takes nothing", path=path, line=number)
            return Quit(number)
    hint = "the commands are expect, send, expect-screen, type, press, timeout and quit"
    raise ScriptError(f"no command is called {word!r}", path=path, line=number, hint=hint)


def _text(word: str, argument: str | None, number: int, path: str) -> bytes:
    if argument is None or not argument.startswith('"'):
        problem = f'{word} wants a text in double quotes, as in {word} "text"'
        raise ScriptError(problem, path=path, line=number)
    try:
        data = unescape(argument[1:-1])
    except ValueError as error:
        raise ScriptError(str(error), path=path, line=number, hint=ESCAPES_HINT) from error
    if not data:
        raise ScriptError(f"{word} wants a text that is not empty", path=path, line=number)
    return data


def _characters(word: str, argument: str | None, number: int, path: str) -> str:
    try:
        return _text(word, argument, number, path).decode()
    except UnicodeDecodeError as error:
        raise ScriptError(f"{word} wants a text in UTF-8", path=path, line=number) from error


def _press(number: int, path: str, codes_of: Callable[[str], bytes], text: str) -> Press:
    try:
        return Press(number, codes_of(text))
    except ValueError as error:
        raise ScriptError(str(error), path=path, line=number) from error


def unescape(text: str) -> bytes:
    """Return the bytes that *text* stands for, with a script's escapes; raises ValueError for another escape."""
    data = bytearray()
    end = 0
    for match in _ESCAPE.finditer(text):
        data += text[end : match.start()].encode()
        data += _unescape(match)
        end = match.end()
    data += text[end:].encode()
    return bytes(data)


def _unescape(match: re.Match[str]) -> bytes:
    octal, digits, char = match.groups()
    if char is not None:
        if char not in _SIMPLE:
            raise ValueError(f"unknown escape \\{char}")
        return _SIMPLE[char]
    value = int(octal, 8) if octal is not None else int(digits, 16)
    if value > 0xFF:
        raise ValueError(f"\\{octal} is more than a byte")
    return bytes([value])


def _seconds(argument: str | None, number: int, path: str) -> float:
    try:
        seconds = float(argument or "")
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT_S:
        raise ScriptError("timeout wants a number of seconds, as in timeout 20", path=path, line=number)
    return seconds
