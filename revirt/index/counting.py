"""Making the index of a stretch: a replay that counts instructions, and looks which pages are written.

Rules:
- A checkpoint empties the CPU's TLB, in this replay as in one that starts there later.  A guest that lives from what
  its page tables do not say any more would notice: then the digest at the end of the stretch differs.  So what gets
  to that has checkpoints that lead there; a stretch where it does not is replayed again, without.
- Nothing is written anywhere but in the directory given.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from revirt.checkpoint import Base, CheckpointInfo, CheckpointWriter
from revirt.checkpoint.format import from_bytes, to_bytes
from revirt.checkpoint.pages import encode_bitmap
from revirt.errors import DivergenceError
from revirt.index.format import (
    INTERVALS,
    MAX_COUNTS,
    Contents,
    StretchHeader,
    encode_stretch,
    files_check,
    first_id,
    identity_of,
    most_intervals,
)
from revirt.index.stretches import Stretch
from revirt.log.events import Event
from revirt.log.frame import write_whole
from revirt.recording import Recording
from revirt.replay import ReplaySession

SPACING = 3_000_000
"""Branches between two checkpoints: 0.1 to 0.2 s of replay by a machine that has to translate all code first.

A Debian boot takes 49 MB for them; 8 million branches apart they would take 38.
"""
_WORK = 8
"""Instructions for each branch of the spacing with which a checkpoint is due earlier; Debian's boot has 7."""
_EVENT = 7_000
"""Instructions that take as long as an event."""
STRIDE = 1 << 16
"""Branches between two counts of instructions, which take a few ms to count."""
_BATCH = 1024

Report = Callable[[int, int], None]
"""Told now and then how many branches and how many ns of guest time of the stretch are done."""


def index_stretch(
    recording: Recording, stretch: Stretch, directory: Path, report: Report, spacing: int = SPACING
) -> None:
    """Write the index of *stretch* of *recording* to *directory*, which is empty.

    Its intervals are about *spacing* branches long.  Raises DivergenceError if the replay differs, CorruptError if the
    recording is damaged, and OSError if *directory* cannot be written.
    """
    try:
        _Counting(recording, stretch, directory, report, spacing, takes_checkpoints=True).run()
    except DivergenceError:
        for path in directory.iterdir():
            path.unlink()
        _Counting(recording, stretch, directory, report, spacing, takes_checkpoints=False).run()


class _StretchEnd(Exception):  # noqa: N818 - no error
    """The last event of the stretch has come."""


@dataclass(slots=True)
class _Found:
    """What a replay has found so far; fields as those of `Contents`."""

    begins: list[int] = field(default_factory=list)
    marks: array[int] = field(default_factory=lambda: array("Q"))
    events: array[int] = field(default_factory=lambda: array("Q"))
    written: list[bytes] = field(default_factory=list)
    pending: list[bytes] = field(default_factory=list)


