"""docs/cli.md against the parser: every example parses, every option is described."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from revirt.cli.parser import make_parser
from revirt.log.events import Kind
from revirt.monitor.script import Script

DOC = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
EXAMPLES = re.findall(r"^    (?:[^\n]*\| )?revirt ([^\n]*)$", DOC, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_parses(example: str) -> None:
    words = shlex.split(example.split(" > ")[0])

    assert make_parser().parse_args(words).function


def options(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found |= options(child)
        else:
            found |= {option for option in action.option_strings if option.startswith("--")}
    return found


@pytest.mark.parametrize("option", sorted(options(make_parser()) - {"--force", "--quiet", "--version"}))
def test_every_option_is_described(option: str) -> None:
    assert re.search(rf"{option}\b", DOC)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_event_is_described(kind: Kind) -> None:
    assert f"`{kind.label}`" in DOC


def test_the_example_script_is_one() -> None:
    (block,) = re.findall(r"(    # comment.*?)\n\n", DOC, re.DOTALL)

    assert len(Script.parse(block).commands) == 5
