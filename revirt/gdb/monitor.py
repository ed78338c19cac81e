"""Commands that a user types behind gdb's ``monitor``, in the words of rr where rr has one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from itertools import islice

from revirt.errors import RevirtError, UsageError
from revirt.gdb.target import Target
from revirt.log.wording import payload
from revirt.machine.modes import program_counter
from revirt.position import Position
from revirt.render import printable
from revirt.timeline import seek_point
from revirt.timeline.wording import describe, facts, parse_condition

_HISTORY = 1000
_EVENTS, _MOST_EVENTS = 10, 1000
_LONGEST_NUMBER = 18
_FLUSH = "gdb shows what was before until: maintenance flush register-cache\n"

_HELP = """\
when                    the position, the event to come, the guest's time
when-icount             the instructions executed so far
elapsed-time            the guest's time
seek POINT              go to BRANCHES[:STEPS], 12.5s, 50%, event:N, checkpoint:N, icount:N, start or end
run EVENT               go to the event of that number
next CONDITION          go on to where the condition holds: execute ADDRESS, write|read|access ADDRESS [SIZE],
                        console REGEX, event KIND, interrupt [VECTOR], syscall [NUMBER], cr3 [ROOT], cpl [LEVEL]
previous CONDITION      go back to where it held last
events [N]              list the next N events (10)
checkpoint              mark this position; restart N goes back to it
restart N               go to the position marked N
info checkpoints        list the marks
delete checkpoint N     forget a mark
back, forward           go to the place before in the history of places, and to the one after
info recording          what this is a recording of
hints on, hints off     whether to say when gdb has to forget what it knows
help                    this list
"""


class Monitor:
    """Runs commands on *target*; each returns the text to show."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._places = [target.position]
        self._place = 0  # where in the history the target stands
        self._gives_hints = True
        self._commands: dict[str, Callable[[Sequence[str]], str]] = {
            "when": self._when,
            "when-icount": self._when_icount,
            "elapsed-time": self._elapsed_time,
            "seek": self._seek,
            "run": self._run,
            "next": self._next,
            "previous": self._previous,
            "events": self._events,
            "checkpoint": self._checkpoint,
            "restart": self._restart,
            "info": self._info,
            "delete": self._delete,
            "back": self._back,
            "forward": self._forward,
            "hints": self._hints,
            "help": lambda _: _HELP,
        }

    def run(self, text: str) -> str:
        """Return what the command *text* has to say, also if that is what is wrong with it."""
        words = text.split()
        try:
            return self._command(words[0])(words[1:]) if words else _HELP
        except RevirtError as error:
            hint = f" ({printable(error.hint)})" if error.hint else ""
            return f"{printable(str(error))}{hint}\n"

    def arrived(self) -> None:
        """Note in the history that the target stands somewhere else, wherever it is."""
        if self._places[self._place] == self._target.position:
            return
        self._places = [*self._places[: self._place + 1], self._target.position][-_HISTORY:]
        self._place = len(self._places) - 1

    def _command(self, name: str) -> Callable[[Sequence[str]], str]:
        if name in self._commands:
            return self._commands[name]
        nearest = difflib.get_close_matches(name, self._commands, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "see 'monitor help'"
        raise UsageError(f"no monitor command is called {name!r}", hint=hint)

    # -- where it stands ---------------------------------------------------------------------------------------

    def _when(self, words: Sequence[str]) -> str:
        _expect(words, 0, "when")
        target = self._target
        return f"{target.position}, before event {target.next_event}, at {self._time()}\n"

    def _when_icount(self, words: Sequence[str]) -> str:
        _expect(words, 0, "when-icount")
        return f"{self._target.icount()}\n"

    def _elapsed_time(self, words: Sequence[str]) -> str:
        _expect(words, 0, "elapsed-time")
        return f"{self._time()}\n"

    def _time(self) -> str:
        return f"{self._target.machine.clock.now_ns / 1e9:.9f} s"

    # -- going elsewhere ---------------------------------------------------------------------------------------

    def _seek(self, words: Sequence[str]) -> str:
        (text,) = _expect(words, 1, "seek POINT")
        seek_point(self._target, text)
        return self._moved()

    def _run(self, words: Sequence[str]) -> str:
        (text,) = _expect(words, 1, "run EVENT")
        self._target.seek_event(_number(text))
        return self._moved()

    def _next(self, words: Sequence[str]) -> str:
        stopped = self._target.run([parse_condition(words)])
        return f"{describe(stopped)}\n{self._moved()}"

    def _previous(self, words: Sequence[str]) -> str:
        stopped = self._target.run_back([parse_condition(words)])
        return f"{describe(stopped)}\n{self._moved()}"

    def _restart(self, words: Sequence[str]) -> str:
        (text,) = _expect(words, 1, "restart N")
        self._target.restart(_number(text))
        return self._moved()

    def _back(self, words: Sequence[str]) -> str:
        _expect(words, 0, "back")
        return self._go_in_history(-1)

    def _forward(self, words: Sequence[str]) -> str:
        _expect(words, 0, "forward")
        return self._go_in_history(1)

    def _go_in_history(self, step: int) -> str:
        place = self._place + step
        if not 0 <= place < len(self._places):
            raise UsageError("the history of places ends here")
        self._target.seek(self._places[place])
        self._place = place
        return self._moved()

    def _moved(self) -> str:
        self.arrived()
        pc = program_counter(self._target.registers())
        return f"{self._target.position}, pc {pc:#x}\n" + (_FLUSH if self._gives_hints else "")

    # -- marks, events, the recording --------------------------------------------------------------------------

    def _checkpoint(self, words: Sequence[str]) -> str:
        _expect(words, 0, "checkpoint")
        return f"Checkpoint {self._target.checkpoint()} at {self._target.position}\n"

    def _delete(self, words: Sequence[str]) -> str:
        what, text = _expect(words, 2, "delete checkpoint N")
        if what != "checkpoint":
            raise UsageError("write: delete checkpoint N")
        self._target.delete_checkpoint(_number(text))
        return ""

    def _events(self, words: Sequence[str]) -> str:
        wanted = _number(*words) if len(words) == 1 else _EVENTS
        if len(words) > 1 or wanted > _MOST_EVENTS:
            raise UsageError(f"write: events [N], at most {_MOST_EVENTS}")
        first = self._target.next_event
        found = islice(self._target.recording.events(first), wanted)
        lines = [
            f"{ordinal:>8}  {event.kind.label:<11}  {Position(event.branches)}  {payload(event)}\n"
            for ordinal, event in enumerate(found, first)
        ]
        return "".join(map(_line, lines)) or "no more events\n"

    def _info(self, words: Sequence[str]) -> str:
        match words:
            case ["checkpoints"]:
                marks = sorted(self._target.checkpoints.items())
                return (
                    "".join(f"{number:>4}  {position}\n" for number, position in marks) or "no checkpoints\n"
                )
            case ["recording"]:
                return self._about()
        raise UsageError("write: info checkpoints, or info recording")

    def _about(self) -> str:
        target = self._target
        told = facts(target.recording, target.start, target.end)
        return "".join(_line(f"{name:<8} {value}\n") for name, value in told.items())

    def _hints(self, words: Sequence[str]) -> str:
        (text,) = _expect(words, 1, "hints on|off")
        if text not in ("on", "off"):
            raise UsageError("write: hints on, or hints off")
        self._gives_hints = text == "on"
        return ""


def _line(text: str) -> str:
    """Return the line with what could move a cursor written as escapes: names may come from anybody."""
    return printable(text.removesuffix("\n")) + "\n"


def _expect(words: Sequence[str], count: int, usage: str) -> Sequence[str]:
    if len(words) != count:
        raise UsageError(f"write: {usage}")
    return words


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise UsageError(f"{text!r} is not a number")
    return int(text)
