"""How the machine's clock follows the host's while the guest runs.

The machine's clock advances by itself, so much for each taken branch.  How long a branch takes the host varies a
hundredfold: a compute loop needs ten nanoseconds, a loop that polls a port needs a microsecond.  Setting the machine's
clock to the host's again and again would make time jump under the guest: Linux then fails to calibrate its time-stamp
counter and falls back to a clock that counts in steps of 4 ms.  So the *rate* is set: to what the latest slice took,
a little faster or slower to make up for what the machine's clock lags behind or is ahead.
"""

from __future__ import annotations

import time

SAMPLE_NS = 4_000_000
"""Host time between two looks at the host's clock."""

CATCH_UP_NS = 20_000_000
"""Time in which a lag should be made up."""

LOST_NS = 5_000_000_000
"""A lag that is not made up but jumped over: the host was asleep."""

LEAST_SLICE = 2_000
GREATEST_SLICE = 200_000
"""Branches between two looks, at least and at most: a slice planned for a compute loop must not take for ever when
the guest begins to poll a port."""


LEAST_SAMPLE = 250
"""Branches below which a slice says nothing about the guest's speed."""

GREATEST_RATE = 4_000
"""Nanoseconds per branch at most.  Higher rates would feed themselves: timers come due after so few branches that
serving them is what takes the time."""

GREATEST_STEP = 4
"""Factor by which the rate grows at most from one slice to the next."""


class Pace:
    """The rate of one machine's clock, and the length of its slices (in branches)."""

    def __init__(self) -> None:
        self.slice = LEAST_SLICE
        self._sampled_ns = self._sampled_branches = self._sampled_cpu_ns = 0

    def is_due(self, host_ns: int) -> bool:
        """Whether it is time for a look."""
        return host_ns - self._sampled_ns >= SAMPLE_NS

    def forget(self, branches: int, host_ns: int) -> None:
        """Start a new slice here: the guest was idle, or stood still."""
        self._sampled_ns, self._sampled_branches, self._sampled_cpu_ns = (
            host_ns,
            branches,
            time.thread_time_ns(),
        )

    def look(self, branches: int, host_ns: int, machine_ns: int, ns_per_branch: int) -> int:
        """Return the rate for the next slice, the present one if it will do.

        *host_ns* and *machine_ns* are what the two clocks show now.
        """
        passed, cpu_ns = branches - self._sampled_branches, self._sampled_cpu_ns
        self.forget(branches, host_ns)
        if passed < LEAST_SAMPLE:
            return ns_per_branch
        # Time that other processes took says nothing about the guest; it shows in the lag.
        needed = (self._sampled_cpu_ns - cpu_ns) // passed
        self.slice = max(LEAST_SLICE, min(GREATEST_SLICE, SAMPLE_NS // max(1, needed)))
        lag_ns = host_ns - machine_ns
        wanted = needed * max(CATCH_UP_NS // 4, min(2 * CATCH_UP_NS, CATCH_UP_NS + lag_ns)) // CATCH_UP_NS
        wanted = max(1, min(GREATEST_RATE, GREATEST_STEP * ns_per_branch, wanted))
        is_near = abs(wanted - ns_per_branch) * 16 <= ns_per_branch and abs(lag_ns) < SAMPLE_NS
        return ns_per_branch if is_near else wanted
