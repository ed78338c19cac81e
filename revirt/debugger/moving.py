"""Commands that go somewhere else, and those that say where to stop."""

from __future__ import annotations

from collections.abc import Callable

from revirt.debugger.commands import (
    Command,
    Words,
    complete_expression,
    complete_point,
    count_of,
    expect,
    number,
    one_of,
)
from revirt.debugger.conditions import condition_of, condition_text, stop_text
from revirt.debugger.looking import where
from revirt.debugger.session import Point, Session
from revirt.errors import UsageError
from revirt.log.events import Kind
from revirt.machine.modes import stack_pointer
from revirt.timeline import Condition, Execute, Stopped, StopReason, seek_point
from revirt.timeline.wording import CONDITIONS, KINDS

MOST_STEPS = 10_000_000
_EVENTS = tuple(each.label for each in Kind if each.label not in KINDS)
"""Kinds of events whose names are nothing else here."""


def _told(session: Session, stopped: Stopped, *, is_forward: bool) -> str:
    """Return why a move ended, if there is anything to say, and where."""
    reason = stop_text(session, stopped, is_forward=is_forward)
    return f"{reason}\n{where(session)}" if reason else where(session)


# -- steps ---------------------------------------------------------------------------------------------------------


def _step(session: Session, words: Words) -> str:
    count = count_of(words, 1, "step [N]", MOST_STEPS)
    return _told(session, session.step(count), is_forward=True)


def _step_back(session: Session, words: Words) -> str:
    count = count_of(words, 1, "step-back [N]", MOST_STEPS)
    return _told(session, session.step(-count), is_forward=False)


def _next(session: Session, words: Words) -> str:
    """Step, and if that has called something, on to where that has returned."""
    expect(words, 0, 0, "next")
    coming = session.instruction()
    if coming is None or not coming.is_call:
        return _told(session, session.step(1), is_forward=True)

    def over() -> Stopped:
        before, most = stack_pointer(session.timeline.registers()), 2 * session.bits // 8
        stopped = session.step(1)
        pushed = before - stack_pointer(session.timeline.registers())
        # An interrupt that was taken instead puts more on the stack; a call to what is behind it is no function's.
        if not 0 < pushed <= most or session.pc == coming.end:
            return stopped
        return session.timeline.finish()

    return _unless_stopped(session, over, is_forward=True)


def _next_back(session: Session, words: Words) -> str:
    """Step back, and if that undoes a return, on to the call that it belongs to."""
    expect(words, 0, 0, "next-back")

    def over() -> Stopped:
        stopped = session.step(-1)
        came = session.instruction()
        return session.timeline.back_out() if came is not None and came.is_return else stopped

    return _unless_stopped(session, over, is_forward=False)


def _finish(session: Session, words: Words) -> str:
    expect(words, 0, 0, "finish")
    return _unless_stopped(session, session.timeline.finish, is_forward=True)


def _back_out(session: Session, words: Words) -> str:
    expect(words, 0, 0, "back-out")
    return _unless_stopped(session, session.timeline.back_out, is_forward=False)


def _unless_stopped(session: Session, move: Callable[[], Stopped], *, is_forward: bool) -> str:
    """Do *move*, but only up to where a breakpoint or watchpoint is met on that way."""
    before = session.position
    stopped = move()
    if session.conditions and stopped.reason is not StopReason.INTERRUPTED:
        target = session.position
        session.timeline.seek(before)
        run = session.timeline.run if is_forward else session.timeline.run_back
        met = run(session.conditions, target)
        if met.condition is not None or met.reason is StopReason.INTERRUPTED:
            stopped = met
    return _told(session, stopped, is_forward=is_forward)


# -- searches ------------------------------------------------------------------------------------------------------


def _continue(session: Session, words: Words) -> str:
    expect(words, 0, 0, "continue")
    return _told(session, session.run(session.conditions, is_forward=True), is_forward=True)


def _reverse_continue(session: Session, words: Words) -> str:
    expect(words, 0, 0, "reverse-continue")
    return _told(session, session.run(session.conditions, is_forward=False), is_forward=False)


def _search(session: Session, words: Words) -> str:
    return _begin_search(session, words, is_forward=True)


def _search_back(session: Session, words: Words) -> str:
    return _begin_search(session, words, is_forward=False)


def _begin_search(session: Session, words: Words, *, is_forward: bool) -> str:
    if not words:
        raise UsageError("write: search WHAT ..", hint=f"WHAT is one of {CONDITIONS}")
    condition = condition_of(session, words)

    def look(is_forward: bool) -> str:
        stopped = session.run([condition], is_forward=is_forward)
        return _told(session, stopped, is_forward=is_forward)

    session.last_search = lambda is_same: look(is_forward if is_same else not is_forward)
    return look(is_forward)


def _again(session: Session, words: Words) -> str:
    expect(words, 0, 0, "again")
    return _repeated(session)(True)


def _again_back(session: Session, words: Words) -> str:
    expect(words, 0, 0, "again-back")
    return _repeated(session)(False)


def _repeated(session: Session) -> Callable[[bool], str]:
    if session.last_search is None:
        raise UsageError("nothing was searched for yet", hint="see 'help search'")
    return session.last_search


# -- places --------------------------------------------------------------------------------------------------------


def _seek(session: Session, words: Words) -> str:
    (text,) = expect(words, 1, 1, "seek POINT")
    seek_point(session.timeline, text)
    return where(session)


