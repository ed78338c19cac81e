"""Comparing two recordings: where they part, and the two machines at a branch.

All that a guest cannot compute is in its log.  So two machines that are the same where the comparison begins stay the
same until the first event that differs: that is where they part, exactly.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import islice

from revirt.checkpoint.format import from_bytes
from revirt.diff.events import Parting, Stream, first_event, first_output
from revirt.errors import UsageError
from revirt.machine.machine import Digest, Machine
from revirt.position import Point, Position
from revirt.recording import Recording
from revirt.recording.machine import machine_of
from revirt.render import Progress
from revirt.replay import ReplaySession, branches_at, checkpoint_before
from revirt.replay.divergence import Difference, compare_devices, compare_memory, compare_registers
from revirt.replay.session import find_checkpoint, show_progress

MOST_PAGES = 32
"""Pages of memory that differ, of which a comparison lists the first bytes."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing two recordings, *a* and *b*.

    They were compared from the branch count ``begin`` on to the end of the one that ends first; ``begins_alike`` says
    whether the machines were the same there.  ``parting`` are the first events that differ, ``output`` those with the
    first bytes sent that do, wherever that is.  The machines were compared at ``at``: ``registers``, ``devices``,
    ``memory`` are what differed (``recorded`` being that of *a*, ``replayed`` that of *b*), the latter the first of as
    many ``pages``.
    """

    begin: int
    end: int
    begins_alike: bool
    parting: Parting | None
    output: Parting | None
    at: int
    registers: list[Difference]
    devices: list[Difference]
    memory: list[Difference]
    pages: int

    @property
    def is_same(self) -> bool:
        """Whether the two are one life, as far as both tell of it."""
        differences = (self.registers, self.devices, self.memory)
        return self.begins_alike and self.parting is None and not any(differences)


def diff(
    a: Recording, b: Recording, at: Point | None = None, *, progress: Progress | None = None
) -> Comparison:
    """Compare *a* and *b*: their machines at *at*, a point of *a*, or else where they part, or at the end.

    *progress* hears of each replay: of both to where the comparison begins, then to where machines are compared.

    Raises UsageError if there is no position that both have, *at* is none of these, or they are not of machines with as
    much memory; RecordingError, CorruptError, HostError and DivergenceError as a replay.
    """
    _check_memory(a, b)
    begin, is_start = _begin(a, b)
    end = min(a.end_branches, b.end_branches)
    if begin > end:
        first, second = (a, b) if a.end_branches <= b.end_branches else (b, a)
        raise UsageError(
            f"{a.path.name} and {b.path.name} have no position in common",
            hint=f"{first.path.name} ends at {first.end_branches}:0, {second.path.name} begins at {begin}:0",
        )
    asked = _asked(a, at, begin, end) if at is not None else None
    sessions = [_stand_at(each, begin, progress, runs=not is_start) for each in (a, b)]
    begins_alike = _life(sessions[0].machine) == _life(sessions[1].machine)
    streams = [_stream(session) for session in sessions]
    event, output = first_event(*streams), first_output(*streams)
    parting = _earlier(event, output) if event is not None or _is_both(output) else None
    where = asked if asked is not None else _where(a, b, begin, parting)
    one, other = (_go_on(session, where, progress).machine for session in sessions)
    hashes = [_page_hashes(machine) for machine in (one, other)]
    return Comparison(
        begin=begin,
        end=end,
        begins_alike=begins_alike,
        parting=parting,
        output=output if parting is not None else None,
        at=where,
        registers=list(compare_registers(one, other)),
        devices=list(compare_devices(one, other)),
        memory=list(islice(compare_memory(one, other), MOST_PAGES)),
        pages=sum(left != right for left, right in zip(*hashes, strict=True)),
    )


def _begin(a: Recording, b: Recording) -> tuple[int, bool]:
    """Return the first branch that both have, and whether both begin there: nothing has arrived then."""
    places = [(info.branches, info.halted) for info in (find_checkpoint(each, None) for each in (a, b))]
    if places[0] == places[1]:
        return places[0][0], True
    return max(branches + halted for branches, halted in places), False


def _stand_at(recording: Recording, branches: int, progress: Progress | None, *, runs: bool) -> ReplaySession:
    start = checkpoint_before(recording, Position(branches))
    session = ReplaySession(recording, checkpoint=start.number)
    if runs:
        show_progress(session, progress, branches)
        session.run(branches)
    return session


def _life(machine: Machine) -> tuple[Digest, int]:
    """Return what decides how *machine* goes on: its digest, and its clock's rate, which is not in that."""
    return machine.digest(), machine.clock.ns_per_branch


def _go_on(session: ReplaySession, branches: int, progress: Progress | None) -> ReplaySession:
    """Return *session*, or one that begins further on, at *branches*."""
    start = checkpoint_before(session.recording, Position(branches))
    if start.branches > session.machine.core.branches:
        session = ReplaySession(session.recording, checkpoint=start.number)
    show_progress(session, progress, branches)
    session.run(branches)
    return session


def _check_memory(a: Recording, b: Recording) -> None:
    sizes = [machine_of(each.path, each.manifest).memory for each in (a, b)]
    if sizes[0] != sizes[1]:
        kib = [size >> 10 for size in sizes]
        raise UsageError(
            f"{a.path.name} has {kib[0]} KiB of memory, {b.path.name} {kib[1]}: these are different machines"
        )


def _stream(session: ReplaySession) -> Stream:
    place = session.replayer.place
    return Stream(session.recording, place.next_event, len(place.pending_output))


def _page_hashes(machine: Machine) -> array[int]:
    machine.core.scan()
    return from_bytes("Q", machine.core.page_hashes.tobytes())


def _is_both(parting: Parting | None) -> bool:
    """Return whether both guests sent something: one that has sent nothing more yet may still do."""
    return parting is not None and parting.a is not None and parting.b is not None


def _earlier(event: Parting | None, output: Parting | None) -> Parting | None:
    if event is None or output is None or not _is_both(output):
        return event if event is not None else output
    # Output is written down when a line is over: what came before that came before it.
    return event if event.branches <= output.branches else output


def _asked(a: Recording, at: Point, begin: int, end: int) -> int:
    """Return the branch count at *at*, a point of *a*; raises UsageError if not both have that."""
    branches = branches_at(a, at)
    if not begin <= branches <= end:
        raise UsageError(f"{at} is at {branches}:0, and both have {begin}:0 to {end}:0 only")
    return branches


def _where(a: Recording, b: Recording, begin: int, parting: Parting | None) -> int:
    """Return the branch count at which the machines are to be compared, if nobody says."""
    end = min(a.end_branches, b.end_branches)
    if parting is not None:
        return max(begin, min(parting.shows_at, end))
    # What the longer one has at the branch where the other ends may have come behind that.
    return end if a.end_branches == b.end_branches else max(begin, end - 1)
