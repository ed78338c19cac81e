"""What somebody who looks at a recording has at hand: the timeline, symbols, notes, breakpoints, where one has been.

It knows neither commands nor screens.  All of it belongs to one thread; only `Session.interrupt` and
`Session.branches` may be used from others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from revirt.debugger.code import Disassembler, Instruction, named
from revirt.debugger.expressions import evaluate, register_values
from revirt.debugger.trail import ENTERED, Walk
from revirt.errors import UsageError
from revirt.image.symbols import Symbols
from revirt.machine.modes import code_bits, program_counter
from revirt.position import Position
from revirt.recording import Recording, find_symbols
from revirt.recording.notes import Notes
from revirt.timeline import Condition, Stopped, StopReason, Timeline

HISTORY = 1000
"""Places that are remembered."""
MOST_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Point:
    """A breakpoint or watchpoint as somebody asked for it."""

    condition: Condition
    text: str


class Session:
    """A debugger's view of *recording*; *symbols* is an ELF file, by default the guest's own if it is found."""

    def __init__(self, recording: Recording, symbols: Path | None = None) -> None:
        self.recording = recording
        self.notes = Notes(recording)
        self.timeline = Timeline(recording)
        found = symbols or find_symbols(recording)
        self.symbols = Symbols.of_elf(found) if found is not None else Symbols()
        self.disassembler = Disassembler(self.symbols)
        self.walk = Walk(self.timeline)
        self.points: dict[int, Point] = {}
        self.followed = "sp"
        """The expression whose memory is watched on the screen."""
        self.last_search: Callable[[bool], str] | None = None
        """Repeats the last search; True goes the same way, False the other."""
        self.previous = self.timeline.registers()
        """The registers where the guest stood before."""
        self._next_point = 1
        self._places = [self.timeline.position]
        self._place = 0
        self._wants_stop = threading.Event()
        self._is_searching = False

    # -- where it stands ---------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where the timeline stands."""
        return self.timeline.position

    @property
    def branches(self) -> int:
        """The taken branches where the machine is at this moment, also while it runs.  Safe from any thread."""
        return self.timeline.machine.core.branches

    @property
    def bits(self) -> int:
        """How wide the code is that runs."""
        return code_bits(self.timeline.registers())

    @property
    def pc(self) -> int:
        """The linear address of the instruction to come."""
        return program_counter(self.timeline.registers())

    def instruction(self) -> Instruction | None:
        """Return the instruction to come, None if it is not there to be read."""
        data = self.timeline.read(self.pc, 16)
        return next(self.disassembler.instructions(self.pc, data, self.bits), None)

    def evaluate(self, text: str) -> int:
        """Return what the expression *text* comes to here; raises UsageError."""
        return evaluate(text, self.timeline.registers(), self.symbols, self.timeline.read)

    def names(self) -> list[str]:
        """Return the names of registers that expressions know."""
        return sorted(register_values(self.timeline.registers()))

    def named(self, address: int) -> str:
        """Return *address* as ``0x10012e <grant+2>``, without the symbol if it is in none."""
        symbol = self.symbols.near(address)
        return f"{address:#x} <{named(symbol)}>" if symbol is not None else f"{address:#x}"

    # -- moving ------------------------------------------------------------------------------------------------

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Note where a move in the block went to: registers before it, and a place in the history."""
        before, registers = self.position, self.timeline.registers()
        self._wants_stop.clear()
        self._is_searching = True
        try:
            yield
        finally:
            self._is_searching = False
            if self.position != before:
                self.previous = registers
                self._arrived()

    @property
    def wants_stop(self) -> bool:
        """Whether `interrupt` was called since the move began."""
        return self._wants_stop.is_set()

    def interrupt(self) -> None:
        """Let the move that is on end where it is; without one nothing happens.  Safe from any thread."""
        if self._is_searching:
            self._wants_stop.set()
            self.timeline.interrupt()

    def step(self, count: int) -> Stopped:
        """Go *count* instructions on, back if it is negative, until `interrupt`."""
        if count < 0:
            return self.timeline.step_back(-count)
        before = self.position
        stopped = self.timeline.step()
        if (before, self.position) == ENTERED:
            stopped = self.timeline.step()
        if count == 1 or stopped.reason is not StopReason.STEP:
            return stopped
        if self.wants_stop:
            return Stopped(StopReason.INTERRUPTED, self.position)
        return self.timeline.step(count - 1)

    def run(self, conditions: Sequence[Condition], *, is_forward: bool) -> Stopped:
        """Go on or back to where one of *conditions* holds, as `Timeline.run` and `Timeline.run_back` do."""
        return self.timeline.run(conditions) if is_forward else self.timeline.run_back(conditions)

    def go_in_history(self, step: int) -> None:
        """Go *step* places on in the history, back if it is negative; raises UsageError where it ends."""
        place = self._place + step
        if not 0 <= place < len(self._places):
            raise UsageError("the history of places ends here")
        self.timeline.seek(self._places[place])
        self._place = place

    def _arrived(self) -> None:
        if self._places[self._place] == self.position:
            return  # which is a place in the history
        self._places = [*self._places[: self._place + 1], self.position][-HISTORY:]
        self._place = len(self._places) - 1

    # -- breakpoints and watchpoints ---------------------------------------------------------------------------

    @property
    def conditions(self) -> list[Condition]:
        """What the points wait for."""
        return [each.condition for each in self.points.values()]

    def add_point(self, point: Point) -> int:
        """Set *point*; return its number.  Raises UsageError if there are too many."""
        if len(self.points) >= MOST_POINTS:
            raise UsageError(f"there are {MOST_POINTS} already")
        number, self._next_point = self._next_point, self._next_point + 1
        self.points[number] = point
        return number

    def number_of(self, condition: Condition | None) -> int | None:
        """Return the number of the point that waits for *condition*, None if none does."""
        return next((number for number, each in self.points.items() if each.condition == condition), None)
