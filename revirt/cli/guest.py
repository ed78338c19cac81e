"""``revirt guest``: the guests there are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from revirt.image import Guest, find, guests
from revirt.image.build import build as build_guest
from revirt.render import Column, emit, emit_record, fields, size


@dataclass(frozen=True, slots=True)
class GuestRow:
    """A guest that can be recorded by name; ``memory`` in bytes."""

    name: str
    summary: str
    memory: int
    built: bool
    clock: str | None
    script: Path | None
    recipe: str | None


_COLUMNS = (
    Column("name", "NAME"),
    Column("memory", "MEMORY", right=True, text=size),
    Column("built", "BUILT", text=lambda built: "yes" if built else "no"),
    Column("summary", "WHAT IT PROVES"),
)


def list_guests(arguments: argparse.Namespace) -> int:
    """Print the bundled guests."""
    emit(guest_rows(guests()), _COLUMNS, arguments.form, sys.stdout)
    return 0


def guest_rows(guests: Iterable[Guest]) -> Iterator[GuestRow]:
    """Yield a row for each of *guests*."""
    for guest in guests:
        yield GuestRow(
            guest.name, guest.summary, guest.memory, guest.is_built, guest.clock, guest.script, guest.recipe
        )


def info(arguments: argparse.Namespace) -> int:
    """Print what is known about one guest, the digests of its files included."""
    guest = find(arguments.guest)
    (row,) = guest_rows([guest])
    details = {
        "format": guest.format,
        "image": guest.file,
        "append": guest.append,
        "digests": guest.digests() if guest.is_built else None,
    }
    emit_record({**fields(row), **details}, arguments.form, sys.stdout)
    return 0


def build(arguments: argparse.Namespace) -> int:
    """Build a guest; print the directory it is in."""
    guest = find(arguments.guest)
    if guest.recipe is None:
        print(f"revirt: {guest.name} is bundled; there is nothing to build", file=sys.stderr)
        return 0
    directory = build_guest(guest, progress=_say, force=arguments.force)
    print(directory)
    return 0


def _say(message: str) -> None:
    print(f"revirt: {message}", file=sys.stderr)
