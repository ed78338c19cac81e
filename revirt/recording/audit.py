"""Comparing a checkpoint with what the log says of it: its place, a digest of its state, a digest of its memory.

The checks inside a checkpoint's files tell that they are what was written.  This tells that what was written is what
was recorded: that it belongs to this log, at this place.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from revirt.checkpoint import CheckpointInfo, CheckpointReader, LoadedCheckpoint
from revirt.errors import CorruptError
from revirt.log.events import DIGEST_SIZE, Event, Kind
from revirt.log.frame import check_of
from revirt.log.reader import LogReader


def events_of(log: LogReader, path: Path, info: CheckpointInfo) -> tuple[Event, Event]:
    """Return the DIGEST and the CHECKPOINT that stand in *log* for the checkpoint in the file *path*.

    Raises CorruptError if there are others, or elsewhere.
    """
    pair = list(islice(log.events(info.event - 1), 2)) if info.event else []
    return check_events(path, info, *pair)


def check_events(path: Path, info: CheckpointInfo, *events: Event | None) -> tuple[Event, Event]:
    """Return *events*, those up to and including the one that *info* names, if they are what belongs there.

    That is a DIGEST, and a CHECKPOINT of the same number and place as *info*, which is from the file *path*.  Raises
    CorruptError if they are not.
    """
    match events:
        case (Event(kind=Kind.DIGEST) as digest, Event(kind=Kind.CHECKPOINT) as checkpoint):
            pass
        case _:
            raise CorruptError(path, f"event {info.event} of the log is not its own", offset=0)
    place = (checkpoint.number, checkpoint.branches, checkpoint.halted, checkpoint.pc)
    if place != (info.number, info.branches, info.halted, info.pc):
        raise CorruptError(path, "does not stand where its event does", offset=0)
    return digest, checkpoint


def check_state(path: Path, state: bytes, checkpoint: Event) -> None:
    """Compare a machine state, from the file *path*, with the event *checkpoint*; raises CorruptError."""
    if check_of(state) != checkpoint.data:
        raise CorruptError(path, "its machine state is not the one that the log names")


def audit(
    store: CheckpointReader,
    path: Path,
    loaded: LoadedCheckpoint,
    events: tuple[Event, Event],
    page_count: int,
) -> None:
    """Compare what the checkpoint *loaded*, from the file *path* of *store*, holds with its *events*.

    *events* are as `events_of` returns them; *page_count* is how many pages of memory the machine has; they are
    compared by the hashes that were stored with them.  Raises CorruptError.
    """
    digest, checkpoint = events
    check_state(path, loaded.state, checkpoint)
    if check_of(store.page_hashes(loaded.page_map, page_count)) != digest.data[DIGEST_SIZE : 2 * DIGEST_SIZE]:
        raise CorruptError(path, "its memory is not the one that the log names")
