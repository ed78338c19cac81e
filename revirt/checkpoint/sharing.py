"""Files of pages that two recordings have: one that goes on where another was has its pages under their ids.

Rules:
- A file of pages is never changed once it has its name, only replaced or deleted.  So two recordings can have the same
  file, and neither what is done to the one nor deleting it takes anything from the other.
- Where the host cannot have a file twice, or not all of it is sound, what is needed of it is copied.
- A file is looked at once it is shared: a recorder may put one with fewer pages in its place at any time.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path

from revirt.checkpoint.format import core_hash_pages
from revirt.checkpoint.pages import PageFile
from revirt.checkpoint.reader import LoadedCheckpoint
from revirt.checkpoint.store import copy_pages
from revirt.errors import CorruptError


def share_pages(loaded: LoadedCheckpoint, pages: Path) -> None:
    """Put the files with the pages of *loaded* into the directory *pages* of another recording.

    Raises CorruptError if a page that is needed is damaged, and OSError.
    """
    ids = array("Q", sorted(set(loaded.page_map) - {0}))
    for file, _, needed in loaded.reader.locate(ids):
        target = pages / file.path.name
        if not (_link(file.path, target) and _is_sound(target, needed)):
            copy_pages(file, needed, target)


def _is_sound(path: Path, needed: Iterable[int]) -> bool:
    """Return whether all that is in the file of pages *path* is as it was written, and *needed* is in it."""
    try:
        file = PageFile.open(path)
        for page_id in needed:
            file.place(page_id)
        file.verify(core_hash_pages)
    except CorruptError:
        return False
    return True


def _link(path: Path, target: Path) -> bool:
    """Have the file *path* as *target*, too; return whether the host can."""
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:
        # Another file system, or one that knows no links, or another user's file: copying tells what else is wrong.
        return False
    return True
