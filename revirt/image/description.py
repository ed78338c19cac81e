"""Tables of a TOML file, taken apart key by key: an error names the file, the key and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from revirt.errors import GuestError

T = TypeVar("T")

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Table:
    """One table of the file *path*, called *prefix* there; methods named for a type take a key.

    Each returns None (or nothing) for a key that is absent, and raises GuestError for a value that is wrong.
    """

    def __init__(self, path: Path, prefix: str, values: Mapping[str, object]) -> None:
        self.path = path
        self._prefix = prefix
        self._values = values
        self._taken: set[str] = set()

    def name(self, key: str) -> str:
        """Return the full name of *key* in the file."""
        return f"{self._prefix}.{key}" if self._prefix else key

    def table(self, key: str) -> Table:
        """Return the table *key*, empty if it is absent."""
        return Table(self.path, self.name(key), self._take(key, dict, "a table") or {})

    def text(self, key: str, *, pattern: re.Pattern[str] | None = None) -> str | None:
        """Return the one-line string *key*, which must match *pattern* in full."""
        value = self._take(key, str, "a string")
        if value is not None and ("\n" in value or "\0" in value):
            raise self._error(key, "must be one line")
        if value is not None and pattern is not None and not pattern.fullmatch(value):
            raise self._error(key, f"{value!r} does not match {pattern.pattern}")
        return value

    def texts(self, key: str, *, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        """Return the list of different strings *key*, each of which must match *pattern* in full."""
        values: list[object] = self._take(key, list, "a list of strings") or []
        texts = tuple(value for value in values if isinstance(value, str))
        if len(texts) != len(values) or len(set(texts)) != len(texts):
            raise self._error(key, "must be a list of different strings")
        for text in texts:
            if pattern is not None and not pattern.fullmatch(text):
                raise self._error(key, f"{text!r} does not match {pattern.pattern}")
        return texts

    def choice(self, key: str, choices: Sequence[str]) -> str | None:
        """Return the string *key*, one of *choices*."""
        value = self.text(key)
        if value is not None and value not in choices:
            raise self._error(key, f"{value!r} is none of {', '.join(choices)}")
        return value

    def integer(self, key: str) -> int | None:
        """Return the integer *key*, 0 or more."""
        value = self._take(key, int, "an integer")
        if isinstance(value, bool) or (value is not None and value < 0):
            raise self._error(key, "must be an integer, 0 or more")
        return value

    def path_of(self, key: str, value: str) -> Path:
        """Return the file *value*, which must lie in the directory of the description."""
        directory = self.path.parent
        try:
            is_inside = (directory / value).resolve().is_relative_to(directory.resolve())
        except (OSError, ValueError, RuntimeError) as error:
            raise self._error(key, f"{value!r} is not a path: {error}") from error
        if not value or not is_inside:
            raise self._error(key, f"{value!r} does not lie in the directory of the description")
        return directory / value

    def file(self, key: str) -> Path | None:
        """Return the file named by *key*, which must exist beside the description."""
        value = self.text(key)
        return None if value is None else self._existing(key, value)

    def files(self, key: str) -> tuple[Path, ...]:
        """Return the files named in the list *key*, which must exist beside the description."""
        return tuple(self._existing(key, value) for value in self.texts(key))

    def _existing(self, key: str, value: str) -> Path:
        path = self.path_of(key, value)
        if not path.is_file():
            raise self._error(key, f"there is no file {value!r} beside the description")
        return path

    def digests(self) -> dict[Path, str]:
        """Take every key of this table as a file, and return their SHA-256 digests by path."""
        found = {}
        for key in self._values:
            digest = self.text(key, pattern=_SHA256)
            assert digest is not None
            found[self.path_of(key, key)] = digest
        return found

    def require(self, key: str, value: T | None) -> T:
        """Return *value*, taken from *key*; raises GuestError if it is None."""
        if value is None:
            raise GuestError(f"{self.path}: {self.name(key)} is missing")
        return value

    def refuse_unknown(self) -> None:
        """Raise GuestError if a key was not taken."""
        for key in self._values:
            if key not in self._taken:
                raise self._error(key, "unknown key")

    def _take(self, key: str, kind: type[T], wanted: str) -> T | None:
        self._taken.add(key)
        value = self._values.get(key)
        if value is not None and not isinstance(value, kind):
            raise self._error(key, f"must be {wanted}")
        return value

    def _error(self, key: str, problem: str) -> GuestError:
        return GuestError(f"{self.path}: {self.name(key)}: {problem}")
