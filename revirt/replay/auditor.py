"""Audits a recording: whether everything that it says came out of the guest follows from what it says went in.

Whoever did not make a recording runs this to believe it.  It adds no check of its own to the run: the files are
verified, then the log is replayed, in which every event is compared and every checkpoint passed is audited.  What it
adds is the account of what was confirmed by that, from where to where, and of what was not.

Rules:
- An event counts once it has come again, and only then.
- What the audit starts from is given: the first checkpoint is compared with the log, but not derived from anything.
- What the manifest says of the end is compared, too: it is what people read first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from itertools import islice

from revirt.errors import CorruptError
from revirt.log.events import Event, Kind
from revirt.recording import CheckpointInfo, Finding, Recording, RecordingState
from revirt.recording.manifest import NAME
from revirt.recording.versions import current_versions
from revirt.render import Progress
from revirt.replay.run import ReplayReport, replay
from revirt.replay.session import find_checkpoint

MOST_FINDINGS = 100
"""Findings listed at most."""


class Role(Enum):
    """What an event is to an audit."""

    INPUT = auto()
    OUTPUT = auto()
    CHECK = auto()


ROLES = {
    Kind.CLOCK: Role.INPUT,
    Kind.RATE: Role.INPUT,
    Kind.RECEIVED: Role.INPUT,
    Kind.FRAME_IN: Role.INPUT,
    Kind.DISK: Role.INPUT,
    Kind.ENTROPY: Role.INPUT,
    Kind.KEYS: Role.INPUT,
    Kind.TRANSMITTED: Role.OUTPUT,
    Kind.FRAME_OUT: Role.OUTPUT,
    Kind.STORED: Role.OUTPUT,
    Kind.INTERRUPT: Role.CHECK,
    Kind.DIGEST: Role.CHECK,
    Kind.CHECKPOINT: Role.CHECK,
    Kind.END: Role.CHECK,
}
"""Of every kind of event: given to the guest, come out of it, or there to compare with.

A new kind, of packets or of writes to a disk, gets its place here, and is audited as far as the replayer compares it.
"""


class Verdict(StrEnum):
    """What an audit came to."""

    CONFIRMED = "confirmed"
    """Everything that is in the recording."""
    PARTIAL = "partial"
    """Everything that was replayed; ``gaps`` says what was not."""
    DIVERGED = "diverged"
    """The guest did something else, given the same."""
    DAMAGED = "damaged"
    """Files are not what was written, or contradict each other or the guest."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that were not confirmed: *count* of them (None: nobody knows) from number *first* on, and why."""

    first: int
    count: int | None
    why: str


