"""What searches, breakpoints and watchpoints wait for: read from words, and told in words where they were met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from revirt.debugger.session import Session
from revirt.log.events import LINE_LIMIT, Event
from revirt.log.wording import payload
from revirt.render import printable
from revirt.timeline import (
    Access,
    AddressSpace,
    Condition,
    ConsoleText,
    EventKind,
    Execute,
    Interrupt,
    Privilege,
    Read,
    Stopped,
    StopReason,
    SystemCall,
    Write,
)
from revirt.timeline.wording import describe, parse_condition

_SHOWN = 8
_DONE = {Write: "written", Read: "read", Access: "accessed"}


def condition_of(session: Session, words: Sequence[str]) -> Condition:
    """Return the condition that *words* describe, where the session stands; raises UsageError."""
    return parse_condition(words, session.evaluate, session.bits // 8)


def condition_text(session: Session, condition: Condition) -> str:
    """Return *condition* in words."""
    match condition:
        case Execute(address):
            return f"execute {session.named(address)}"
        case EventKind(kind):
            return f"event {kind.label}"
        case Write(address, size) | Read(address, size) | Access(address, size):
            return f"{type(condition).__name__.lower()} {session.named(address)}, {size} bytes"
        case ConsoleText(pattern):
            return f"console {printable(pattern.decode(errors='backslashreplace'))}"
        case Interrupt(value):
            return _text_of("interrupt", value)
        case SystemCall(value):
            return _text_of("syscall", value)
        case AddressSpace(value):
            return _text_of("cr3", value)
        case Privilege(value):
            return _text_of("cpl", value)
    return str(condition)


def _text_of(kind: str, value: int | None) -> str:
    return kind if value is None else f"{kind} {value:#x}"


def stop_text(session: Session, stopped: Stopped, *, is_forward: bool) -> str:
    """Return why a move ended, as a line; nothing for a step."""
    match stopped.reason:
        case StopReason.START:
            return "the recording begins here"
        case StopReason.END:
            return "the recording ends here"
        case StopReason.INTERRUPTED:
            return "interrupted"
        case StopReason.STEP:
            return ""
        case StopReason.BREAKPOINT:
            number = session.number_of(stopped.condition)
            return f"breakpoint {number}" if number is not None else "found"
        case StopReason.EVENT:
            return _event_text(session, stopped)
        case StopReason.WATCHPOINT:
            return _access_text(session, stopped, is_forward=is_forward)
        case StopReason.CONSOLE:
            return _console_text(session, is_forward=is_forward)
        case StopReason.CALL:
            return "called here"
        case StopReason.RETURN:
            return "has returned"
    return describe(stopped)


def _event_text(session: Session, stopped: Stopped) -> str:
    """Return what event this place is that of: one that has just come, or is about to."""
    condition, timeline = stopped.condition, session.timeline
    if not isinstance(condition, EventKind):
        return "event"
    around: Iterator[tuple[int, Event]] = iter(())
    gone = timeline.events.before(timeline.next_event)
    if timeline.next_event < timeline.events.end:
        around = iter([(timeline.next_event, timeline.events[timeline.next_event])])
    for ordinal, event in (*around, *_first(gone)):
        if event.kind is condition.kind and event.branches == stopped.position.branches:
            return f"event {ordinal}: {event.kind.label} {printable(payload(event))}"
    return f"event: {condition.kind.label}"


def _first(events: Iterator[tuple[int, Event]]) -> list[tuple[int, Event]]:
    return [each for _, each in zip(range(8), events, strict=False)]


def _console_text(session: Session, *, is_forward: bool) -> str:
    """Return the line that is printed; the byte that was looked for is behind this place if it was found from there."""
    timeline, here = session.timeline, session.position
    if not is_forward:
        timeline.forward()
    line = timeline.console(LINE_LIMIT).removesuffix(b"\n").rpartition(b"\n")[2]
    timeline.seek(here)
    return f"the guest prints {printable(line.decode(errors='backslashreplace'))}"


def _access_text(session: Session, stopped: Stopped, *, is_forward: bool) -> str:
    """Return what was accessed, and for a write what was there and what is now."""
    condition = stopped.condition
    if not isinstance(condition, Write | Read | Access):
        return "watchpoint"
    number = session.number_of(condition)
    label = f"watchpoint {number}: " if number is not None else ""
    told = f"{label}{session.named(condition.address)} is {_DONE[type(condition)]}"
    if isinstance(condition, Read) or condition.size > _SHOWN:
        return told
    old, new = _values(session, condition, is_forward=is_forward)
    return f"{told}: was {old}, becomes {new}" if old != new else f"{told}: stays {old}"


def _values(session: Session, condition: Write | Access, *, is_forward: bool) -> tuple[str, str]:
    """Return what was there before the access and is behind it: a stop is behind it going forwards, else before."""
    timeline, here = session.timeline, session.position

    def value() -> str:
        read = timeline.read_physical if condition.physical else timeline.read
        data = read(condition.address, condition.size)
        if len(data) < condition.size:
            return "not mapped"
        return f"{int.from_bytes(data, 'little'):#0{2 * condition.size + 2}x}"

    found = value()
    moved = timeline.back() if is_forward else timeline.forward()
    other = value() if moved else found
    timeline.seek(here)
    return (other, found) if is_forward else (found, other)
