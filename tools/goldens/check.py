"""Compares golden recordings with what was noted down when they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from goldens.make import INDEX, README, file_name, files_of, opened, read_index
from goldens.table import TABLE
from goldens.witness import Facts, facts_of, state_at
from revirt.errors import RevirtError
from revirt.position import Position
from revirt.recording import Recording


def check(directory: Path, name: str) -> Iterator[str]:
    """Yield what is not as the index in *directory* says of the golden recording *name*."""
    entry = read_index(directory)[name]
    yield from check_files(directory, entry)
    try:
        with opened(directory / entry["file"]) as recording:
            yield from (f"verify: {finding.path.name}: {finding.problem}" for finding in recording.verify())
            yield from _differences("", entry, facts_of(recording))
            yield from _check_replays(recording, entry)
    except RevirtError as error:
        yield str(error)


def check_files(directory: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield which files of the index's *entry* are others than they were, or missing, and which are too many."""
    for name, digest in entry["files"].items():
        path = directory / name
        if not path.is_file():
            yield f"{name} is missing"
        elif sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{name} is not the file that it was"
    found = {path.relative_to(directory).as_posix() for path in files_of(directory / entry["file"])}
    yield from (f"{name} is not in the index" for name in sorted(found - set(entry["files"])))


def check_directory(directory: Path) -> Iterator[str]:
    """Yield what is in *directory* or in the table, and not in the index; and the other way round."""
    index = read_index(directory)
    if not index:
        yield f"there are no golden recordings in {directory}"
        return
    kept = {name.split("/")[0] for entry in index.values() for name in entry["files"]} | {INDEX, README}
    yield from (f"{path.name} is not in the index" for path in directory.iterdir() if path.name not in kept)
    table = {golden.name: golden for golden in TABLE}
    yield from (f"{name} is not in the table" for name in index if name not in table)
    yield from (f"{file_name(table[name])} was not made" for name in table if name not in index)


def _check_replays(recording: Recording, entry: Mapping[str, Any]) -> Iterator[str]:
    """Replay from every checkpoint, and to every position from the oldest."""
    for position, expected in entry["positions"].items():
        found = state_at(recording, Position.parse(position))
        yield from _differences(f"at {position}: ", expected, found)
    for number in entry["checkpoints"][1:]:
        found = state_at(recording, None, checkpoint=number)
        # What was printed before the checkpoint is not printed again.
        expected = {**entry["end"], "console": found["console"]}
        yield from _differences(f"from checkpoint {number}, at the end: ", expected, found)


def _differences(where: str, expected: Mapping[str, Any], found: Facts) -> Iterator[str]:
    """Yield which of the facts *found* are not as *expected*, which may have others."""
    for name, value in found.items():
        if name == "positions":
            continue  # they are those of the index, and were chosen once
        was = expected.get(name)
        if isinstance(value, dict) and isinstance(was, dict):
            missing = {each: None for each in was if each not in value}
            yield from _differences(f"{where}{name}: ", was, {**value, **missing})
        elif was != value:
            yield f"{where}{name} is {value}, and was {was}"
