"""``revirt events`` and ``revirt console``: what is in a recording."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from revirt.cli.rows import event_rows, kinds_named
from revirt.log.events import Event, Kind
from revirt.recording import Recording, resolve
from revirt.render import Column, emit, grouped

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
    """Print the bytes that the guest sent, unchanged."""
    recording = Recording.open(resolve(arguments.recording))
    for event in recording.events():
        if event.is_serial_output:
            sys.stdout.buffer.write(event.data)
    sys.stdout.buffer.flush()
    return 0
