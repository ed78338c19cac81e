"""Telling how far something has come that takes its time."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Told now and then what is being done, how many bytes of it are done, and of how many (None: unknown)."""


def no_progress(_what: str, _done: int, _total: int | None) -> None:
    """Take no notice."""
