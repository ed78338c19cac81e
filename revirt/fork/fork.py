"""Going on from a position of a recording.

Rules:
- A fork begins at a taken branch with all that has arrived there, or where the CPU is halted as the recording ends; or
  as the recording begins, before anything arrives.
- The recording that is made is whole by itself: nothing is needed of its parent, which it only names.  It has the
  parent's pages under their ids, where the host can share files, and its checkpoints are numbered behind the parent's.
- One that is circular, or sealed, shares nothing: what is let go of has to be its own, and so has what is vouched for.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from revirt.checkpoint import LoadedCheckpoint
from revirt.checkpoint.format import from_bytes, to_bytes
from revirt.core import PAGE_SIZE
from revirt.errors import CorruptError, UsageError
from revirt.fork.changes import Changes
from revirt.fork.inputs import Collector, Inputs, why_ended
from revirt.machine.config import ClockMode, MachineConfig
from revirt.machine.machine import Machine
from revirt.monitor.beginning import Pages
from revirt.monitor.console import Console
from revirt.monitor.given import Giver
from revirt.monitor.plugs import Plugged
from revirt.monitor.session import RecordOptions, RunSummary, record_from
from revirt.position import Edge, Point
from revirt.recording import Manifest, Recording
from revirt.recording.disks import open_bases
from revirt.recording.manifest import NAME, Kept
from revirt.recording.versions import current_versions
from revirt.render import Progress
from revirt.replay import ReplaySession, branches_at, checkpoint_before
from revirt.replay.session import find_checkpoint, show_progress

_BATCH = 1024
"""Pages that are copied at once."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """A machine at a moment: its state, the checkpoint *base* before it, and what changed in memory since.

    ``changed`` are batches of pages, ``patched`` pieces of memory by their physical address.
    """

    state: bytes
    base: LoadedCheckpoint
    changed: list[tuple[bytes, bytes]]
    patched: list[tuple[int, bytes]]

    @classmethod
    def of(cls, session: ReplaySession, changes: Changes) -> Self:
        """Return the moment at which *session* stands, all changes since its checkpoint being noted in its machine."""
        machine = session.machine
        numbers = machine.changed_pages()
        pieces = (numbers[start : start + 4 * _BATCH] for start in range(0, len(numbers), 4 * _BATCH))
        return cls(
            machine.save(),
            session.recording.load_checkpoint(session.info.number),
            [(piece, bytes(machine.core.read_pages(piece))) for piece in pieces],
            [piece for patch in changes.patches for piece in patch.resolve(machine)],
        )

    def own_pages(self) -> set[int]:
        """Return the numbers of the pages that differ from `base`."""
        changed = {number for numbers, _ in self.changed for number in from_bytes("I", numbers)}
        return changed | {address // PAGE_SIZE for address, _ in self.patched}

    def all_pages(self) -> set[int]:
        """Return the numbers of the pages that are not known to be zeros."""
        return self.own_pages() | {number for number, page in enumerate(self.base.page_map) if page}

    def load(self, machine: Machine) -> None:
        """Bring *machine*, which is new, to this moment; raises CorruptError."""
        for batches in (self.base.batches(), self.changed):
            for numbers, contents in batches:
                machine.core.write_pages(numbers, contents)
        for address, data in self.patched:
            machine.core.ram[address : address + len(data)] = data
        machine.restore(self.state)


class Fork:
    """A position of *recording* to go on from, made by `of`; ``branches`` and ``guest_ns`` are where and when it is."""

    def __init__(
        self,
        recording: Recording,
        config: MachineConfig,
        moment: _Moment,
        inputs: Inputs | None,
        facts: dict[str, Any],
    ) -> None:
        self.branches: int = facts["branches"]
        self.guest_ns: int = facts["guest_ns"]
        self._recording = recording
        self._config = config
        self._moment = moment
        self._inputs = inputs
        self._facts = facts

    @classmethod
    def of(
        cls,
        recording: Recording,
        at: Point | None = None,
        *,
        changes: Changes | None = None,
        gives_inputs: bool = False,
        clock: ClockMode | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Return the fork of *recording* at the last taken branch at or before *at*, as this module has it.

        *changes* may name events that are to be dropped or replaced; without *at* it then is right before the first of
        them.  *gives_inputs* says that what the parent got behind there is to be given to the fork, and has to be true
        for that.  *clock* is the fork's clock mode, that of the parent unless told otherwise.  *progress* hears of the
        replay: up to there, then to the end if inputs are given.

        Raises UsageError if there is no such position or change, or the guest has ended there; RecordingError,
        CorruptError, HostError and DivergenceError as a replay.
        """
        changes = changes if changes is not None else Changes()
        changes.check(recording)
        if changes.events and not gives_inputs:
            raise UsageError("there is nothing to drop or replace if the parent's inputs are not given")
        if at is None:
            if not changes.events:
                raise UsageError("a fork wants a position", hint="say --at POINT")
            at = changes.position_before(recording)
        collector = Collector(changes)
        session = _stand_at(recording, at, collector, progress)
        facts = _facts(recording, at, session, changes, gives_inputs=gives_inputs)
        moment = _Moment.of(session, changes)
        show_progress(session, progress, recording.end_branches)
        inputs = collector.collect(session) if gives_inputs else None
        config = session.machine.config
        return cls(recording, replace(config, clock=clock or config.clock), moment, inputs, facts)

    def record(
        self,
        console: Console,
        options: RecordOptions,
        directory: Path | None,
        *,
        ends: bool = False,
        progress: Progress | None = None,
        command: Sequence[str] = (),
        on_start: Callable[[Callable[[str], None]], None] | None = None,
    ) -> RunSummary:
        """Go on live, as `revirt.monitor.session.record` does; the clock mode in *options* is not looked at.

        With *ends* the run ends where the parent did, or if it went another way, at that time of the guest's; that
        wants the parent's inputs.  Raises as `record`, UsageError if it is to stop before it begins, CorruptError and
        EvictedError for what is needed of the parent.
        """
        if options.until is not None and options.until.branches <= self.branches:
            raise UsageError(f"{options.until} is not behind {self.branches}:0, where the fork begins")
        giver = None
        if self._inputs is not None:
            follows = self._config.clock == self._recording.manifest.clock == "host"
            giver = Giver(
                self._inputs.given,
                self._inputs.end if ends else None,
                follows=follows,
                ends_itself=self._inputs.ends_itself,
            )
        shares = options.limits is None and options.sign is None
        with self._recording.reading():
            return record_from(
                _Forked(self._recording, self._config, self._moment, self._facts, shares=shares),
                console,
                options,
                directory,
                giver=giver,
                progress=progress,
                command=command,
                on_start=on_start,
            )


