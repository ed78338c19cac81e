"""Showing a live machine's screen: whoever looks at it, and when there is something new for them.

A `Display` is asked whenever the machine stands still, as all sources are.  It gives nothing; it looks.

Rules:
- While nobody looks it costs nothing.
- A screen is read in the machine's thread, where the machine stands still, and drawn in others.
- At most 25 screens a second are read, and the last one before the guest sleeps always is.
- When that is the host's time says, which a virtual clock must not follow: so nothing here is due by the machine's.
"""

from __future__ import annotations

import threading
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

    @property
    def is_open(self) -> bool:
        return bool(self._viewers)

    def __init__(self, viewers: Sequence[Viewer], *, now: Callable[[], float] = time.monotonic) -> None:
        self._viewers = tuple(viewers)
        self._now = now
        self._machine: Machine | None = None
        self._screen: Screen | None = None
        self._branches = -1
        self._read_s = float("-inf")
        self._wake: Callable[[], None] = lambda: None
        self._alarm: threading.Timer | None = None
        self._text = ""
        self._text_branches = -TEXT_BRANCHES

    def attach(self, machine: Machine, wake: Callable[[], None]) -> None:
        """Take the machine that is shown."""
        self._machine, self._wake = machine, wake
        for viewer in self._viewers:
            viewer.start(wake)

    def take(self) -> Sequence[Arrival]:
        """Give nothing, and look, if somebody else does and it is time to."""
        if not any(viewer.is_watched for viewer in self._viewers):
            return ()
        left_s = self._read_s + INTERVAL_S - self._now()
        if self._is_stale and left_s > 0:
            self._look_in(left_s)
            return ()
        screen = self._look()
        if screen is not None:
            for viewer in self._viewers:
                viewer.publish(screen)
        return ()

    def due_ns(self) -> int | None:
        return None

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
        if self._alarm is not None:
            self._alarm.cancel()
        for viewer in self._viewers:
            viewer.close()

    def _look_in(self, left_s: float) -> None:
        """Let `take` be called again in *left_s* seconds, unless it will be already."""
        if self._alarm is None:
            self._alarm = threading.Timer(left_s, self._ring)
            self._alarm.daemon = True
            self._alarm.start()

    def _ring(self) -> None:
        self._alarm = None  # before: who is woken may want another
        self._wake()

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
