"""``revirt events`` and ``revirt console``: what is in a recording."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from revirt.cli.opening import opened
from revirt.cli.outputs import write_new
from revirt.cli.rows import event_rows, kinds_named
from revirt.cli.signals import OrderlyStop
from revirt.errors import RevirtError
from revirt.log.events import Event, Kind
from revirt.recording import Recording, resolve
from revirt.render import Column, emit, grouped, progress

_COLUMNS = (
    Column("ordinal", "#", right=True),
    Column("kind", "KIND"),
    Column("branches", "BRANCHES", right=True),
    Column("halted", "HLT", text=lambda halted: "hlt" if halted else ""),
    Column("pc", "PC", right=True),
    Column("payload", "PAYLOAD"),
)
_ICOUNT = Column("icount", "INSTRUCTIONS", right=True, text=grouped)


def events(arguments: argparse.Namespace) -> int:
    """Print the events of a recording, in order."""
    kinds = kinds_named(arguments.kind) if arguments.kind else frozenset(Kind)
    recording = Recording.open(resolve(arguments.recording))
    found: Iterable[Event | tuple[Event, int]] = recording.events()
    columns: Sequence[Column] = _COLUMNS
    if arguments.icount:
        # Imported here: listing what is on disk needs no CPU core.
        from revirt.index import Index
        from revirt.replay import count_instructions

        # The replay starts behind the first checkpoint; nothing was executed before it.
        checkpoints = recording.checkpoints
        start = checkpoints[0].event + 1 - recording.manifest.start.event if checkpoints else 0
        before = ((event, 0) for event in islice(recording.events(), start))
        found = chain(before, Index(recording).events() or count_instructions(recording))
        columns = (*_COLUMNS[:4], _ICOUNT, *_COLUMNS[4:])
    emit(event_rows(found, kinds, first=recording.manifest.start.event), columns, arguments.form, sys.stdout)
    return 0


def console(arguments: argparse.Namespace) -> int:
    """Print the bytes that the guest sent, unchanged, or write them to a file with their times."""
    if arguments.cast is not None:
        return _cast(arguments)
    pieces: Iterable[bytes]
    if arguments.at is not None:
        # Imported here: what is on disk is printed without a CPU core.
        from revirt.timeline import Timeline, seek_point

        timeline = opened(resolve(arguments.recording), Timeline)
        seek_point(timeline, arguments.at)
        pieces = timeline.sent()
    else:
        events = Recording.open(resolve(arguments.recording)).events()
        pieces = (event.data for event in events if event.is_serial_output)
    for data in pieces:
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


def _cast(arguments: argparse.Namespace) -> int:
    from revirt.replay.cast import cast
    from revirt.timeline import Timeline, seek_point

    recording = Recording.open(resolve(arguments.recording))
    if os.path.lexists(arguments.cast):
        raise RevirtError(f"{arguments.cast} exists already", hint="choose another name")
    until = seek_point(Timeline(recording), arguments.at) if arguments.at is not None else None
    with OrderlyStop() as stop, progress(recording.path.name) as shown:
        film = cast(recording, until=until, progress=shown, on_start=stop.arm)
    if stop.exit_status is not None:
        return stop.exit_status
    write_new(arguments.cast, film.encode())
    return 0
