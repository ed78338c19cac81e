"""Steps and searches on a client's behalf, and how it is told where they ended.

Stop replies: GDB manual, "Stop Reply Packets".  A signal number, then what happened:

    watch: rwatch: awatch:   an access to watched memory, at that address
    swbreak: hwbreak:        a breakpoint of that kind, if the client understands that
    replaylog:               the begin or the end of what is recorded
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from revirt.errors import InterruptedSeekError
from revirt.gdb.points import Points
from revirt.gdb.registers import Architecture
from revirt.gdb.target import Target
from revirt.position import Position
from revirt.timeline import Access, Read, Stopped, StopReason, Write

_SIGINT, _SIGTRAP = 2, 5

_ENTERED = (Position(0), Position(1))
"""The way to the guest's first instruction, which is none itself."""


class Resuming:
    """Moves *target* as a client asks, with its *points*; every movement returns the stop reply.

    ``names_breakpoints`` says whether the client understands swbreak and hwbreak, ``warned_of`` which mode of the CPU
    it was last told about.
    """

    def __init__(self, target: Target, points: Points) -> None:
        self._target = target
        self._points = points
        self.names_breakpoints = False
        self.warned_of: Architecture | None = None
        self._break = threading.Event()

    def interrupt(self) -> None:
        """Have the step that is on, or the next one, end many of them.  Safe from any thread.

        A client that takes many looks at the guest behind each, and that is when most breaks come.
        """
        self._break.set()

    def here(self) -> bytes:
        """Return the stop reply of a CPU that simply stands."""
        return _reply(_SIGTRAP)

    def run(self) -> bytes:
        """Run on to the next point, or the end."""
        return self._search(self._target.run)

    def run_back(self) -> bytes:
        """Run back to the point before, or the start."""
        return self._search(self._target.run_back)

    def step(self) -> bytes:
        """Execute an instruction."""
        before = self._target.position
        stopped = self._step(self._target.step, self._target.run)
        if (before, stopped.position) == _ENTERED:
            stopped = self._step(self._target.step, self._target.run)
        return self._tell_step(stopped)

    def step_back(self) -> bytes:
        """Go back by an instruction."""
        return self._tell_step(self._step(self._target.step_back, self._target.run_back))

    def _search(self, run: Callable[..., Stopped]) -> bytes:
        # What ends a search is `Target.interrupt`; and a break before it was not for it.
        stopped = run(self._points.all)
        self._break.clear()
        return self._tell(stopped)

    def _tell_step(self, stopped: Stopped) -> bytes:
        has_break = self._break.is_set()
        self._break.clear()
        return _reply(_SIGINT) if has_break and stopped.reason is StopReason.STEP else self._tell(stopped)

    def _step(self, step: Callable[[], Stopped], run: Callable[..., Stopped]) -> Stopped:
        """Take a step; if it accesses watched memory, say so, as a search would."""
        watches = self._points.watches
        before = self._target.position
        stopped = step()
        if watches and stopped.position != before:
            try:
                self._target.seek(before)
                seen = run(watches, until=stopped.position)
                if seen.reason in (StopReason.WATCHPOINT, StopReason.INTERRUPTED):
                    return seen
                self._target.seek(stopped.position)
            except InterruptedSeekError:
                return Stopped(StopReason.INTERRUPTED, self._target.position)
        return stopped

    def _tell(self, stopped: Stopped) -> bytes:
        match stopped.reason:
            case StopReason.INTERRUPTED:
                return _reply(_SIGINT)
            case StopReason.START:
                return _reply(_SIGTRAP, "replaylog:begin;")
            case StopReason.END:
                return _reply(_SIGTRAP, "replaylog:end;")
            case StopReason.WATCHPOINT:
                return _reply(_SIGTRAP, self._access(stopped))
            case StopReason.BREAKPOINT if self.names_breakpoints:
                is_software = self._points.is_software(stopped.condition)
                return _reply(_SIGTRAP, "swbreak:;" if is_software else "hwbreak:;")
        return _reply(_SIGTRAP)

    def _access(self, stopped: Stopped) -> str:
        condition = stopped.condition
        if not isinstance(condition, Write | Read | Access):
            return ""
        kinds = {Write: "watch", Read: "rwatch", Access: "awatch"}
        address = condition.address if stopped.address is None else stopped.address
        # An access may begin before the watched range: gdb wants an address inside.
        inside = min(max(address, condition.address), condition.address + condition.size - 1)
        return f"{kinds[type(condition)]}:{inside:x};"


def _reply(signal: int, what: str = "") -> bytes:
    return f"T{signal:02x}thread:1;{what}".encode()
