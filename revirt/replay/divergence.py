"""Finds where a divergence began, and in what.

What a recording holds of the guest's state between two digests is little: positions, program counters and register
hashes of events.  So the search works with what can be computed again:

1. The stretch since the last good checkpoint is replayed once more.  If the two replays differ from each other, the
   emulation is not deterministic here; halving the stretch finds the branch at which they part, and comparing them
   there names what differs.  If it differed only once, the replay that failed is compared with one that did not.
2. If they agree, the recording and this replay disagree.  Where a checkpoint was taken at the moment that failed, the
   recorded state is at hand: comparing names the registers, device fields and memory that differ.  For memory and
   devices, halving the stretch finds the branch at which this replay gave the first of them its differing value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from revirt.core import PAGE_SIZE
from revirt.errors import CorruptError, DivergenceError, FormatVersionError
from revirt.machine.machine import Machine
from revirt.machine.state import to_plain
from revirt.recording import CheckpointInfo
from revirt.replay.session import Mark, ReplaySession

MOST_LISTED = 32
"""Differences listed at most."""

SHOWN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not the same in two machines; ``look`` returns it from a machine, if it can be searched for."""

    name: str
    recorded: str
    replayed: str
    look: Callable[[Machine], object] | None = None

    def to_plain(self) -> dict[str, str]:
        """Return the difference as a row."""
        return {"name": self.name, "recorded": self.recorded, "replayed": self.replayed}


def locate_divergence(failed: ReplaySession) -> dict[str, Any]:
    """Return what can be found out about the beginning of the divergence that ended the session *failed*.

    Keys: ``between`` (branch counts of the last state known equal and of the difference), ``cause`` ("recording" or
    "emulation"), ``differs`` (rows of name, recorded, replayed) and ``branch`` (where it began, None if that could
    not be narrowed down).  ``stopped`` is there if the search was ended before it had found all that it could.
    """
    good = _last_good_checkpoint(failed)
    end = failed.machine.core.branches
    found: dict[str, Any] = {
        "between": [good.branches, end],
        "cause": "recording",
        "differs": [],
        "branch": None,
    }
    try:
        _search(failed, good, end, found)
    except _SearchStoppedError:
        found["stopped"] = True
    return found


class _SearchStoppedError(Exception):
    """Whoever runs the replay wants it to end."""


def _replay_again(failed: ReplaySession, checkpoint: int) -> ReplaySession:
    """Return another session of the recording that *failed* replays, which ends when that is told to."""

    def look_up() -> None:
        if failed.replayer.is_stopping:
            raise _SearchStoppedError

    return ReplaySession(failed.recording, checkpoint=checkpoint, pace=look_up)


def _search(failed: ReplaySession, good: CheckpointInfo, end: int, found: dict[str, Any]) -> None:
    again = _replay_again(failed, good.number)
    start = again.mark()
    _run_leniently(again, None)
    if again.machine.core.branches != end or again.machine.digest() != failed.machine.digest():
        other = _replay_again(failed, good.number)
        again.return_to(start)
        found["cause"] = "emulation"
        found["branch"] = _part(again, other, end)
        differences = _differences(again.machine, other.machine)
        if not differences:
            differences = _differences(again.machine, failed.machine)
            found["branch"] = _begin(differences, again, start, end)
    else:
        differences = _compare_with_recorded(failed)
        found["branch"] = _begin(differences, again, start, end)
    found["differs"] = [each.to_plain() for each in differences]


def compare(recorded: Machine, replayed: Machine) -> Iterator[Difference]:
    """Yield what differs between two machines of one configuration: memory, then devices, then registers."""
    yield from compare_memory(recorded, replayed)
    yield from compare_devices(recorded, replayed)
    yield from compare_registers(recorded, replayed)


def compare_registers(recorded: Machine, replayed: Machine) -> Iterator[Difference]:
    """Yield the registers that differ."""
    ours = replayed.core.registers()
    for name, value in recorded.core.registers().items():
        if ours[name] != value:
            yield Difference(f"register {name}", f"{value:#x}", f"{ours[name]:#x}")


