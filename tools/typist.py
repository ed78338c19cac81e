"""A console that types at moments nobody can foresee: what a replay has to get right.

For `prove` and the tests: the pieces and the pauses come from a seeded generator, the moments from the host's clock,
so that the same seed never types at the same instruction twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from revirt.monitor.console import NullConsole

LONGEST_PAUSE_S = 0.025
LARGEST_PIECE = 12

COMMANDS = (
    "echo one $((6 * 7))",
    "cat /proc/interrupts | head -4",
    "ls -l /bin | tail -3",
    "for i in 1 2 3 4 5; do echo $i; done | sort -r",
    "sleep 0.05; date",
    "head -c 200000 /dev/zero | md5sum",
    "(echo child; exit 3); echo status $?",
    "awk 'BEGIN { for (i = 0; i < 2000; i++) s += i * i; print s }'",
)
"""Shell commands that use files, pipes, children, the clock and the CPU."""


class RandomTypist(NullConsole):
    """Types *commands* and *last* in random pieces, after random pauses, and before that noise.

    The commands begin once the guest has sent all of *ready*, one after the other.
    """

    def __init__(self, ready: Sequence[str], commands: Sequence[str], last: str, *, seed: int) -> None:
        super().__init__()
        self.sent = bytearray()
        """What the guest has sent so far."""
        self._random = random.Random(seed)
        self._ready = [text.encode() for text in ready]
        self._seen = 0
        self._lines = "".join(f"{line}\n" for line in (*commands, last)).encode()
        self._due_s = time.monotonic()
        self._pause()

    @property
    def pending(self) -> bool:
        return bool(self._lines) and time.monotonic() >= self._due_s

    def transmitted(self, data: bytes) -> None:
        self.sent += data
        while self._ready and (place := self.sent.find(self._ready[0], self._seen)) >= 0:
            self._seen = place + len(self._ready.pop(0))

    def take(self) -> bytes:
        if not self.pending:
            return b""
        self._pause()
        if self._ready:
            return b"\n"
        size = self._random.randint(1, LARGEST_PIECE)
        piece, self._lines = self._lines[:size], self._lines[size:]
        return piece

    def wait(self, timeout_s: float | None) -> None:
        if not self._lines:
            super().wait(timeout_s)
            return
        left_s = max(0.0, self._due_s - time.monotonic())
        self._waker.sleep(left_s if timeout_s is None else min(left_s, timeout_s))

    def _pause(self) -> None:
        self._due_s = time.monotonic() + self._random.uniform(0, LONGEST_PAUSE_S)
