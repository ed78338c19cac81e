"""The manifest: what was recorded, how, and how it ended; JSON for people and other programs.

    format     1
    uuid       of this recording
    state      "recording", "complete" or "interrupted"
    created    when it began: ISO 8601, UTC
    guest      the guest: its name, images and their digests
    machine    the machine's configuration
    clock      "host" or "virtual"
    versions   of what took part: name to version
    command    the command line that made it
    ring       what a circular recording keeps: ``size`` in bytes, ``keep_ns`` of guest time; None: everything
    kept       where what is kept begins: ``segment``, ``event``, ``checkpoint``, ``branches``, ``guest_ns``
    end        how it ended, None before: ``events`` and ``checkpoints`` count what is in it
    origins    of a recording that was cut out of another what that was, before it what that was cut out of, and so on:
               the ``uuid``, and from where to where, as it was asked for (``from``, ``to``); empty if it is no cut
    check      BLAKE2b-128, in hex, of everything else as JSON with sorted keys and no spaces

Only state, kept and end change after it was first written.  What is inside guest, machine, versions and end is up to
whoever records; it must be JSON.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from revirt.errors import CorruptError, FormatVersionError
from revirt.log.frame import check_of, read_file
from revirt.log.strict_json import NESTING_LIMIT, is_flat, read, write_canonical

FORMAT_VERSION = 1
NAME = "manifest.json"
SIZE_LIMIT = 4 << 20
"""Most bytes that a manifest may have."""
CUT = "cut"
"""The reason why a recording ends that was cut out of another, and ends before that."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where what is kept of a recording begins: with a checkpoint, and the DIGEST before its event."""

    segment: int = 0
    event: int = 0
    checkpoint: int = 0
    branches: int = 0
    guest_ns: int = 0


class RecordingState(StrEnum):
    """How far a recording has come."""

    RECORDING = "recording"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"


def _new_uuid() -> str:
    return str(uuid.uuid4())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(slots=True, kw_only=True)
class Manifest:
    """What is known of a recording as a whole; the module's docstring lists the fields."""

    format: int = FORMAT_VERSION
    uuid: str = field(default_factory=_new_uuid)
    state: str = RecordingState.RECORDING
    created: str = field(default_factory=_now)
    guest: dict[str, Any]
    machine: dict[str, Any]
    clock: str
    versions: dict[str, str]
    command: list[str]
    ring: dict[str, Any] | None = None
    kept: dict[str, int] = field(default_factory=lambda: asdict(Kept()))
    end: dict[str, Any] | None = None
    origins: list[dict[str, str]] = field(default_factory=list)

    @property
    def cut_at(self) -> int | None:
        """The branch count up to which all of the recording it was cut out of is here, None if it was not cut there."""
        branches = (self.end or {}).get("branches")
        is_cut = bool(self.origins) and (self.end or {}).get("reason") == CUT
        return branches if is_cut and type(branches) is int and 0 <= branches < 1 << 63 else None

    @property
    def start(self) -> Kept:
        """Where what is kept begins."""
        return Kept(**self.kept)

    @property
    def subject(self) -> bytes:
        """SHA-256 of what never changes, written as for the check: what a seal says that it is about."""
        plain = asdict(self)
        for name in ("state", "kept", "end"):
            del plain[name]
        return sha256(write_canonical(plain)).digest()

    def to_json(self) -> str:
        """Return the manifest as text, one field a line or more; raises ValueError if no reader would take it."""
        plain = asdict(self)
        if not is_flat(plain):
            raise ValueError(f"the manifest has more than {NESTING_LIMIT} levels")
        try:
            text = json.dumps({**plain, "check": _check(plain)}, indent=2, allow_nan=False) + "\n"
        except TypeError as error:
            raise ValueError(f"the manifest holds what JSON cannot: {error}") from error
        if len(text) > SIZE_LIMIT:
            raise ValueError(f"the manifest takes {len(text)} bytes; none has more than {SIZE_LIMIT}")
        return text

    @classmethod
    def from_json(cls, data: bytes, path: Path) -> Manifest:
        """Return the manifest in *data*, the contents of *path*.

        Raises FormatVersionError if a newer revirt wrote it, CorruptError if it is not as `to_json` made it.
        """
        plain = _parse(data, path)
        version = plain.get("format")
        if type(version) is not int or version < 1:
            raise CorruptError(path, "has no format version")
        if version > FORMAT_VERSION:
            raise FormatVersionError(path, version, FORMAT_VERSION)
        if not is_flat(plain):
            raise CorruptError(path, f"has more than {NESTING_LIMIT} levels of objects and lists")
        check = plain.pop("check", None)
        missing = {each.name for each in fields(cls)} ^ set(plain)
        if missing:
            raise CorruptError(path, f"missing or unknown: {', '.join(sorted(missing))}")
        manifest = cls(**plain)
        manifest._check_types(path)
        if check != _check(plain):
            raise CorruptError(path, "contents do not match the check")
        return manifest

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Return the manifest in the file *path*; raises as `from_json`."""
        return cls.from_json(read_file(path, SIZE_LIMIT), path)

    def _check_types(self, path: Path) -> None:
        for name in ("uuid", "state", "created", "clock"):
            if type(getattr(self, name)) is not str:
                raise CorruptError(path, f"{name} is not text")
        for name in ("guest", "machine", "versions"):
            if type(getattr(self, name)) is not dict:
                raise CorruptError(path, f"{name} is not an object")
        if self.ring is not None and not _is_ring(self.ring):
            raise CorruptError(path, "ring does not say what a circular recording keeps")
        if type(self.kept) is not dict or self.kept.keys() != asdict(Kept()).keys():
            raise CorruptError(path, "kept is not a place in a recording")
        if not all(map(_is_count, self.kept.values())):
            raise CorruptError(path, "kept holds something that is not a count")
        if self.end is not None and type(self.end) is not dict:
            raise CorruptError(path, "end is neither an object nor null")
        if type(self.origins) is not list or not all(map(_is_origin, self.origins)):
            raise CorruptError(path, "origins are not places in recordings")
        if type(self.command) is not list:
            raise CorruptError(path, "command is not a list")
        if not all(type(text) is str for text in (*self.command, *self.versions.values())):
            raise CorruptError(path, "command or versions hold something that is not text")
        if self.state not in list(RecordingState):
            raise CorruptError(path, f"unknown state {self.state!r}")


def _is_ring(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"size", "keep_ns"}:
        return False
    return all(each is None or _is_count(each) for each in value.values())


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _is_origin(value: object) -> bool:
    if type(value) is not dict or value.keys() != {"uuid", "from", "to"}:
        return False
    return all(type(each) is str for each in value.values())


def _check(plain: dict[str, Any]) -> str:
    return check_of(write_canonical(plain)).hex()


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        plain = read(data)
    except ValueError as error:
        offset = error.pos if isinstance(error, json.JSONDecodeError) else None
        raise CorruptError(path, f"not valid JSON: {error}", offset=offset) from error
    if type(plain) is not dict:
        raise CorruptError(path, "not a JSON object")
    return plain