def compare_memory(recorded: Machine, replayed: Machine) -> Iterator[Difference]:
    """Yield the pages of memory that differ, each with the first bytes that do; last what is kept for disks."""
    theirs, ours = recorded.core, replayed.core
    size = len(ours.ram)
    for start in range(0, size, PAGE_SIZE):
        yield from _compare_page("memory", theirs.ram, ours.ram, start, start // PAGE_SIZE)
    used = {
        *memoryview(recorded.used_store_pages()).cast("I"),
        *memoryview(replayed.used_store_pages()).cast("I"),
    }
    for number in sorted(used):
        yield from _compare_page("store", theirs.store, ours.store, number * PAGE_SIZE - size, number)


def _compare_page(
    name: Literal["memory", "store"], theirs: memoryview, ours: memoryview, start: int, number: int
) -> Iterator[Difference]:
    """Yield how page *number* differs, which begins at *start* of the part of memory of that *name*."""
    if theirs[start : start + PAGE_SIZE] == ours[start : start + PAGE_SIZE]:
        return
    first = next(at for at in range(start, start + PAGE_SIZE) if theirs[at] != ours[at])
    end = min(first + SHOWN_BYTES, start + PAGE_SIZE)
    differing = [at for at in range(first, end) if theirs[at] != ours[at]]
    yield Difference(
        f"page {number:#x}, {name} at {first:#x}",
        bytes(theirs[first:end]).hex(),
        bytes(ours[first:end]).hex(),
        _bytes_at(name, differing),
    )


def compare_devices(recorded: Machine, replayed: Machine) -> Iterator[Difference]:
    """Yield the fields of devices that differ, and of what the machine itself knows."""
    ours = replayed.board.save()
    for name, state in recorded.board.save().items():
        replayed_state = dict(_fields(to_plain(ours[name])))
        for field, value in _fields(to_plain(state)):
            if replayed_state[field] != value:
                yield Difference(
                    f"device {name}, {field}",
                    repr(value),
                    repr(replayed_state[field]),
                    _field_of(name, field),
                )
    if recorded.halted != replayed.halted:
        yield Difference("halted", str(recorded.halted), str(replayed.halted))
    rate, our_rate = (machine.clock.ns_per_branch for machine in (recorded, replayed))
    if rate != our_rate:
        yield Difference("clock rate", f"{rate} ns per branch", f"{our_rate} ns per branch")


def _fields(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the fields of a state by name, those of a state in it as ``outer.inner``."""
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _bytes_at(name: Literal["memory", "store"], addresses: list[int]) -> Callable[[Machine], object]:
    def look(machine: Machine) -> object:
        view = machine.core.ram if name == "memory" else machine.core.store
        return [view[address] for address in addresses]

    return look


def _field_of(device: str, field: str) -> Callable[[Machine], object]:
    return lambda machine: dict(_fields(to_plain(machine.board.save()[device])))[field]


def _compare_with_recorded(failed: ReplaySession) -> list[Difference]:
    """Compare with the checkpoint that was taken where the replay failed; nothing if there is none."""
    moment = failed.machine.moment()
    for info in failed.recording.checkpoints:
        is_ahead = info.event >= failed.replayer.next_event
        if is_ahead and (info.branches, info.halted) == (moment.branches, moment.halted):
            try:
                recorded = ReplaySession(failed.recording, checkpoint=info.number).machine
            except (CorruptError, FormatVersionError) as damage:
                return [Difference(f"checkpoint {info.number}", str(damage), "nothing of the kind")]
            return _differences(recorded, failed.machine)
    return []


def _differences(recorded: Machine, replayed: Machine) -> list[Difference]:
    return list(islice(compare(recorded, replayed), MOST_LISTED))


def _last_good_checkpoint(session: ReplaySession) -> CheckpointInfo:
    """Return the latest checkpoint whose event has been passed: its digests agreed."""
    first, passed = session.info.number, session.replayer.next_event
    return [info for info in session.recording.checkpoints if info.number >= first and info.event < passed][
        -1
    ]


def _run_leniently(session: ReplaySession, branches: int | None) -> None:
    """Run to *branches*, or as far as the replay gets before it differs from the log."""
    try:
        session.run(branches)
    except DivergenceError:
        return


def _part(one: ReplaySession, other: ReplaySession, end: int) -> int:
    """Return the first branch at which two replays from one checkpoint differ, else *end*; leave both there."""
    low, high = one.machine.core.branches, end
    while high - low > 1:
        marks = one.mark(), other.mark()
        middle = (low + high) // 2
        _run_leniently(one, middle)
        _run_leniently(other, middle)
        if one.machine.digest() == other.machine.digest():
            low = middle
        else:
            high = middle
            one.return_to(marks[0])
            other.return_to(marks[1])
    for session in (one, other):
        _run_leniently(session, high)
    return high


def _begin(differences: list[Difference], session: ReplaySession, start: Mark, end: int) -> int | None:
    """Return the branch at which the first difference that can be searched for began, None if there is none."""
    look = next((each.look for each in differences if each.look is not None), None)
    return _first_branch(session, start, end, look) if look is not None else None


def _first_branch(
    session: ReplaySession, start: Mark, end: int, look: Callable[[Machine], object]
) -> int | None:
    """Return the first branch after which *look* gives what it gives at *end*; None if it did so from the start.

    Exact if the thing changes once in the stretch, else the place of one of its changes to that value.
    """
    final = look(session.machine)
    session.return_to(start)
    if look(session.machine) == final:
        return None
    low, high = session.machine.core.branches, end
    while high - low > 1:
        mark = session.mark()
        middle = (low + high) // 2
        _run_leniently(session, middle)
        if look(session.machine) == final:
            high = middle
            session.return_to(mark)
        else:
            low = middle
    return high
