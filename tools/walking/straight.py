"""What replays that go straight ahead find: nothing of a timeline is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from revirt.machine.machine import Digest
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession


@dataclass(frozen=True, slots=True)
class Found:
    """What there is at a position: the machine's digest, where its code stands, and which event comes next."""

    digest: Digest
    pc: int
    next_event: int

    def __str__(self) -> str:
        parts = {name: getattr(self.digest, name).hex() for name in ("cpu", "ram", "devices")}
        return f"{parts}, pc {self.pc:#x}, event {self.next_event}"


def found_by(session: ReplaySession) -> Found:
    """Return what there is where *session* stands."""
    machine = session.machine
    return Found(machine.digest(), machine.core.pc, session.replayer.next_event)


def straight(recording: Recording, positions: Iterable[Position]) -> Mapping[Position, Found | None]:
    """Return what one replay of *recording*, from its oldest checkpoint to its end, finds at *positions*.

    None where it finds none of that name.  A line is gone along and back, from a copy of everything, for each of its
    positions; that this did no harm is seen at the end of the log, to which the replay goes on, comparing what the
    recording has of digests.
    """
    session = ReplaySession(recording)
    found: dict[Position, Found | None] = {}
    for branches, line in groupby(sorted(set(positions)), key=lambda each: each.branches):
        session.run(branches)
        assert session.machine.core.branches == branches
        mark = session.mark()
        for position in line:
            # In one go: a guest that changes the code it is in does not take that from somebody who stops in it.
            is_there = session.machine.step(position.steps) == position.steps if position.steps else True
            found[position] = found_by(session) if is_there else None
            session.return_to(mark)
    session.run()
    return found