def _event(session: Session, words: Words) -> str:
    """Go to an event by its number, or by how many there are from here to it."""
    (text,) = expect(words, 1, 1, "event N|+N|-N")
    timeline, before = session.timeline, session.position
    if text[0] == "+":
        found = timeline.next_event + number(text[1:]) - 1
        # The event that has just come and an interrupt that is about to have their places here.
        while timeline.seek_event(found) == before and found < timeline.events.end - 1:
            found += 1
    elif text[0] == "-":
        found = max(timeline.events.first, timeline.next_event - number(text[1:]))
        while timeline.seek_event(found) >= before:
            if found == timeline.events.first:
                timeline.seek(before)
                raise UsageError("no event comes before here")
            found -= 1
    else:
        timeline.seek_event(number(text))
    return where(session)


def _back(session: Session, words: Words) -> str:
    expect(words, 0, 0, "back")
    session.go_in_history(-1)
    return where(session)


def _forward(session: Session, words: Words) -> str:
    expect(words, 0, 0, "forward")
    session.go_in_history(1)
    return where(session)


# -- where to stop -------------------------------------------------------------------------------------------------


def _setter(kind: str) -> Callable[[Session, Words], str]:
    def add(session: Session, words: Words) -> str:
        return _add(session, condition_of(session, [kind, *words]))

    return add


def _break(session: Session, words: Words) -> str:
    return _add(session, condition_of(session, ["execute", *words]) if words else Execute(session.pc))


def _catch(session: Session, words: Words) -> str:
    """Stop at a kind of event, or at what else `search` looks for."""
    is_event = len(words) == 1 and words[0] in _EVENTS
    return _add(session, condition_of(session, ["event", *words] if is_event else words))


def _add(session: Session, condition: Condition) -> str:
    known = session.number_of(condition)
    text = condition_text(session, condition)
    if known is not None:
        return f"there is breakpoint {known} already: {text}"
    return f"breakpoint {session.add_point(Point(condition, text))}: {text}"


def _delete(session: Session, words: Words) -> str:
    expect(words, 0, 1, "delete [N]")
    if not words:
        session.points.clear()
        return "no breakpoints left"
    if session.points.pop(number(words[0]), None) is None:
        raise UsageError(f"there is no breakpoint {words[0]}", hint="see 'info breakpoints'")
    return f"breakpoint {words[0]} is gone"


COMMANDS = (
    Command("step", "[N]", "an instruction on", _step, ("s", "si", "stepi"), moves=True),
    Command("step-back", "[N]", "an instruction back", _step_back, ("S", "rsi", "reverse-stepi"), moves=True),
    Command("next", "", "an instruction on, over what it calls", _next, ("n", "ni", "nexti"), moves=True),
    Command("next-back", "", "an instruction back, over a call that has just returned", _next_back,
            ("N", "rni", "reverse-nexti"), moves=True),
    Command("finish", "", "on to where this function has returned", _finish, ("fin",), moves=True),
    Command("back-out", "", "back to the call of this function", _back_out, ("reverse-finish",), moves=True),
    Command("continue", "", "on to a breakpoint or watchpoint, or to the end", _continue, ("c",), moves=True),
    Command("reverse-continue", "", "back to a breakpoint or watchpoint, or to the start", _reverse_continue,
            ("C", "rc"), moves=True),
    Command("search", "WHAT ..", "on to the next `execute ADDRESS`, `write`, `read` or `access ADDRESS [SIZE]`, "
            "`console REGEX`, `event KIND`, `interrupt [VECTOR]`, `syscall [NUMBER]`, `cr3 [ROOT]`, `cpl [LEVEL]`",
            _search, ("/",), one_of(*KINDS), moves=True),
    Command("search-back", "WHAT ..", "back to the last one", _search_back, ("\\",), one_of(*KINDS), moves=True),
    Command("again", "", "the last search once more", _again, (";",), moves=True),
    Command("again-back", "", "the last search once more, the other way", _again_back, (",",), moves=True),
    Command("seek", "POINT", "go to `BRANCHES`, `BRANCHES:STEPS`, `12.5s`, `50%`, `event:N`, `checkpoint:N`, `start` "
            "or `end`", _seek, (), complete_point, moves=True),
    Command("event", "N", "go to event number N, with a sign so many on or back", _event, ("run",), moves=True),
    Command("back", "", "to where one stood before", _back, ("undo",), moves=True),
    Command("forward", "", "again to where `back` came from", _forward, ("redo",), moves=True),
    Command("break", "[ADDRESS]", "stop before the instruction there; without an address, before this one",
            _break, ("b",), complete_expression),
    Command("watch", "ADDRESS [SIZE]", "stop where that is written", _setter("write"), (), complete_expression),
    Command("rwatch", "ADDRESS [SIZE]", "stop where that is read", _setter("read"), (), complete_expression),
    Command("awatch", "ADDRESS [SIZE]", "stop where that is read or written", _setter("access"), (),
            complete_expression),
    Command("catch", "WHAT ..", "stop at events of a kind, such as `received`, or at what else `search` looks for",
            _catch, (), one_of(*_EVENTS, *KINDS)),
    Command("delete", "[N]", "forget a breakpoint, watchpoint or catch; without a number all", _delete, ("d",)),
)  # fmt: skip
