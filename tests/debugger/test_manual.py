"""docs/debugger.md against the tables of keys and commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from revirt.debugger import TABLE
from revirt.debugger.commands import Command
from revirt.debugger.screen.keys import KEYS, Key

LINES = (Path(__file__).parents[2] / "docs" / "debugger.md").read_text().splitlines()


@pytest.mark.parametrize("command", TABLE.commands, ids=lambda each: each.name)
def test_every_command_is_described_with_its_other_names(command: Command) -> None:
    also = ", ".join(f"`{each}`" for each in command.aliases)

    assert f"| `{command.title}` | {also} | {command.summary} |" in LINES


@pytest.mark.parametrize("key", KEYS, ids=lambda each: each.key)
def test_every_key_is_described(key: Key) -> None:
    assert f"| `{key.label}` | {key.summary} |" in LINES


def test_nothing_is_described_that_is_not_there() -> None:
    rows = [line for line in LINES if line.startswith("| `")]

    assert len(rows) == len(TABLE.commands) + len(KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda each: each.key)
def test_every_key_runs_a_command_that_there_is(key: Key) -> None:
    name = (key.command or key.begins or "").split()

    assert not name or TABLE.find(name[0])
