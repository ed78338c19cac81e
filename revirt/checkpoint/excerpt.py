"""Some of a recording's checkpoints as a store of their own: under the same numbers, with the pages that they need.

Pages keep their ids and their files.  Of files that were made for earlier checkpoints what is needed is left, as it
is where those were evicted.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from revirt.checkpoint.format import PAGE_SIZE, checkpoint_name, encode_checkpoint
from revirt.checkpoint.pages import PageFile
from revirt.checkpoint.reader import CheckpointReader, LoadedCheckpoint
from revirt.checkpoint.store import copy_pages
from revirt.log.frame import write_whole

Progress = Callable[[int, int], None]
"""Told now and then how many bytes of pages are done, and of how many."""


def write_checkpoint_excerpt(
    source: CheckpointReader, numbers: range, checkpoints: Path, pages: Path, progress: Progress
) -> None:
    """Write the checkpoints *numbers* of *source* to the directories *checkpoints* and *pages*.

    Raises RecordingError if one is not there, CorruptError if what is needed is damaged, and OSError if the directories
    cannot be written.
    """
    headers = {header.info.number: header for header in source.headers}
    needed = _Needed(source)
    for number in numbers:
        loaded, header = source.load(number), headers[number]
        parts = encode_checkpoint(
            loaded.info, loaded.state, loaded.page_map, header.first_page, header.page_count
        )
        write_whole(checkpoints / checkpoint_name(number), *parts)
        needed.add(loaded)
    done, total = 0, needed.count * PAGE_SIZE
    for each in sorted(needed.files.values(), key=lambda each: each.file.range.number):
        progress(done, total)
        ids = each.ids
        copy_pages(each.file, ids, pages / each.file.path.name)
        done += len(ids) * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class _Marked:
    """A file of pages, and for every page that is there whether it is needed.

    Marks are by place, not by id: a header may claim any number of ids, but places stand for pages on disk.
    """

    file: PageFile
    marks: bytearray

    @property
    def ids(self) -> list[int]:
        """The ids of the pages that are needed, ascending."""
        return list(compress(self.file.ids, self.marks))


class _Needed:
    """Which pages some checkpoints need, by the number of the file that they are in."""

    def __init__(self, source: CheckpointReader) -> None:
        self.files: dict[int, _Marked] = {}
        self._source = source
        self._before: set[int] = {0}

    def add(self, loaded: LoadedCheckpoint) -> None:
        """Mark what the checkpoint *loaded* needs, and its own file of pages; raises CorruptError."""
        self._marked(self._source.page_file(loaded.info.number))
        mapped = set(loaded.page_map)
        for file, _, ids in self._source.locate(array("Q", sorted(mapped - self._before))):
            marks = self._marked(file).marks
            for page_id in ids:
                marks[file.place(page_id)] = 1
        mapped.add(0)
        self._before = mapped

    @property
    def count(self) -> int:
        """How many pages are needed."""
        return sum(each.marks.count(1) for each in self.files.values())

    def _marked(self, file: PageFile) -> _Marked:
        number = file.range.number
        if number not in self.files:
            self.files[number] = _Marked(file, bytearray(len(file.hashes)))
        return self.files[number]