class _Forked:
    """Implements `revirt.monitor.beginning.Beginning`."""

    def __init__(
        self,
        parent: Recording,
        config: MachineConfig,
        moment: _Moment,
        facts: dict[str, Any],
        *,
        shares: bool,
    ) -> None:
        self.config = config
        disks = config.devices.disks
        self.plugged = Plugged(config.devices, open_bases(parent.path, disks))
        self.base = moment.base if shares else None
        self._parent = parent
        self._moment = moment
        self._facts = facts
        self._machine: Machine | None = None

    def describe(self, command: Sequence[str]) -> Manifest:
        """Return a manifest that names the parent last of `forks`, behind those that it had itself."""
        guest = self._parent.manifest.guest
        before = guest.get("forks")
        forks = [*(before if isinstance(before, list) else ()), self._facts]
        kept = Kept()
        if self.base is not None:
            number = self.base.info.number + 1
            kept = Kept(checkpoint=number, branches=self._facts["branches"], guest_ns=self._facts["guest_ns"])
        contents = Manifest(
            guest={**guest, "forks": forks},
            machine=self.config.to_plain(),
            clock=self.config.clock,
            versions=current_versions(),
            command=list(command),
            kept=asdict(kept),
        )
        try:
            contents.to_json()
        except ValueError as error:
            raise CorruptError(
                self._parent.path / NAME, "leaves no room for what a fork adds to it"
            ) from error
        return contents

    def load(self, machine: Machine) -> None:
        """Bring *machine* to the moment."""
        self._moment.load(machine)
        self._machine = machine

    def take_pages(self) -> Pages:
        """Return the pages that the parent does not have, or all of them."""
        assert self._machine is not None
        numbers = self._moment.own_pages() if self.base is not None else self._moment.all_pages()
        return _read(self._machine, array("I", sorted(numbers)))


def _read(machine: Machine, numbers: array[int]) -> Iterator[tuple[bytes, bytes]]:
    for start in range(0, len(numbers), _BATCH):
        batch = to_bytes(numbers[start : start + _BATCH])
        yield batch, machine.core.read_pages(batch)


def _stand_at(
    recording: Recording, at: Point, collector: Collector, progress: Progress | None
) -> ReplaySession:
    """Return a session of *recording* at *at*, with all changes of memory since its checkpoint noted in the machine."""
    branches = branches_at(recording, at)
    start = checkpoint_before(recording, at)
    session = ReplaySession(recording, checkpoint=start.number, on_event=collector)
    session.machine.changed_pages()
    show_progress(session, progress, branches)
    until = None if at is Edge.END else branches
    if until != find_checkpoint(recording, None).branches:
        session.run(until)
    ended = why_ended(session.machine)
    if ended is not None:
        raise UsageError(
            f"the guest ends at {session.machine.moment().position}: {ended}",
            hint="go on from somewhere before that",
        )
    return session


def _facts(
    recording: Recording, at: Point, session: ReplaySession, changes: Changes, *, gives_inputs: bool
) -> dict[str, Any]:
    """Return what a manifest says of a fork: of what, where (as asked for, and really), and what is changed in it."""
    return {
        "uuid": recording.manifest.uuid,
        "at": str(at),
        "branches": session.machine.core.branches,
        "guest_ns": session.machine.clock.now_ns,
        "inputs": gives_inputs,
        "patches": [patch.to_plain() for patch in changes.patches],
        "dropped": sorted(changes.drops),
        "replaced": {str(number): data.hex() for number, data in sorted(changes.replacements.items())},
    }
