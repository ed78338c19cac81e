"""The machine's one clock: nanoseconds since the guest started, derived from taken branches.

    now = base + (branches - base_branches) * ns_per_branch

The timers, the real-time clock and the time-stamp counter (1 GHz) all read it.  In host clock mode the rate follows
the host's clock while the guest runs, and the clock jumps forward to the host's when the guest has idled.  In virtual
clock mode the rate stays and an idle guest's clock jumps to the next timer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from revirt.core import Core
from revirt.machine.state import U64, Range, State

MAX_NS_PER_BRANCH = 100_000
MAX_NS = 1 << 62
"""The latest time (146 years) that a clock is set to."""


@dataclass
class ClockState(State):
    """The clock's three numbers."""

    base_ns: U64
    base_branches: U64
    ns_per_branch: Annotated[int, Range(1, MAX_NS_PER_BRANCH)]


class MachineClock:
    """The clock of one machine; implements `revirt.machine.device.Clock`."""

    def __init__(self, core: Core, ns_per_branch: int) -> None:
        self._core = core
        self._state = ClockState(0, 0, ns_per_branch)
        self._apply()

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the guest started."""
        state = self._state
        return state.base_ns + (self._core.branches - state.base_branches) * state.ns_per_branch

    def branches_at(self, ns: int) -> int:
        """Return the first branch count at which the clock, left alone, shows *ns* or more."""
        state = self._state
        return state.base_branches + max(0, -(-(ns - state.base_ns) // state.ns_per_branch))

    def jump(self, ns: int) -> None:
        """Set the clock forward to *ns*; a time in the past changes nothing."""
        if ns > self.now_ns:
            self._state.base_ns = ns
            self._state.base_branches = self._core.branches
            self._apply()

    @property
    def ns_per_branch(self) -> int:
        """The present rate."""
        return self._state.ns_per_branch

    def set_rate(self, ns_per_branch: int) -> None:
        """Run at *ns_per_branch* (1 to `MAX_NS_PER_BRANCH`) from now on."""
        self._state = ClockState(self.now_ns, self._core.branches, ns_per_branch)
        self._apply()

    def save(self) -> ClockState:
        """Return a copy of the clock's state."""
        state = self._state
        return ClockState(state.base_ns, state.base_branches, state.ns_per_branch)

    def restore(self, state: ClockState) -> None:
        """Take up a saved state; the core's branch count must be restored already."""
        if state.base_branches > self._core.branches:
            raise ValueError("the clock's base lies in the future")
        self._state = state
        self._apply()

    def _apply(self) -> None:
        state = self._state
        self._core.set_clock(state.base_ns, state.base_branches, state.ns_per_branch)
