"""Guests that are a few lines of 16-bit code."""

from __future__ import annotations

from collections.abc import Callable

from revirt.recording import Recording

RecordSource = Callable[[str, int], Recording]
"""Records code, so many branches of it."""
