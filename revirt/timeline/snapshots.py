"""Moments of a replay to come back to: those that the recording and its index have, and those taken on the way.

A snapshot is a map of memory, the machine's state and the place in the log: taking one costs the pages that changed
since the last, going back to one the pages that differ.  Of those taken on the way, two are kept in each of the
distances 1 to 4, 4 to 16, ... (in thousands of branches) from where the user is: close ones to step back to, and far
ones so that nothing is replayed for longer than it takes to get from one to the next.  All together stay within a
budget: what is over that is let go of, the oldest marks last.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from revirt.errors import CorruptError, FormatVersionError
from revirt.index import Index, IndexCheckpoint
from revirt.log.chain import Chain
from revirt.machine.machine import Ended
from revirt.machine.state import NewerVersionError
from revirt.recording import CheckpointInfo, Recording
from revirt.replay.replayer import Place
from revirt.replay.session import ReplaySession
from revirt.timeline.memory import OWN, Memory

NEAREST = 1024
"""Branches: a snapshot is not taken closer to another, but for the one at the branch where the user is."""
BUDGET = 512 << 20
"""Bytes that snapshots may keep in memory, pages and maps; it is looked after when a quarter more has come."""
_PER_DISTANCE = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """A moment at a taken branch, with all that arrived there; ``branches`` is which.

    ``ended`` says how the guest ended there, if it did: the state does not.
    """

    branches: int
    state: bytes
    page_map: array[int]
    place: Place
    ended: Ended | None


Start = Snapshot | CheckpointInfo | IndexCheckpoint
"""A moment that a replay can start from."""


def first_branch(start: Start) -> int:
    """Return the first branch that can be reached from *start*: a halted CPU stands on the line behind one."""
    return start.branches + (start.halted if isinstance(start, CheckpointInfo) else 0)


def spread(items: Iterable[T], offset: Callable[[T], int]) -> list[T]:
    """Return which of *items* to keep, in order: a few at each distance from the user, which *offset* tells."""
    counts: dict[tuple[bool, int], int] = {}
    left: list[T] = []
    for each in sorted(items, key=lambda each: abs(offset(each))):
        distance = abs(offset(each)) // NEAREST
        place = (offset(each) > 0, distance.bit_length() // 2)
        counts[place] = counts.get(place, 0) + 1
        if counts[place] <= _PER_DISTANCE:
            left.append(each)
    return sorted(left, key=offset)


class Snapshots:
    """The moments that *session* can be brought to; it stands at a checkpoint of the recording, which has *index*."""

    def __init__(self, session: ReplaySession, index: Index) -> None:
        self.index = index
        self._session = session
        self._recording: Recording = session.recording
        self._infos: list[CheckpointInfo] = self._recording.checkpoints
        self._taken: list[Snapshot] = []
        self._marked: list[Snapshot] = []
        self._alive = WeakSet[Snapshot]()
        self._limit = BUDGET
        loaded = self._recording.load_checkpoint(session.info.number)
        self._memory = Memory(session.machine.core, self._whole(loaded.page_map), self._read_pages)

    def take(self) -> Snapshot:
        """Return a snapshot of where the session stands, which is on a taken branch."""
        machine = self._session.machine
        snapshot = Snapshot(
            machine.core.branches,
            machine.save(),
            self._memory.take(),
            self._session.replayer.place,
            machine.ended,
        )
        self._alive.add(snapshot)
        if self.size > self._limit:
            self._let_go()
        return snapshot

    def keep(self, snapshot: Snapshot) -> None:
        """Keep *snapshot* to come back to, until there are too many."""
        if all(each.branches != snapshot.branches for each in self._taken):
            insort(self._taken, snapshot, key=lambda each: each.branches)

    def forget(self, snapshots: Iterable[Snapshot]) -> None:
        """Do not keep *snapshots* any longer."""
        gone = set(map(id, snapshots))
        self._taken = [each for each in self._taken if id(each) not in gone]

    def restore(self, snapshot: Snapshot) -> None:
        """Bring the session to *snapshot*."""
        self._memory.restore(snapshot.page_map)
        self._session.machine.restore(snapshot.state)
        self._session.machine.ended = snapshot.ended
        self._session.replayer.seek(snapshot.place)

    def nearest(self, branches: int) -> Start:
        """Return the last snapshot, or checkpoint of the recording or its index, that is not behind *branches*."""
        position = bisect_right(self._taken, branches, key=lambda each: each.branches)
        taken, stored = self._taken[position - 1] if position else None, self._stored(branches)
        return taken if taken is not None and taken.branches >= stored.branches else stored

    def stored_before(self, branches: int) -> int:
        """Return the branches of the last checkpoint of the recording or its index that is not behind *branches*."""
        return first_branch(self._stored(branches))

    def _stored(self, branches: int) -> CheckpointInfo | IndexCheckpoint:
        indexed, info = self.index.checkpoint_before(branches), self.checkpoint_before(branches)
        return indexed if indexed is not None and indexed.branches > info.branches else info

    def checkpoint_before(self, branches: int) -> CheckpointInfo:
        """Return the last checkpoint of the recording that is not behind *branches*, or the first."""
        position = bisect_right(self._infos, branches, key=lambda each: each.branches + each.halted)
        return self._infos[max(0, position - 1)]

    def go_to(self, start: Start) -> None:
        """Bring the session to *start*; raises CorruptError if that is damaged."""
        match start:
            case Snapshot():
                self.restore(start)
            case CheckpointInfo():
                loaded = self._recording.load_checkpoint(start.number)
                path = self._recording.checkpoint_path(start.number)
                self._take_up(path, loaded.state, loaded.page_map, Place(start.event + 1, Chain()))
                self._session.replayer.begin(*self._recording.events_of_checkpoint(loaded))
            case IndexCheckpoint():
                moment = self.index.load(start)
                self._take_up(moment.path, moment.state, moment.page_map, moment.place)

    def start_before(self, branches: int) -> int:
        """Return the branches of the last start that is before *branches*."""
        return first_branch(self.nearest(branches - 1))

    def mark(self, snapshot: Snapshot) -> None:
        """Hold *snapshot* as long as the budget allows, until `unmark`."""
        self._marked.append(snapshot)

    def unmark(self, snapshot: Snapshot | None) -> None:
        """Hold *snapshot* no longer, if it still is held."""
        if snapshot in self._marked:
            self._marked.remove(snapshot)

    def thin_out(self, branches: int) -> None:
        """Let go of snapshots that are too many around *branches*."""
        self._taken = spread(self._taken, lambda each: each.branches - branches)

    @property
    def size(self) -> int:
        """Bytes that snapshots keep in memory."""
        return self._memory.size + len(self._alive) * 8 * self._session.machine.page_count

    def _let_go(self) -> None:
        """Let go of pages that no snapshot needs, and of snapshots until the rest is within the budget."""
        self._memory.keep_only(each.page_map for each in self._alive)
        while self.size > BUDGET and (self._taken or self._marked):
            self._taken = self._taken[1::2]
            if not self._taken:
                del self._marked[: (len(self._marked) + 1) // 2]
            self._memory.keep_only(each.page_map for each in self._alive)
        # Looking through all of them takes time: not again before there is much more.
        self._limit = max(BUDGET, self.size) + BUDGET // 4

    def _take_up(self, path: Path, state: bytes, page_map: array[int], place: Place) -> None:
        """Bring the session to what was stored in the file *path*."""
        count = self._session.machine.page_count
        if len(page_map) > count or max(page_map, default=0) >= OWN:
            raise CorruptError(path, "its memory is not that of the machine")
        self._memory.restore(self._whole(page_map))
        try:
            self._session.machine.restore(state)
        except NewerVersionError as error:
            raise FormatVersionError(path, error.found, error.known, what=error.what) from error
        except ValueError as error:
            raise CorruptError(path, str(error)) from error
        self._session.replayer.seek(place)

    def _whole(self, page_map: array[int]) -> array[int]:
        return page_map + array("Q", bytes(8 * (self._session.machine.page_count - len(page_map))))

    def _read_pages(self, ids: array[int]) -> Iterator[tuple[range, bytes]]:
        return self.index.pages(ids)