class _Counting:
    """A replay of *stretch* that counts."""

    def __init__(
        self,
        recording: Recording,
        stretch: Stretch,
        directory: Path,
        report: Report,
        spacing: int,
        *,
        takes_checkpoints: bool,
    ) -> None:
        self._stretch = stretch
        self._directory = directory
        self._report = report
        self._recording = recording
        self._found = _Found()
        self._session = ReplaySession(
            recording,
            checkpoint=stretch.number,
            on_event=self._passed,
            # A recording that is being made may have grown since it was looked at.
            events=lambda first: islice(recording.events(first), max(0, stretch.event_end - first)),
        )
        self._machine = self._session.machine
        self._core = self._machine.core
        self._stride = _stride(stretch, spacing)
        self._most = most_intervals(self._machine.page_count)
        # Half of the intervals may turn out to be short ones.
        self._spacing = max(spacing, 2 * (stretch.end - stretch.begin) // self._most)
        self._begin_work = 0
        base = recording.load_checkpoint(stretch.number).page_map
        self._writer = (
            CheckpointWriter(directory, directory, base=Base(base, first_id(stretch.number)))
            if takes_checkpoints
            else None
        )

    def run(self) -> None:
        """Replay, and write what was found."""
        try:
            self._replay()
        finally:
            if self._writer is not None:
                self._writer.abandon()
        header, found = self._header(), self._found
        contents = Contents(found.begins, found.marks, found.events, found.written, found.pending)
        write_whole(self._directory / INTERVALS, *encode_stretch(header, contents))

    def _replay(self) -> None:
        # What the checkpoint brought does not count as written.
        self._machine.changed_pages()
        self._core.counting = True
        self._note_interval(self._stretch.begin)
        try:
            for branches in _multiples(self._stretch, self._stride):
                if not self._goes_on(branches):
                    break
                self._found.marks.append(self._core.instructions)
                if self._is_due(branches):
                    self._begin_interval(branches)
            else:
                self._goes_on(None)
        except _StretchEnd:
            pass
        self._note_written(self._written())

    def _goes_on(self, branches: int | None) -> bool:
        """Run to *branches*, or to the end; return whether it is not there yet."""
        stop = self._session.run(branches)
        return stop.halted is None and stop.ended is None

    def _passed(self, _event: Event) -> None:
        stretch = self._stretch
        if stretch.event_end - stretch.first_event <= MAX_COUNTS:
            self._found.events.append(self._core.instructions)
        if self._session.replayer.next_event == stretch.event_end and not stretch.is_last:
            raise _StretchEnd

    def _is_due(self, branches: int) -> bool:
        """Return whether the interval that is on ends at *branches*."""
        begins = self._found.begins
        is_long = branches - begins[-1] >= self._spacing
        is_slow = self._work() - self._begin_work >= _WORK * self._spacing
        return (is_long or is_slow) and len(begins) < self._most

    def _work(self) -> int:
        """Return how much was replayed, in instructions."""
        return self._core.instructions + _EVENT * self._session.replayer.next_event

    def _begin_interval(self, branches: int) -> None:
        """End the interval that was on, and begin one here, at *branches*, with a checkpoint."""
        numbers = self._written()
        self._note_written(numbers)
        if self._writer is not None:
            self._core.flush_tlb()
            self._store(self._writer, numbers)
        self._note_interval(branches)
        self._report(branches - self._stretch.begin, self._machine.clock.now_ns - self._stretch.info.guest_ns)

    def _store(self, writer: CheckpointWriter, numbers: array[int]) -> None:
        moment = self._machine.moment()
        place = (moment.branches, moment.halted, moment.pc)
        now_ns, next_event = self._machine.clock.now_ns, self._session.replayer.next_event
        info = CheckpointInfo(len(self._found.begins), *place, now_ns, next_event)
        writer.begin(info, self._machine.save())
        for start in range(0, len(numbers), _BATCH):
            batch = to_bytes(numbers[start : start + _BATCH])
            writer.add_pages(batch, self._core.read_pages(batch))
        writer.commit()

    def _written(self) -> array[int]:
        """Return the pages that were written since this was last asked."""
        return from_bytes("I", self._machine.changed_pages())

    def _note_written(self, numbers: Iterable[int]) -> None:
        count = self._machine.page_count
        # Where writes are not tracked, a page that is again what it was does not show.
        numbers = numbers if self._core.tracks_writes else range(count)
        self._found.written.append(encode_bitmap(numbers, count))

    def _note_interval(self, branches: int) -> None:
        self._found.begins.append(branches)
        self._begin_work = self._work()
        self._found.pending.append(self._session.replayer.place.pending_output)

    def _header(self) -> StretchHeader:
        stretch, found, moment = self._stretch, self._found, self._machine.moment()
        return StretchHeader(
            identity=identity_of(self._recording.manifest.uuid, stretch.info),
            files=files_check(self._directory),
            checkpoint=stretch.number,
            first_event=stretch.first_event,
            event_end=stretch.event_end,
            begin=stretch.begin,
            # Of the line that a recording ends on, nothing is known behind its last event.
            end=moment.branches + moment.halted if stretch.is_last else stretch.end,
            instructions=self._core.instructions,
            stride=self._stride,
            marks=len(found.marks),
            events=len(found.events),
            intervals=len(found.begins),
            pages=self._machine.page_count,
        )


def _stride(stretch: Stretch, spacing: int) -> int:
    """Return how many branches apart counts are."""
    stride = min(STRIDE, spacing)
    return stride * (1 + (stretch.end - stretch.begin) // (MAX_COUNTS * stride))


def _multiples(stretch: Stretch, stride: int) -> range:
    """Return the branches in *stretch*, behind its begin, at which instructions are counted."""
    return range((stretch.begin // stride + 1) * stride, stretch.end, stride)
