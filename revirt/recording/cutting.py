"""Cutting a stretch out of a recording: a smaller one, that replays by itself.

Rules:
- It begins with a checkpoint, and ends at a branch count: every event up to there is in it, and none behind.
- Nothing in it is new but the manifest.  Segments, events, checkpoints and pages are those of the recording that it was
  cut out of, under the numbers that they have there.
- What is needed of that recording has to be sound; what is not needed is not looked at.  The cut is verified before it
  has its name.
- Whoever replays a cut runs on to its end behind the last event, because nothing happened there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any
from uuid import uuid4

from revirt.checkpoint import CheckpointInfo, CheckpointReader
from revirt.checkpoint.excerpt import write_checkpoint_excerpt
from revirt.errors import CorruptError, HostError, RecordingError, UsageError
from revirt.log.events import Kind
from revirt.log.excerpt import LogExcerpt, write_log_excerpt
from revirt.log.frame import write_whole
from revirt.log.reader import LogReader, Start
from revirt.recording import layout
from revirt.recording.disks import share_bases
from revirt.recording.machine import machine_of
from revirt.recording.manifest import CUT, NAME, Kept, Manifest, RecordingState
from revirt.recording.placing import new_recording
from revirt.recording.progress import Progress, no_progress
from revirt.recording.reader import Recording
from revirt.recording.seal import is_sealed
from revirt.recording.usage import disk_usage

_PREFIX = ".revirt-cut-"
_PATIENCE = 5
"""How often a circular recording is cut again because its recorder moved something under the reader."""


@dataclass(frozen=True, slots=True)
class CutReport:
    """What was cut out, into the directory ``path``.

    It begins with the checkpoint ``start`` and ends at ``branches``; with the END, if ``is_end``.  ``origin`` is the
    uuid of the recording that it was cut out of.  ``events`` and ``checkpoints`` are how many are in it, ``size`` how
    many bytes its files have.  ``was_sealed`` says that the other recording has a seal, which the cut has not.
    """

    path: Path
    uuid: str
    origin: str
    start: CheckpointInfo
    branches: int
    is_end: bool
    events: int
    checkpoints: int
    size: int
    was_sealed: bool


def cut(
    source: Recording,
    target: Path,
    start: CheckpointInfo,
    branches: int,
    *,
    asked: tuple[str, str],
    progress: Progress = no_progress,
) -> CutReport:
    """Make a recording in the new directory *target* of what is in *source* from *start* on, up to *branches*.

    *start* is one of its checkpoints; *asked* is from where to where somebody wanted it, for the manifest.

    Raises UsageError if *source* does not reach so far or *branches* is before *start*, RecordingExistsError if there
    is something at *target*, HostError if that cannot be written, CorruptError if what is needed of *source* is
    damaged, RecordingError if its recorder lets go of it meanwhile.  When it raises, or is interrupted, nothing is
    left behind; unless the cut is whole and in its place, and only that could not be synced any more.
    """
    target = target.absolute()
    if target.parent.resolve().is_relative_to(source.path.resolve()):
        raise RecordingError(f"{target} is inside the recording", hint="name another place with -o")
    if not start.branches <= branches <= source.end_branches:
        raise UsageError(
            f"nothing can be cut from {start.branches} to {branches} branches",
            hint=f"{source.path.name} ends at {source.end_branches}:0",
        )
    for left in reversed(range(_PATIENCE)):
        try:
            return _cut(source, target, start, branches, asked, progress)
        except CorruptError as error:
            if not _is_turning(source):
                raise
            _refuse_evicted(source, start, error)
            if not left:
                raise
    raise AssertionError("the last time returns or raises")


def _cut(
    source: Recording,
    target: Path,
    start: CheckpointInfo,
    branches: int,
    asked: tuple[str, str],
    progress: Progress,
) -> CutReport:
    try:
        with new_recording(target, _PREFIX) as made:
            contents, excerpt, checkpoints = _make(source, made, start, branches, asked, progress)
            size = disk_usage(made).total
    except OSError as error:
        problem = error.strerror or str(error)
        hint = "choose a writable directory with free space with -o"
        raise HostError(f"cannot cut into {target}: {problem}", hint=hint) from error
    return CutReport(
        path=target,
        uuid=contents.uuid,
        origin=source.manifest.uuid,
        start=start,
        branches=branches,
        is_end=contents.cut_at is None,
        events=excerpt.end - excerpt.start.event,
        checkpoints=checkpoints,
        size=size,
        was_sealed=is_sealed(source.path),
    )


def _make(
    source: Recording,
    made: Path,
    start: CheckpointInfo,
    branches: int,
    asked: tuple[str, str],
    progress: Progress,
) -> tuple[Manifest, LogExcerpt, int]:
    """Make the recording in the empty directory *made*; return its manifest, its log, and how many checkpoints it has.

    Raises CorruptError, and OSError.
    """
    for name in layout.ALWAYS:
        (made / name).mkdir()
    # Raises if it has no events of its own, which the log of the cut would begin with.
    source.events_of_checkpoint(source.load_checkpoint(start.number))
    first = start.event - 1
    begins = next(each for each in source.segments if first < each.ordinal + each.count)
    # Not from the beginning: what is there may be going, or damaged.
    log = LogReader(source.path / layout.LOG, Start(begins.index, begins.ordinal))
    progress("copying events", 0, None)
    excerpt = write_log_excerpt(log, made / layout.LOG, first, branches)
    # Behind the log: of what is being recorded, checkpoints are on disk before their events are.
    store = CheckpointReader(source.path / layout.CHECKPOINTS, source.path / layout.PAGES, first=start.number)
    count = sum(1 for _ in takewhile(lambda info: info.event < excerpt.end, store.infos))
    write_checkpoint_excerpt(
        store,
        range(start.number, start.number + count),
        made / layout.CHECKPOINTS,
        made / layout.PAGES,
        lambda done, total: progress("copying memory", done, total),
    )
    contents = _describe(source, start, branches, asked, excerpt, start.number + count)
    share_bases(source.path, made, len(machine_of(source.path, contents).devices.disks))
    _write_manifest(source, made, contents)
    (made / layout.LOCK).touch()
    progress("checking", 0, None)
    _check(source, made)
    return contents, excerpt, count


def _describe(
    source: Recording,
    start: CheckpointInfo,
    branches: int,
    asked: tuple[str, str],
    excerpt: LogExcerpt,
    checkpoints: int,
) -> Manifest:
    """Return the manifest of a cut that ends before checkpoint number *checkpoints*: a part of what *source* is."""
    kept = Kept(excerpt.start.segment, excerpt.start.event, start.number, start.branches, start.guest_ns)
    origin = {"uuid": source.manifest.uuid, "from": asked[0], "to": asked[1]}
    return replace(
        source.manifest,
        uuid=str(uuid4()),
        state=RecordingState.COMPLETE,
        ring=None,
        kept=asdict(kept),
        end={**_end(source, branches, excerpt), "events": excerpt.end, "checkpoints": checkpoints},
        origins=[*source.manifest.origins, origin],
    )


def _end(source: Recording, branches: int, excerpt: LogExcerpt) -> dict[str, Any]:
    """Return how the cut ended: as *source* did, if the end of that is in it."""
    last = excerpt.last
    if last.kind is not Kind.END:
        return {"reason": CUT, "branches": branches}
    if source.state is RecordingState.COMPLETE and source.manifest.end is not None:
        return source.manifest.end
    # Its recorder died behind the END.
    return {"reason": last.data.decode(errors="replace"), "branches": last.branches, "pc": last.pc}


def _write_manifest(source: Recording, made: Path, contents: Manifest) -> None:
    try:
        text = contents.to_json()
    except ValueError as error:
        raise CorruptError(source.path / NAME, "leaves no room for what a cut adds to it") from error
    write_whole(made / NAME, text.encode())


def _check(source: Recording, made: Path) -> None:
    """Verify the recording in *made*; raises CorruptError for the file of *source* that something damaged is from."""
    for finding in islice(Recording.open(made).verify(), 1):
        raise CorruptError(source.path / finding.path.relative_to(made), finding.problem)


def _is_turning(source: Recording) -> bool:
    return source.state is RecordingState.RECORDING and source.manifest.ring is not None


def _refuse_evicted(source: Recording, start: CheckpointInfo, error: CorruptError) -> None:
    """Raise RecordingError if the recorder has let go of *start*, which then is why there was an *error*."""
    oldest = Manifest.read(source.path / NAME).start
    if oldest.checkpoint > start.number:
        problem = f"checkpoint {start.number} of {source.path.name} was evicted while it was being copied"
        hint = f"the oldest left is {oldest.checkpoint}, at {oldest.branches}:0"
        raise RecordingError(problem, hint=hint) from error
