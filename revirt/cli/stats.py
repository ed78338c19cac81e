"""``revirt stats`` and ``revirt du``: what recordings consist of, and what space they take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revirt.recording import (
    CheckpointStats,
    LogStats,
    Recording,
    Usage,
    checkpoint_stats,
    disk_usage,
    list_recordings,
    log_stats,
    recordings_dir,
    resolve,
)
from revirt.render import Column, Format, duration, emit, emit_record, fields, grouped, printable, size


def _rate(value: float) -> str:
    return f"{value:,.1f}"


_KINDS = (
    Column("kind", "KIND"),
    Column("events", "EVENTS", right=True, text=grouped),
    Column("data_bytes", "DATA", right=True, text=size),
    Column("raw_bytes", "RAW", right=True, text=size),
    Column("disk_bytes", "ON DISK", right=True, text=size),
    Column("per_million_branches", "BYTES/M BRANCHES", right=True, text=_rate),
)
_ICOUNT = Column("per_million_instructions", "BYTES/M INSTRUCTIONS", right=True, text=_rate)
_CHECKPOINTS = (
    Column("number", "#", right=True),
    Column("branches", "BRANCHES", right=True, text=grouped),
    Column("guest_ns", "GUEST TIME", right=True, text=duration),
    Column("pages", "PAGES", right=True, text=grouped),
    Column("new_pages", "NEW", right=True, text=grouped),
    Column("shared_pages", "SHARED", right=True, text=grouped),
    Column("zero_pages", "ZERO", right=True, text=grouped),
    Column("bytes", "SIZE", right=True, text=size),
)
_USAGE = (
    Column("log", "LOG", right=True, text=size),
    Column("checkpoints", "CHECKPOINTS", right=True, text=size),
    Column("pages", "PAGES", right=True, text=size),
    Column("index", "INDEX", right=True, text=size),
    Column("disks", "DISKS", right=True, text=size),
    Column("other", "OTHER", right=True, text=size),
    Column("total", "TOTAL", right=True, text=size),
    Column("name", "NAME"),
)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The space that a recording takes, in bytes by part."""

    name: str
    path: Path | None
    log: int
    checkpoints: int
    pages: int
    index: int
    disks: int
    other: int
    total: int


def stats(arguments: argparse.Namespace) -> int:
    """Print what the log and the checkpoints of a recording consist of."""
    recording = Recording.open(resolve(arguments.recording))
    if arguments.checkpoints and arguments.form is not Format.JSON:
        emit(checkpoint_stats(recording), _CHECKPOINTS, arguments.form, sys.stdout)
        return 0
    instructions = None
    if arguments.icount:
        # Imported here: counting what is on disk needs no CPU core.
        from revirt.index import Index
        from revirt.replay import total_instructions

        index = Index(recording)
        instructions = index.instructions if index.is_complete else total_instructions(recording)
    log = log_stats(recording, instructions)
    if arguments.form is Format.JSON:
        emit_record(stats_fields(recording, log, instructions), arguments.form, sys.stdout)
        return 0
    columns = (*_KINDS, _ICOUNT) if arguments.icount else _KINDS
    emit((*log.kinds, log.total), columns, arguments.form, sys.stdout)
    if arguments.form is Format.TABLE:
        for line in _in_words(log, list(checkpoint_stats(recording)), instructions):
            print(line)
    return 0


def stats_fields(recording: Recording, log: LogStats, instructions: int | None) -> dict[str, Any]:
    """Return all statistics of *recording* as the fields that ``stats --json`` prints."""
    return {
        "path": recording.path,
        "uuid": recording.manifest.uuid,
        "state": recording.state,
        **fields(log),
        "instructions": instructions,
        "checkpoints": list(checkpoint_stats(recording)),
    }


def _in_words(log: LogStats, checkpoints: list[CheckpointStats], instructions: int | None) -> Iterator[str]:
    ratio = f", compression ratio {log.ratio:.2f}" if log.ratio is not None else ""
    executed = f"{grouped(log.last_branches - log.first_branches)} branches"
    if instructions is not None:
        executed += f" and {grouped(instructions)} instructions"
    yield f"log: {grouped(log.segments)} segments{ratio}, over {executed}"
    yield "     kinds are compressed together: ON DISK is divided among them in proportion to RAW"
    pages = (
        f"{grouped(sum(each.new_pages for each in checkpoints))} pages stored, "
        f"{grouped(sum(each.shared_pages for each in checkpoints))} shared, "
        f"{grouped(sum(each.zero_pages for each in checkpoints))} zero"
    )
    yield f"checkpoints: {grouped(len(checkpoints))} in {size(sum(each.bytes for each in checkpoints))}: {pages}"


def du(arguments: argparse.Namespace) -> int:
    """Print how much space recordings take."""
    paths = [resolve(text) for text in arguments.recordings] or list_recordings()
    rows = list(usage_rows(dict.fromkeys(path.resolve() for path in paths)))
    is_table = arguments.form is Format.TABLE
    if not rows and is_table:
        print(f"revirt: no recordings in {printable(str(recordings_dir()))}", file=sys.stderr)
    total = [_total(rows)] if is_table and len(rows) > 1 else []
    emit([*rows, *total], _USAGE, arguments.form, sys.stdout)
    return 0


def usage_rows(paths: Iterable[Path]) -> Iterator[UsageRow]:
    """Yield a row for each recording of *paths*, in whatever state it is."""
    for path in paths:
        yield _row(path.name, path, disk_usage(path))


def _total(rows: list[UsageRow]) -> UsageRow:
    parts = (Usage(row.log, row.checkpoints, row.pages, row.index, row.disks, row.other) for row in rows)
    return _row("total", None, sum(parts, Usage()))


def _row(name: str, path: Path | None, used: Usage) -> UsageRow:
    return UsageRow(
        name,
        path,
        used.log,
        used.checkpoints,
        used.pages,
        used.index,
        used.disks,
        used.other,
        used.total,
    )
