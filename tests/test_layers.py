"""Imports point down: the map that design has of the source, held by walking the syntax trees."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "revirt"

ROWS = (
    ("cli",),
    ("gdb", "debugger", "fork", "diff"),
    ("timeline",),
    ("index",),
    ("monitor", "replay"),
    ("recording",),
    ("checkpoint", "seal", "screen"),
    ("machine", "log"),
    ("core", "image", "packets"),
    ("errors", "render"),
    ("position",),
)
"""From what people touch down to what imports nothing; names in one row do not import each other."""

LEVELS = {name: level for level, row in enumerate(reversed(ROWS)) for name in row}
SOURCES = sorted(PACKAGE.rglob("*.py"))
INPUTS, EVENTS = "revirt.machine.inputs", "revirt.log.events"


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full names of modules and names that *path* imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    """Return which part of revirt the file *path* belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return

    parts = {name.split(".")[1] for name in imports_of(path) if name.startswith("revirt.")} - {"__version__"}

    wrong = {each for each in parts - {part} if LEVELS[each] >= LEVELS[part]}
    assert not wrong, f"{named(path)} imports {', '.join(sorted(wrong))}"


def test_every_part_has_its_place_in_the_map() -> None:
    parts = {part_of(path) for path in SOURCES}

    assert parts - {"__init__", "__main__"} == set(LEVELS)


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    there = {path.parent.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("__init__.py")}

    named = {name.replace(".", "/") for name in settings["tool"]["setuptools"]["packages"]}
    assert named - {"revirt/guests"} == there  # the guests lie at the top of the tree


def test_importing_the_package_loads_errors_and_positions_only() -> None:
    parts = {name.split(".")[1] for name in imports_of(PACKAGE / "__init__.py") if name.startswith("revirt.")}

    assert parts <= {"errors", "position"}


def test_only_the_core_package_touches_unicorn_and_the_extension() -> None:
    outside = [path for path in SOURCES if part_of(path) != "core"]

    wrong = {
        named(path): name
        for path in outside
        for name in imports_of(path)
        if name.split(".")[0] == "unicorn" or name.startswith("revirt.core._core")
    }

    assert not wrong


def test_inputs_and_events_meet_in_recorder_and_replayer_only() -> None:
    meeting = {
        named(path)
        for path in SOURCES
        if {INPUTS, EVENTS} <= {name.rpartition(".")[0] for name in imports_of(path)}
    }

    assert meeting == {"monitor/recorder.py", "replay/replayer.py"}