@dataclass(slots=True)
class Confirmed:
    """What came again in a replay: events of each kind, and bytes of data that they carry."""

    events: Counter[Kind] = field(default_factory=Counter)
    bytes: Counter[Kind] = field(default_factory=Counter)

    def add(self, event: Event) -> None:
        """Count *event*."""
        self.events[event.kind] += 1
        self.bytes[event.kind] += len(event.data)

    def begin(self) -> None:
        """Count the DIGEST and the CHECKPOINT that a replay starts from, which are compared before it runs."""
        self.events[Kind.DIGEST] += 1
        self.events[Kind.CHECKPOINT] += 1

    def events_as(self, role: Role) -> int:
        """Return how many events of that role there were."""
        return sum(count for kind, count in self.events.items() if ROLES[kind] is role)

    def bytes_as(self, role: Role) -> int:
        """Return how many bytes the events of that role carry."""
        return sum(count for kind, count in self.bytes.items() if ROLES[kind] is role)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit came to.

    ``start`` is the checkpoint it started from, None if nothing was replayed because of what is in ``findings``: at
    most ``MOST_FINDINGS`` of them.  ``pages`` is how many pages of memory on disk were read and compared with the log.
    ``replay`` is None if there was none, or damage ended it.  ``recorded_with`` and ``audited_with`` are versions by
    name.
    """

    verdict: Verdict
    start: CheckpointInfo | None
    confirmed: Confirmed
    pages: int
    findings: list[Finding]
    gaps: list[Gap]
    replay: ReplayReport | None
    recorded_with: dict[str, str]
    audited_with: dict[str, str]


def audit(
    recording: Recording,
    *,
    checkpoint: int | None = None,
    progress: Progress | None = None,
    on_start: Callable[[Callable[[str], None]], None] | None = None,
) -> AuditReport:
    """Verify the files of *recording*, replay it from a checkpoint (default: the oldest) to its end, and report.

    *progress* and *on_start* are as for `replay`, and are called only once the files are known to be intact.

    Raises RecordingError if the recording has no checkpoint, HostError if another Unicorn is needed, UsageError if
    it does not have that checkpoint.  Damage and divergence are in the report, not raised.
    """
    findings = list(islice(recording.verify(), MOST_FINDINGS))
    confirmed = Confirmed()
    if findings:
        return _report(recording, findings, confirmed)
    start = find_checkpoint(recording, checkpoint)
    came_to = None

    def begin(stop: Callable[[str], None]) -> None:
        confirmed.begin()
        if on_start is not None:
            on_start(stop)

    try:
        came_to = replay(
            recording, checkpoint=start.number, progress=progress, on_start=begin, on_event=confirmed.add
        )
        findings.extend(_contradictions(recording, came_to, confirmed))
    except CorruptError as error:
        findings.append(Finding(error.path, error.offset, error.problem))
    gaps = list(_gaps(recording, start, confirmed, came_to))
    return _report(recording, findings, confirmed, start, gaps, came_to)


def _report(
    recording: Recording,
    findings: list[Finding],
    confirmed: Confirmed,
    start: CheckpointInfo | None = None,
    gaps: Sequence[Gap] = (),
    came_to: ReplayReport | None = None,
) -> AuditReport:
    if came_to is not None and not came_to.exact:
        verdict = Verdict.DIVERGED
    elif findings:
        verdict = Verdict.DAMAGED
    else:
        verdict = Verdict.PARTIAL if gaps else Verdict.CONFIRMED
    pages = recording.new_pages if start is not None else {}
    return AuditReport(
        verdict=verdict,
        start=start,
        confirmed=confirmed,
        pages=sum(pages[info.number] for info in recording.checkpoints) if pages else 0,
        findings=findings,
        gaps=list(gaps),
        replay=came_to,
        recorded_with=recording.manifest.versions,
        audited_with=current_versions(),
    )


def _contradictions(recording: Recording, came_to: ReplayReport, confirmed: Confirmed) -> Iterator[Finding]:
    """Yield what the manifest says of the end that is not so."""
    cut_at = recording.manifest.cut_at
    # What happens at the last branch itself may take the guest to the next.
    if cut_at is not None and came_to.exact and came_to.branches > cut_at + 1:
        problem = f"says that it was cut at {cut_at} branches where the replay came to {came_to.branches}"
        yield Finding(recording.path / NAME, None, problem)
    if not confirmed.events[Kind.END]:
        return
    ended = came_to.ended
    found = {
        "reason": came_to.reason,
        "exit_code": ended.exit_code if ended else None,
        "crashed": ended.crashed if ended else False,
        "branches": came_to.branches,
        "guest_ns": came_to.guest_ns,
    }
    said = recording.manifest.end or {}
    for name, value in found.items():
        if name in said and said[name] != value:
            problem = f"says {name} {said[name]!r:.80} where the replay came to {value!r:.80}"
            yield Finding(recording.path / NAME, None, problem)


def _gaps(
    recording: Recording, start: CheckpointInfo, confirmed: Confirmed, came_to: ReplayReport | None
) -> Iterator[Gap]:
    """Yield what of the log, and of what belongs behind it, was not confirmed."""
    segments = recording.segments
    first, end = segments[0].ordinal, segments[-1].ordinal + segments[-1].count
    if not confirmed.events:
        yield Gap(first, end - first, "nothing was replayed")
        return
    # Of what a replay starts from, the DIGEST stands before the CHECKPOINT.
    if start.event - 1 > first:
        yield Gap(first, start.event - 1 - first, "they are before the checkpoint that was started from")
    next_event = start.event - 1 + confirmed.events.total()
    if next_event < end:
        yield Gap(next_event, end - next_event, _why_not_to_the_end(came_to))
    elif not confirmed.events[Kind.END]:
        yield Gap(end, None, f"the log has no END: the recording {_why_no_end(recording)}")


def _why_no_end(recording: Recording) -> str:
    if recording.manifest.cut_at is not None:
        return "was cut out of another, which went on"
    return "is still being recorded" if recording.state is RecordingState.RECORDING else "was cut short"


def _why_not_to_the_end(came_to: ReplayReport | None) -> str:
    if came_to is None:
        return "they are behind what is damaged"
    if not came_to.exact:
        return "they are behind the divergence"
    return f"the audit was stopped: {came_to.reason}"
