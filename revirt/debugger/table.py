"""All commands of the debugger."""

from __future__ import annotations

from revirt.debugger import looking, moving, noting
from revirt.debugger.commands import Command, Table, Words, expect
from revirt.debugger.session import Session


class QuitError(Exception):
    """Somebody wants to leave."""


def _quit(_session: Session, words: Words) -> str:
    expect(words, 0, 0, "quit")
    raise QuitError


def _help(_session: Session, words: Words) -> str:
    expect(words, 0, 1, "help [COMMAND]")
    if words:
        command = TABLE.find(words[0])
        also = f"\nalso: {', '.join(command.aliases)}" if command.aliases else ""
        return f"{command.title}\n    {command.summary.replace('`', '')}{also}"
    width = max(len(each.title) for each in TABLE.commands)
    return "\n".join(f"{each.title:<{width}}  {each.summary.replace('`', '')}" for each in TABLE.commands)


def _names(_session: Session, words: Words) -> list[str]:
    return [each.name for each in TABLE.commands if each.name.startswith(words[0])]


TABLE: Table = Table(
    (
        *moving.COMMANDS,
        *looking.COMMANDS,
        *noting.COMMANDS,
        Command("help", "[COMMAND]", "this list, or what a command is for", _help, ("h",), _names),
        Command("quit", "", "leave", _quit, ("q", "exit")),
    )
)
"""What the command line of the screen, ``--plain`` and scripts know."""
