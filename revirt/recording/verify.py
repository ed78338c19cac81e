"""Checking every byte of a recording, and that its parts belong together.

Every file is compared with its checks, the events of the log with the hashes that some of them carry (see
`revirt.log.chain`), checkpoints with what the log says of them (see `revirt.recording.audit`), and all of it with the
seal, if there is one (see `revirt.recording.seal_check`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

from revirt.checkpoint import CheckpointInfo, CheckpointReader, LoadedCheckpoint
from revirt.checkpoint.format import checkpoint_name, pages_name
from revirt.errors import CorruptError, FormatVersionError, NoRecordingError, RecordingError
from revirt.log import segment
from revirt.log.chain import SEALED, Chain
from revirt.log.events import DIGEST_SIZE, Event, Kind
from revirt.log.frame import list_directory
from revirt.log.reader import Start, check_order, list_files
from revirt.log.segment import Segment
from revirt.recording import layout
from revirt.recording.audit import audit, check_events
from revirt.recording.machine import machine_of
from revirt.recording.manifest import NAME, Kept, Manifest, RecordingState
from revirt.recording.progress import Progress, no_progress
from revirt.recording.repair import was_repaired
from revirt.recording.seal import Seal, is_sealed
from revirt.recording.seal_check import SealCheck
from revirt.seal.keys import PublicKey

T = TypeVar("T")

_PATIENCE = 20
"""How often something is looked for again because the recorder let go of it meanwhile."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in a recording: which file, at which byte (None: as a whole), and what."""

    path: Path
    offset: int | None
    problem: str


_Check = Generator[Finding, None, T]
_Advance = Callable[..., None]
"""Told of files that are done."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A CHECKPOINT in the log: its ordinal, the event before it (None: not known), and the event itself."""

    ordinal: int
    before: Event | None
    event: Event


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the directory *path* from another that takes its name, None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Verdict(StrEnum):
    """What a verification came to; the last two are of recordings with findings, without a seal and with one."""

    INTACT = "intact"
    INTERRUPTED = "interrupted"
    RECORDING = "recording"
    DAMAGED = "damaged"
    TAMPERED = "tampered"


