"""The commands of the debugger: one table for the command line of the screen, for scripts and for the documents."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from revirt.debugger.session import Session
from revirt.errors import UsageError
from revirt.position import Edge

LONGEST = 4000
"""Most characters in a command."""
_LONGEST_NUMBER = 18
_MOST_COMPLETIONS = 50

Words = Sequence[str]
Run = Callable[[Session, Words], str]
Complete = Callable[[Session, Words], list[str]]
"""Returns what the last of the words may become, of which at least one is there."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what to type, what it does, and the function that does it and returns an answer."""

    name: str
    usage: str
    summary: str
    run: Run
    aliases: tuple[str, ...] = ()
    complete: Complete | None = None
    moves: bool = False
    """Whether it may leave the guest standing somewhere else."""

    @property
    def title(self) -> str:
        """The command with what follows it."""
        return f"{self.name} {self.usage}".rstrip()


class Table:
    """Commands by their names and other names."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = tuple(commands)
        self._by_name = {name: each for each in self.commands for name in (each.name, *each.aliases)}

    def find(self, name: str) -> Command:
        """Return the command *name*, which may be its beginning if no other begins so; raises UsageError."""
        if name in self._by_name:
            return self._by_name[name]
        begun = {each.name: each for each in self.commands if each.name.startswith(name)}
        if len(begun) == 1:
            return next(iter(begun.values()))
        if begun:
            raise UsageError(f"{name!r} may be {', '.join(begun)}")
        nearest = difflib.get_close_matches(name, self._by_name, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "see 'help'"
        raise UsageError(f"no command is called {name!r}", hint=hint)

    def run(self, session: Session, text: str) -> str:
        """Return the answer to the command line *text*: nothing to an empty one, or to a comment (#).

        Raises UsageError for what is no command, and whatever the command raises.
        """
        if len(text) > LONGEST:
            raise UsageError(f"a command of more than {LONGEST} characters")
        words = text.split()
        if not words or words[0].startswith("#"):
            return ""
        command = self.find(words[0])
        if not command.moves:
            return command.run(session, words[1:])
        with session.moving():
            return command.run(session, words[1:])

    def completions(self, session: Session, text: str) -> list[str]:
        """Return the command lines that *text*, the beginning of one, may become."""
        words = text.split()
        if not words or (len(words) == 1 and not text.endswith(" ")):
            begin = words[0] if words else ""
            return [each.name for each in self.commands if each.name.startswith(begin)]
        try:
            command = self.find(words[0])
        except UsageError:
            return []
        if command.complete is None:
            return []
        given = words[1:] + ([""] if text.endswith(" ") else [])
        head = text[: len(text) - len(given[-1])]
        return [head + each for each in command.complete(session, given)[:_MOST_COMPLETIONS]]


# -- what commands take -------------------------------------------------------------------------------------------


def expect(words: Words, least: int, most: int, usage: str) -> Words:
    """Return *words* if there are *least* to *most*; raises UsageError with the *usage*."""
    if not least <= len(words) <= most:
        raise UsageError(f"write: {usage}")
    return words


def number(text: str, most: int = 10**_LONGEST_NUMBER, least: int = 0) -> int:
    """Return the count that *text* is; raises UsageError for another thing, for more than *most*, less than *least*."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise UsageError(f"{text!r} is not a number")
    if not least <= int(text) <= most:
        raise UsageError(f"{text} is not from {least} to {most}")
    return int(text)


def count_of(words: Words, default: int, usage: str, most: int = 10**_LONGEST_NUMBER) -> int:
    """Return the one count in *words*, from 1 on; *default* if they are none."""
    expect(words, 0, 1, usage)
    return number(words[0], most, least=1) if words else default


# -- completion ---------------------------------------------------------------------------------------------------


def complete_expression(session: Session, words: Words) -> list[str]:
    """Return expressions that begin as the last word: its last name is completed."""
    text = words[-1]
    begin = len(text)
    while begin and (text[begin - 1].isalnum() or text[begin - 1] in "_."):
        begin -= 1
    return [text[:begin] + name for name in _names(session, text[begin:])] if text[begin:] else []


def complete_bookmark(session: Session, words: Words) -> list[str]:
    """Return the names of bookmarks that begin as the first word."""
    names = [each.name for each in session.notes.all]
    return [name for name in names if name.startswith(words[0])] if len(words) == 1 else []


def complete_point(_session: Session, words: Words) -> list[str]:
    """Return names of points of the recording."""
    known = [*Edge, "event:", "checkpoint:", "25%", "50%", "75%"]
    return [str(each) for each in known if str(each).startswith(words[-1])]


def one_of(*choices: str) -> Complete:
    """Return what completes the first word to one of *choices*, and later ones to expressions."""

    def complete(session: Session, words: Words) -> list[str]:
        if len(words) > 1:
            return complete_expression(session, words)
        return [each for each in choices if each.startswith(words[0])]

    return complete


def _names(session: Session, prefix: str) -> Iterator[str]:
    yield from (name for name in session.names() if name.startswith(prefix))
    for place, name in enumerate(session.symbols.beginning_with(prefix)):
        if place == _MOST_COMPLETIONS:
            return
        yield name
