"""Showing a live machine's screen: whoever looks at it, and when there is something new for them.

A `Display` is asked whenever the machine stands still, as all sources are.  It gives nothing; it looks.

Rules:
- While nobody looks it costs nothing.
- A screen is read in the machine's thread, where the machine stands still, and drawn in others.
- At most 25 screens a second are read, and the last one before the guest sleeps always is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from revirt.machine.inputs import Arrival
from revirt.machine.machine import Machine
from revirt.screen import Screen, TextScreen, screen_of

INTERVAL_S = 0.04
TEXT_BRANCHES = 500_000
"""Branches that a guest which does not sleep runs before its screen is read again for its text."""


class Viewer(Protocol):
    """Who looks at screens."""

    @property
    def is_watched(self) -> bool:
        """Whether a screen is wanted now."""
        ...

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; *wake*, from any thread, makes the machine stand still soon, and the display look."""
        ...

    def publish(self, screen: Screen) -> None:
        """Take the newest screen; must not block."""
        ...

    def close(self) -> None:
        """End."""
        ...


class Display:
    """Publishes a machine's screen to *viewers*; implements `revirt.monitor.sources.Source`."""

    answers = False

    def __init__(self, viewers: Sequence[Viewer], *, now: Callable[[], float] = time.monotonic) -> None:
        self._viewers = tuple(viewers)
        self._now = now
        self._machine: Machine | None = None
        self._screen: Screen | None = None
        self._branches = -1
        self._read_s = float("-inf")
        self._is_owed = False
        self._text = ""
        self._text_branches = -TEXT_BRANCHES

    def attach(self, machine: Machine, wake: Callable[[], None]) -> None:
        """Take the machine that is shown."""
        self._machine = machine
        for viewer in self._viewers:
            viewer.start(wake)

    def take(self) -> Sequence[Arrival]:
        """Give nothing, and look, if somebody else does and it is time to."""
        self._is_owed = False
        if not any(viewer.is_watched for viewer in self._viewers):
            return ()
        if self._is_stale and self._now() < self._read_s + INTERVAL_S:
            self._is_owed = True
            return ()
        screen = self._look()
        if screen is not None:
            for viewer in self._viewers:
                viewer.publish(screen)
        return ()

    def due_ns(self) -> int | None:
        """Return when to look again if there is something that nobody has seen."""
        if not self._is_owed or self._machine is None:
            return None
        left_s = max(0.0, self._read_s + INTERVAL_S - self._now())
        return self._machine.clock.now_ns + int(left_s * 1e9) + 1

    def text(self) -> str:
        """Return what stands, or shortly stood, on the machine's screen, as lines; nothing for a screen of pixels.

        When it is read depends on the guest alone, not on the host's time or on who looks.
        """
        machine = self._machine
        if machine is not None:
            branches = machine.core.branches
            is_due = machine.halted or not branches - TEXT_BRANCHES < self._text_branches
            if is_due and branches != self._text_branches:
                screen = screen_of(machine)
                self._text = screen.text() if isinstance(screen, TextScreen) else ""
                self._text_branches = branches
        return self._text

    def close(self) -> None:
        """Let all viewers end."""
        for viewer in self._viewers:
            viewer.close()

    @property
    def _is_stale(self) -> bool:
        """Whether the guest has run since the screen was read."""
        return self._machine is not None and self._machine.core.branches != self._branches

    def _look(self) -> Screen | None:
        """Return the screen as it is now."""
        if self._machine is not None and self._is_stale:
            self._screen = screen_of(self._machine)
            self._branches = self._machine.core.branches
            self._read_s = self._now()
        return self._screen
