"""What lets a circular recording keep what it has: something happens, and a while later the run ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from revirt.log.events import LINE_LIMIT

AFTER_NS = 10_000_000_000
"""Guest time that is recorded after a trigger, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class TriggerOptions:
    """What to wait for: *patterns* in a line of the console, a crash, the exit codes *exits* (None: no such trigger).

    *after_ns* is how much guest time to record behind it.  What ends the guest ends the recording at once.
    """

    patterns: tuple[re.Pattern[bytes], ...] = ()
    crash: bool = False
    exits: frozenset[int] | None = None
    after_ns: int = AFTER_NS


class Trigger:
    """Waits for what *options* name; `attach` says what is to be done then."""

    def __init__(self, options: TriggerOptions) -> None:
        self.options = options
        self.fired: str | None = None
        """What happened, None before."""
        self._line = bytearray()
        self._fired_ns: int | None = None
        self._calls: list[Callable[[], None]] = []

    def attach(self, call: Callable[[], None]) -> None:
        """Have *call* called, once, when something happens; at once if it has.  It has to be as safe as `fire`."""
        self._calls.append(call)
        if self.fired is not None:
            call()

    def fire(self, what: str) -> None:
        """Say that *what* happened; the first time counts.  Safe from any thread and any signal handler."""
        if self.fired is None:
            self.fired = what
            for call in self._calls:
                call()

    def transmitted(self, character: bytes) -> None:
        """Look at what the guest sends, a line at a time, also while the line grows."""
        line = self._line
        line += character
        for pattern in self.options.patterns:
            if self.fired is None and pattern.search(line):
                self.fire(f"console: {line.decode(errors='replace').strip()}")
        if character == b"\n" or len(line) >= LINE_LIMIT:
            line.clear()

    def ended(self, *, crashed: bool, exit_code: int | None) -> None:
        """Look at how the guest ended."""
        if crashed and self.options.crash:
            self.fire("crash")
        if exit_code is not None and self.options.exits is not None and exit_code in self.options.exits:
            self.fire(f"exit code {exit_code:#04x}")

    def end_ns(self, guest_ns: int) -> int | None:
        """Return the guest time at which the run should end, None if nothing happened yet; *guest_ns* is now."""
        if self.fired is None:
            return None
        if self._fired_ns is None:
            self._fired_ns = guest_ns
        return self._fired_ns + self.options.after_ns

    def reason_to_stop(self, guest_ns: int) -> str | None:
        """Return why the run should end, if enough was recorded behind what happened; *guest_ns* is now."""
        end_ns = self.end_ns(guest_ns)
        return f"trigger: {self.fired}" if end_ns is not None and guest_ns >= end_ns else None
