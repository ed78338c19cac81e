"""``revirt diff``: where two recordings part."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from revirt.cli.points import point_of
from revirt.cli.rows import event_rows
from revirt.cli.signals import UnwindingStop
from revirt.diff import Comparison, Parting, Seen, diff
from revirt.errors import DivergenceError
from revirt.recording import Recording, resolve
from revirt.render import Column, Format, emit, emit_record, fields, grouped, progress, styled

_EVENTS = (
    Column("what", ""),
    Column("recording", "RECORDING"),
    Column("ordinal", "#", right=True),
    Column("kind", "KIND"),
    Column("place", "BRANCHES", right=True),
    Column("payload", "PAYLOAD"),
)

_VALUES = (Column("what", ""), Column("recording", "RECORDING"), Column("value", "VALUE"))


def run(arguments: argparse.Namespace) -> int:
    """Compare two recordings; return 0 only if they are the same as far as both go."""
    a, b = (Recording.open(resolve(text)) for text in (arguments.recording, arguments.other))
    with UnwindingStop() as stop, progress(f"{a.path.name}, {b.path.name}") as shown:
        at = point_of(a, arguments.at) if arguments.at is not None else None
        found = diff(a, b, at, progress=shown)
    if stop.exit_status is not None:
        return stop.exit_status
    if arguments.form is Format.TABLE:
        _print(a, b, found)
    else:
        emit_record(_facts(a, b, found), arguments.form, sys.stdout)
    return 0 if found.is_same else DivergenceError.exit_status


def _facts(a: Recording, b: Recording, found: Comparison) -> dict[str, Any]:
    return {
        "a": a.path,
        "b": b.path,
        "same": found.is_same,
        "from_branches": found.begin,
        "to_branches": found.end,
        "begins_alike": found.begins_alike,
        "parting": _parting_facts(found.parting),
        "output": _parting_facts(found.output),
        "at_branches": found.at,
        "registers": _rows(found.registers),
        "devices": _rows(found.devices),
        "pages": found.pages,
        "memory": _rows(found.memory),
    }


def _parting_facts(parting: Parting | None) -> dict[str, Any] | None:
    if parting is None:
        return None
    sides = {"a": parting.a, "b": parting.b}
    return {"branches": parting.branches} | {
        name: fields(_row(seen)) if seen is not None else None for name, seen in sides.items()
    }


def _row(seen: Seen) -> Any:
    (row,) = event_rows([seen.event], first=seen.ordinal)
    return row


def _rows(differences: list[Any]) -> list[dict[str, str]]:
    return [{"name": each.name, "a": each.recorded, "b": each.replayed} for each in differences]


def _print(a: Recording, b: Recording, found: Comparison) -> None:
    between = f"{grouped(found.begin)} to {grouped(found.end)} branches"
    names = _names(a, b)
    if found.is_same:
        ends = [each.end_branches for each in (a, b)]
        # The other may have more to tell, also of that very branch.
        where = f", where {names[ends.index(min(ends))]} ends" if ends[0] != ends[1] else ""
        print(f"{styled('same', 'green', sys.stdout)}: from {between}{where}")
        return
    if not found.begins_alike:
        print(f"they differ from the start of what both have, {between}\n")
    elif found.parting is not None:
        print(
            f"the same from {grouped(found.begin)} branches on, they part at {grouped(found.parting.branches)}\n"
        )
    rows = list(_sides(names, "parting", found.parting))
    if found.output != found.parting:
        rows += _sides(names, "then said", found.output)
    if rows:
        emit(rows, _EVENTS, Format.TABLE, sys.stdout)
        print()
    differences = [*found.registers, *found.devices, *found.memory]
    if not differences:
        print(f"at {grouped(found.at)} branches the machines are the same")
        return
    print(f"at {grouped(found.at)} branches {_counted(found.pages, 'page')} of memory and these differ:\n")
    # One below the other: what waits in a serial port may be a long line.
    rows = [
        {"what": each.name, "recording": name, "value": value}
        for each in differences
        for name, value in zip(names, (each.recorded, each.replayed), strict=True)
    ]
    emit(rows, _VALUES, Format.TABLE, sys.stdout)


def _sides(names: tuple[str, str], what: str, parting: Parting | None) -> Iterator[dict[str, Any]]:
    """Yield rows with the two events of *parting*, under *what*."""
    if parting is None:
        return
    for name, seen in zip(names, (parting.a, parting.b), strict=True):
        row = _row(seen) if seen is not None else None
        yield {
            "what": what,
            "recording": name,
            "ordinal": row and row.ordinal,
            "kind": row.kind if row else "(nothing more)",
            "place": row and row.position,
            "payload": row and row.payload,
        }


def _names(a: Recording, b: Recording) -> tuple[str, str]:
    """Return what to call the two: their names, if these are not the same."""
    names = a.path.resolve().name, b.path.resolve().name
    return names if names[0] != names[1] else ("A", "B")


def _counted(count: int, what: str) -> str:
    return f"{grouped(count)} {what}" + ("" if count == 1 else "s")
