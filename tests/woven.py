"""Recordings with network frames in them that no guest sent: for what is asked of a log, and not of a machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from revirt.log.events import Event, Kind
from revirt.log.rows import rows_of
from revirt.log.writer import LogWriter
from revirt.recording import Manifest, Recording
from revirt.recording.layout import LOG
from revirt.recording.manifest import NAME


@dataclass(frozen=True, slots=True)
class Passing:
    """A frame that a guest takes (*is_inbound*) or sends after so many *branches*."""

    branches: int
    data: bytes
    is_inbound: bool = True
    card: int = 0
    halted: bool = False

    @property
    def event(self) -> Event:
        kind = Kind.FRAME_IN if self.is_inbound else Kind.FRAME_OUT
        return Event(kind, self.branches, self.halted, 0x1000, 0, self.card, self.data)


def woven(recording: Recording, target: Path, frames: Iterable[Passing]) -> Recording:
    """Return a copy of *recording*, which has one checkpoint, in *target* with *frames* behind that.

    It can be listed, but neither verified nor replayed.
    """
    shutil.copytree(recording.path, target)
    shutil.rmtree(target / LOG)
    (target / LOG).mkdir()
    added = [frame.event for frame in frames]
    events = sorted([*recording.events(), *added], key=lambda event: event.branches)
    writer = LogWriter(target / LOG)
    writer.append(rows_of(events))
    writer.close()
    manifest = Manifest.read(target / NAME)
    assert manifest.end is not None
    manifest.end["events"] = len(events)
    (target / NAME).write_text(manifest.to_json())
    return Recording.open(target)
