"""Out of a function, to either side: to where it returns, and to where it was called.

Of a function's frame no more is known than that its return address is on the stack, not below the stack pointer.  So
what matters are the calls that put a return address there, or above, and the returns that take one from there.
They nest: a return belongs to the last call that used the same place.  What the function calls itself puts its
return addresses below, and is not even looked at, whatever it does, recursion and interrupts included.

Rules:
- Another stack is another function's: one at another privilege, in user mode in another address space, or too far.
- The function returns with the first return, from here on, that no call before it belongs to.
- The function was called by the last call, back from here, that no return behind it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

from revirt.core import WATCH_CALL
from revirt.timeline.walker import APART, Walker
from revirt.timeline.watch import Noted

_KERNEL_REACH, _USER_REACH = 16 << 10, 256 << 10
"""Bytes above the stack pointer in which the return address is: in an operating system's kernel stacks may adjoin."""
_PAGE_MASK = 0xFFF
_CS64, _SS32, _CPL = 1 << 15, 1 << 5, 3


@dataclass(frozen=True, slots=True)
class Frame:
    """A stretch of a stack from the stack pointer on, as `revirt.core.Core.set_watches` takes it."""

    stack: tuple[int, int, int, int, int, int]

    @classmethod
    def of(cls, registers: dict[str, int]) -> Frame:
        """Return that of a CPU with these *registers*."""
        hflags = registers["hflags"]
        mask = (1 << 64) - 1 if hflags & _CS64 else 0xFFFF_FFFF if hflags & _SS32 else 0xFFFF
        privilege = hflags & _CPL
        reach = _USER_REACH if privilege else _KERNEL_REACH
        start = registers["rsp"] & mask
        base = 0 if hflags & _CS64 else registers["ss.base"]
        root = registers["cr3"] & ~_PAGE_MASK if privilege else 0
        return cls((start, min(reach, mask + 1 - start), mask, base, privilege, root))


class Calls:
    """Finds calls and returns on the way of *walker*, whose recording is from branch *start* to *end*.

    The walker is left anywhere, and with watches.
    """

    def __init__(self, walker: Walker, start: int, end: int) -> None:
        self._walker = walker
        self._start = start
        self._end = end

    def returning(self, frame: Frame) -> int | None:
        """Return the line that ends with the return of the function that is executed here, None if it does not."""
        walker = self._walker
        core = walker.machine.core
        walker.stand_at(walker.position.branches)
        core.set_watches((), (), (), stack=frame.stack)
        core.stop_at_hits = True
        is_open: dict[int, int] = {}
        while (branches := core.branches) < self._end:
            stop = min(branches + APART, self._end)
            walker.run(stop)
            for kind, line, _, _, slot, _, _ in core.take_hits():
                if kind == WATCH_CALL:
                    is_open[slot] = is_open.get(slot, 0) + 1
                elif is_open.get(slot):
                    is_open[slot] -= 1
                else:
                    return line
            if core.branches == stop:
                walker.snapshots.keep(walker.snapshots.take())
        return None

    def calling(self, frame: Frame) -> int | None:
        """Return the line that ends with the call of the function that is executed here, None if it is not there."""
        end = self._walker.position.branches
        returned: dict[int, int] = {}
        while end > self._start:
            start = max(self._walker.snapshots.start_before(end), self._start)
            noted, since = self._noted(frame, start, end)
            for kind, line, _, _, slot, _, _ in reversed(noted):
                if kind != WATCH_CALL:
                    returned[slot] = returned.get(slot, 0) + 1
                elif returned.get(slot):
                    returned[slot] -= 1
                else:
                    return line
            end = since
        return None

    def _noted(self, frame: Frame, start: int, end: int) -> tuple[list[Noted], int]:
        """Return what happens on the lines from *start* to before *end*, and from which on that is all."""
        core = self._walker.machine.core
        self._walker.stand_at(start)
        core.set_watches((), (), (), stack=frame.stack)
        self._walker.run(end)
        noted = core.take_hits()
        return noted, noted[0][1] if core.hits_noted > len(noted) else start