class Verification:
    """The check of everything in the recording *path*: iterate over it once to check, and get what is wrong.

    *contents* are those of its manifest.  If it is sealed, what the seal says is believed if *key* made it, or without
    *key* the one that stands in the recording; a recording that is not sealed fails against a *key*.  *progress* hears
    of the log, checkpoints and pages.
    """

    def __init__(
        self,
        path: Path,
        contents: Manifest,
        state: RecordingState,
        key: PublicKey | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.seal: Seal | None = None
        """The seal, if there is one whose signatures hold."""
        self.unsealed = 0
        """Events that no head is about."""
        self._path = path
        self._contents = contents
        self._state = state
        self._key = key
        self._progress = progress
        self._findings = 0
        self._directory = _identity(path)

    @property
    def verdict(self) -> Verdict:
        """What it came to, when all was looked at."""
        if self._findings:
            return Verdict.TAMPERED if self._key or is_sealed(self._path) else Verdict.DAMAGED
        if self._state is RecordingState.RECORDING:
            return Verdict.RECORDING
        is_complete = self._state is RecordingState.COMPLETE
        # What a repair completed is as good as nothing can vouch for: its recorder died.
        ended = self.seal is None or (self.seal.end is not None and not was_repaired(self._contents))
        return Verdict.INTACT if is_complete and ended else Verdict.INTERRUPTED

    def __iter__(self) -> Iterator[Finding]:
        """Yield what is wrong: every file is read once or twice, and every event once.

        Raises NoRecordingError if something is not there because the recording was moved or deleted meanwhile.
        """
        for finding in self._look():
            if _identity(self._path) != self._directory:
                hint = "verify it where it is now"
                raise NoRecordingError(self._path, "was moved or deleted while it was verified", hint=hint)
            self._findings += 1
            yield finding

    def _look(self) -> Iterator[Finding]:
        path, contents = self._path, self._contents
        named: dict[int, _Named] = {}
        edge = _Edge(path / NAME, contents, self._state)
        page_count = yield from _page_count(path / NAME, contents)
        seal: SealCheck | None = None
        if page_count is not None and (self._key or is_sealed(path)):
            seal = yield from self._open_seal(page_count, edge)
        walk = _Walk(path / layout.CHECKPOINTS, named, edge)
        advance = self._meter()
        counted = yield from _verify_log(path / layout.LOG, edge, walk, seal, advance)
        whole_log = None if counted is None else _Log(counted, named, page_count)
        infos = yield from _verify_checkpoints(path, edge, whole_log, seal, advance)
        if counted is None:
            return
        if seal is not None:
            yield from _found(path, lambda: seal.finish(counted))
            self.unsealed = seal.unsealed
        if infos is not None and self._state is RecordingState.COMPLETE:
            yield from _verify_counts(
                path / NAME,
                contents,
                {"events": counted, "checkpoints": contents.start.checkpoint + len(infos)},
            )

    def _meter(self) -> _Advance:
        """Return what is to be told which files are done."""
        done, total = 0, None
        with suppress(OSError, RecordingError):
            parts = (list_directory(self._path / name) for name in layout.ALWAYS)
            total = sum(each.lstat().st_size for part in parts for each in part)

        def advance(*files: Path) -> None:
            nonlocal done
            with suppress(OSError):
                done += sum(each.lstat().st_size for each in files)
            self._progress("checking", done, total)

        return advance

    def _open_seal(self, page_count: int, edge: _Edge) -> _Check[SealCheck | None]:
        """Open the seal, and compare the manifest with it; return what checks the rest, None if that cannot be."""
        directory = self._path / layout.SEAL

        def open_it() -> tuple[Seal, SealCheck]:
            seal = Seal.open(self._path, edge.contents, self._key)
            is_live = self._state is RecordingState.RECORDING
            return seal, SealCheck(self._path, seal, page_count, is_live=is_live)

        opened = yield from edge.catch_up(directory, open_it)
        if opened is None:
            return None
        self.seal, check = opened
        yield from _found(directory, self.seal.check_own_key)
        yield from _found(self._path / NAME, lambda: check.check_manifest(edge.contents))
        return check


class _Edge:
    """Where what is kept of the recording with that *manifest* begins, *contents* being what that says.

    Of a circular one that is being made it moves on while everything is looked at, and what goes is no finding.
    """

    def __init__(self, manifest: Path, contents: Manifest, state: RecordingState) -> None:
        self.contents = contents
        """The manifest, as it was when last looked at."""
        self._manifest = manifest
        self.moves = state is RecordingState.RECORDING and contents.ring is not None
        """Whether it may move at all."""

    @property
    def start(self) -> Kept:
        """Where what is kept began then."""
        return self.contents.start

    def has_moved(self) -> bool:
        """Look again; return whether it has moved since the last time."""
        if not self.moves:
            return False
        before, self.contents = self.contents, Manifest.read(self._manifest)
        return self.contents.kept != before.kept

    def is_past(self, *, segment: int | None = None, checkpoint: int | None = None) -> bool:
        """Look again; return whether *segment*, or *checkpoint*, is not kept any more."""
        self.has_moved()
        start = self.start
        return (segment is not None and segment < start.segment) or (
            checkpoint is not None and checkpoint < start.checkpoint
        )

    def catch_up(self, path: Path, look: Callable[[], T]) -> _Check[T | None]:
        """Return what *look* returns, when nothing was missing only because it went; None if something is wrong."""
        for patience in reversed(range(_PATIENCE)):
            try:
                return look()
            except RecordingError as error:
                finding = _finding(path, error)
                if not (self.has_moved() and patience):
                    yield finding
                    break
        return None


def _verify_log(
    directory: Path, edge: _Edge, walk: _Walk, seal: SealCheck | None, advance: _Advance
) -> _Check[int | None]:
    """Check the log, and with the *seal*; *walk* its events.

    Return the ordinal behind the last one, None if that cannot be told.
    """
    try:
        files = list_files(directory, edge.start.segment)
    except RecordingError as error:
        yield _finding(directory, error)
        return None
    before: Segment | None = None
    damaged = False
    for path in files:
        advance(path)
        try:
            # Behind a damaged segment nothing says where the next should begin.
            read = segment.read(path) if damaged else _read_next(path, before, edge)
        except RecordingError as error:
            damaged = True
            yield _finding(path, error)
            continue
        if read is None:
            before = None
            continue
        before, events = read
        yield from walk.pass_segment(before, events)
        if seal is not None:
            for finding in _found(path, partial(seal.pass_segment, before, events)):
                if not edge.is_past(segment=before.index):
                    yield finding
    if damaged:
        return None
    return before.ordinal + before.count if before else edge.start.event


def _read_next(path: Path, before: Segment | None, edge: _Edge) -> tuple[Segment, list[Event]] | None:
    """Return the segment in *path*, which follows *before*, with its events; None if it is not kept any more."""
    while (segment.index_of(path) or 0) >= edge.start.segment:
        if before is not None and before.index < edge.start.segment:
            before = None
        try:
            found, events = segment.read(path)
            check_order(before, found, Start(edge.start.segment, edge.start.event))
            return found, events
        except RecordingError:
            if not edge.has_moved():
                raise
    return None


class _Walk:
    """Goes over the events of a log: compares the hashes that some of them carry, and collects CHECKPOINTs in *named*.

    What a damaged segment held is not known, so behind it the next hash is believed, and goes on.  CHECKPOINTs that
    have no file in *directory* are not collected: a few bytes of log can hold tens of thousands.
    """

    def __init__(self, directory: Path, named: dict[int, _Named], edge: _Edge) -> None:
        self._directory = directory
        self._named = named
        self._edge = edge
        self._ordinal = 0
        self._chain: Chain | None = Chain()
        self._before: Event | None = None

    def pass_segment(self, found: Segment, events: list[Event]) -> Iterator[Finding]:
        """Take in the *events* of the segment *found*; yield hashes that are not theirs, and checkpoints missing."""
        if found.ordinal != self._ordinal:
            self._chain, self._before = None, None
        unhashed: list[Event] = []
        for ordinal, event in enumerate(events, found.ordinal):
            if event.kind is Kind.CHECKPOINT:
                path = self._directory / checkpoint_name(event.number)
                if path.is_symlink() or path.exists():
                    self._named[event.number] = _Named(ordinal, self._before, _shortened(event))
                elif not self._edge.is_past(checkpoint=event.number):
                    yield Finding(path, None, "missing")
            if event.kind in SEALED:
                self._hash(unhashed)
                if self._chain is not None and self._chain.seal(event) != event:
                    problem = f"the events up to number {ordinal} do not have the hash that it carries"
                    yield Finding(found.path, None, problem)
                self._chain = Chain(event.number)
            else:
                unhashed.append(event)
            self._before = _shortened(event)
        self._hash(unhashed)
        self._ordinal = found.ordinal + found.count

    def _hash(self, events: list[Event]) -> None:
        if self._chain is not None:
            self._chain.add(*events)
        events.clear()


def _shortened(event: Event) -> Event:
    """Return *event* with no more data than a DIGEST has: many are kept, and a hostile one may hold 8 MiB."""
    return event._replace(data=event.data[: 3 * DIGEST_SIZE]) if len(event.data) > 3 * DIGEST_SIZE else event


@dataclass(frozen=True, slots=True)
class _Log:
    """What checkpoints are compared with: a whole log of *count* events, its CHECKPOINTs, the machine's pages."""

    count: int
    named: dict[int, _Named]
    page_count: int | None

    def audit(self, reader: CheckpointReader, path: Path, loaded: LoadedCheckpoint) -> None:
        """Compare the checkpoint *loaded*, in the file *path*, with the log; raises CorruptError."""
        info = loaded.info
        # Its event may not have been written any more when the recorder died.
        if info.event >= self.count and info.number not in self.named:
            return
        own = self.named.get(info.number)
        events = (own.before, own.event) if own is not None and own.ordinal == info.event else ()
        pair = check_events(path, info, *events)
        if self.page_count is not None:
            audit(reader, path, loaded, pair, self.page_count)


def _verify_checkpoints(
    path: Path, edge: _Edge, log: _Log | None, seal: SealCheck | None, advance: _Advance
) -> _Check[list[CheckpointInfo] | None]:
    """Check checkpoints and pages, compare them with the *log* if all of that could be read, and with the *seal*.

    Return what checkpoints there are, None if that cannot be told.
    """
    directory = path / layout.CHECKPOINTS

    def open_them() -> tuple[CheckpointReader, list[CheckpointInfo]]:
        reader = CheckpointReader(directory, path / layout.PAGES, first=edge.start.checkpoint)
        if edge.moves:
            # What a checkpoint misses later that is still kept is damage.
            reader.settle()
        return reader, reader.infos

    # Without all headers pages cannot be found; `infos` stops at the first that is damaged.
    opened = yield from edge.catch_up(directory, open_them)
    if opened is None:
        return None
    reader, infos = opened
    # A file of pages that cannot be read stops the comparison of every checkpoint that uses it: once is enough.
    seen: set[Finding] = set()
    for info in infos:
        file = directory / checkpoint_name(info.number)
        advance(file, path / layout.PAGES / pages_name(info.number))
        for finding in _verify_checkpoint(file, reader, info.number, log, seal):
            if finding not in seen and not edge.is_past(checkpoint=info.number):
                seen.add(finding)
                yield finding
    for number in sorted((log.named.keys() if log else set()) - {info.number for info in infos}):
        if not edge.is_past(checkpoint=number):
            yield Finding(directory / checkpoint_name(number), None, "missing")
    return infos


def _verify_checkpoint(
    path: Path, reader: CheckpointReader, number: int, log: _Log | None, seal: SealCheck | None
) -> Iterator[Finding]:
    def compare() -> None:
        loaded = reader.load(number)
        if log is not None:
            log.audit(reader, path, loaded)
        if seal is not None:
            seal.pass_checkpoint(path, loaded)

    yield from _found(path, compare)
    yield from _found(path, lambda: reader.verify_pages(number))


def _page_count(path: Path, contents: Manifest) -> _Check[int | None]:
    """Return how many pages of memory the machine in the manifest *path* has, None if that cannot be told."""
    try:
        return machine_of(path.parent, contents).page_count
    except CorruptError as error:
        yield _finding(path, error)
        return None


def _verify_counts(path: Path, contents: Manifest, found: dict[str, int]) -> Iterator[Finding]:
    for name, count in found.items():
        expected = (contents.end or {}).get(name)
        if expected != count:
            yield Finding(path, None, f"counts {expected} {name} where there are {count}")


def _found(path: Path, check: Callable[[], None]) -> Iterator[Finding]:
    """Yield what *check* complains of, about *path* if it does not say what about."""
    try:
        check()
    except RecordingError as error:
        yield _finding(path, error)


def _finding(path: Path, error: RecordingError) -> Finding:
    """Return the finding that *error* is; raises it if it is none, but tells that a newer revirt is wanted."""
    if isinstance(error, FormatVersionError):
        raise error
    if isinstance(error, CorruptError):
        return Finding(error.path, error.offset, error.problem)
    return Finding(path, None, str(error))
