"""Commands that show what is where the guest stands, and the rows that they and the screen show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from revirt.debugger.code import Instruction, named
from revirt.debugger.commands import (
    Command,
    Words,
    complete_expression,
    count_of,
    expect,
    number,
    one_of,
)
from revirt.debugger.session import Session
from revirt.errors import UsageError
from revirt.log.events import Event
from revirt.log.wording import payload
from revirt.machine.modes import stack_pointer
from revirt.position import Position
from revirt.render import printable
from revirt.timeline import Execute
from revirt.timeline.wording import facts

MOST_BYTES, MOST_LINES = 4096, 1000
_LINE = 16
_GENERAL = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
_SYSTEM = ("cr0", "cr2", "cr3", "cr4", "efer")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
# Intel SDM volume 1, 3.4.3.
_FLAGS = {
    0: "CF",
    2: "PF",
    4: "AF",
    6: "ZF",
    7: "SF",
    8: "TF",
    9: "IF",
    10: "DF",
    11: "OF",
    14: "NT",
    17: "VM",
}


@dataclass(frozen=True, slots=True)
class CodeRow:
    """An instruction, and what execution has to do with it.

    ``past`` is how many instructions ago it was executed last, ``future`` in how many it will be next (0: now);
    None if it is not on the way.  ``point`` is the number of the breakpoint at it.
    """

    instruction: Instruction
    label: str
    past: int | None
    future: int | None
    point: int | None

    @property
    def is_here(self) -> bool:
        """Whether it is the one to come."""
        return self.future == 0


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """A register by the name that the present mode has for it; ``before`` is its value at the stop before."""

    name: str
    value: int
    before: int
    digits: int
    words: str = ""

    @property
    def has_changed(self) -> bool:
        """Whether it is not what it was."""
        return self.value != self.before


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Up to 16 bytes from a linear address on."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StackRow:
    """A word of the stack; ``words`` names what it points to."""

    address: int
    value: int
    digits: int
    words: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event of the recording by its ordinal; ``is_next`` is that of the one to come."""

    ordinal: int
    event: Event
    is_next: bool

    def __str__(self) -> str:
        mark = ">" if self.is_next else " "
        place = Position(self.event.branches)
        return f"{mark}{self.ordinal:>7}  {place!s:>12}  {self.event.kind.label:<11}  {printable(payload(self.event))}"


# -- rows ----------------------------------------------------------------------------------------------------------


def code_rows(session: Session, before: int, after: int, address: int | None = None) -> list[CodeRow]:
    """Return *before* instructions that lead to *address* (None: the one to come), and *after* from there on."""
    trail = session.walk.trail()
    past: dict[int, int] = {}
    for distance, executed in enumerate(reversed(trail.before), 1):
        past.setdefault(executed, distance)
    future: dict[int, int] = {}
    for distance, coming in enumerate(trail.after):
        future.setdefault(coming, distance)
    points = {
        each.condition.address: key
        for key, each in session.points.items()
        if isinstance(each.condition, Execute)
    }
    at = session.pc if address is None else address
    known = past.keys() | future.keys()
    listed = session.disassembler.around(at, session.bits, session.timeline.read, before, after, known)
    rows = []
    for each in listed:
        symbol = session.symbols.near(each.address)
        label = named(symbol) if symbol is not None and symbol[1] == 0 else ""
        place = each.address
        rows.append(CodeRow(each, label, past.get(place), future.get(place), points.get(place)))
    return rows


def register_rows(session: Session) -> list[RegisterRow]:
    """Return the registers that people look at, wide as the code that runs."""
    values, before, bits = session.timeline.registers(), session.previous, session.bits
    prefix, width = ("r", 64) if bits == 64 else ("e", 32)
    mask, digits = (1 << width) - 1, width // 4
    rows = [_row(f"{prefix}{name}", f"r{name}", values, before, mask, digits) for name in _GENERAL]
    if bits == 64:
        rows += [_row(f"r{each}", f"r{each}", values, before, mask, digits) for each in range(8, 16)]
    rows.append(_row(f"{prefix}ip", "rip", values, before, mask, digits))
    flags = _row("eflags", "rflags", values, before, 0xFFFF_FFFF, 8)
    rows.append(RegisterRow(flags.name, flags.value, flags.before, 8, _flags(flags.value)))
    rows += [_row(name, name, values, before, 0xFFFF, 4) for name in _SEGMENTS]
    rows += [_row(name, name, values, before, mask, digits if name != "efer" else 8) for name in _SYSTEM]
    return rows


def _row(
    name: str, key: str, values: dict[str, int], before: dict[str, int], mask: int, digits: int
) -> RegisterRow:
    return RegisterRow(name, values[key] & mask, before[key] & mask, digits)


def _flags(value: int) -> str:
    return " ".join(name for bit, name in _FLAGS.items() if value >> bit & 1)


def memory_rows(session: Session, address: int, count: int) -> list[MemoryRow]:
    """Return *count* bytes from linear *address* on, fewer if a page is not there."""
    data = session.timeline.read(address, min(count, (1 << 64) - address))
    return [MemoryRow(address + at, data[at : at + _LINE]) for at in range(0, len(data), _LINE)]


def stack_rows(session: Session, count: int) -> list[StackRow]:
    """Return up to *count* words from the top of the stack on."""
    word = session.bits // 8
    top = stack_pointer(session.timeline.registers())
    data = session.timeline.read(top, count * word)
    rows = []
    for at in range(0, len(data) - word + 1, word):
        value = int.from_bytes(data[at : at + word], "little")
        symbol = session.symbols.near(value)
        rows.append(StackRow(top + at, value, word * 2, named(symbol) if symbol is not None else ""))
    return rows


def event_rows(session: Session, before: int, after: int) -> list[EventRow]:
    """Return *before* events that have come, and *after* that are to come."""
    timeline = session.timeline
    first = timeline.next_event
    gone = [EventRow(ordinal, each, False) for ordinal, each in islice(timeline.events.before(first), before)]
    coming = [
        EventRow(ordinal, each, ordinal == first)
        for ordinal, each in enumerate(islice(timeline.events.after(first), after), first)
    ]
    return [*reversed(gone), *coming]


def console_lines(session: Session, count: int) -> list[str]:
    """Return the last *count* lines that the guest has printed up to here."""
    text = session.timeline.console(count * 200).decode(errors="backslashreplace")
    # A carriage return goes back to the beginning of the line, mostly right before a new one.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return [printable(line.replace("\t", "        ")) for line in lines][-count:]


# -- in words ------------------------------------------------------------------------------------------------------


def code_line(row: CodeRow) -> str:
    """Return *row* as a line: how long ago, in how many instructions, the address and the instruction."""
    past = f"-{row.past}" if row.past is not None else ""
    future = "=>" if row.is_here else f"+{row.future}" if row.future is not None else ""
    mark = f"#{row.point}" if row.point is not None else ""
    return f"{mark:<3}{past:>5} {future:>5}  {row.instruction.address:#x}  {row.instruction.text}"


def memory_line(row: MemoryRow) -> str:
    """Return *row* as a line: address, bytes, and those that can be printed as characters."""
    digits = f"{row.data[:8].hex(' ')}  {row.data[8:].hex(' ')}"
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row.data)
    return f"{row.address:#010x}  {digits:<49} {text}".rstrip()


def stack_line(row: StackRow) -> str:
    """Return *row* as a line."""
    return f"{row.address:#x}  {row.value:#0{row.digits + 2}x}  {row.words}".rstrip()


def register_line(row: RegisterRow) -> str:
    """Return *row* as a line, with what it was if it has changed."""
    value = f"{row.value:#0{row.digits + 2}x}"
    was = f"was {row.before:#0{row.digits + 2}x}" if row.has_changed else ""
    return "  ".join(each for each in (f"{row.name:<6}", value, row.words, was) if each)


def where(session: Session) -> str:
    """Return a line with the position, the instruction to come and the function that it is in."""
    coming = session.instruction()
    text = coming.text if coming is not None else "(not mapped)"
    return f"{session.position}  {session.named(session.pc)}  {text}"


# -- commands ------------------------------------------------------------------------------------------------------


def _where(session: Session, words: Words) -> str:
    expect(words, 0, 0, "where")
    timeline = session.timeline
    time_s = timeline.machine.clock.now_ns / 1e9
    return f"{where(session)}\nbefore event {timeline.next_event}, at {time_s:.9f} s, {session.bits}-bit code"


def _registers(session: Session, words: Words) -> str:
    wanted = {word.lower().lstrip("$") for word in words}
    rows = [row for row in register_rows(session) if not wanted or row.name in wanted]
    missing = wanted - {row.name for row in rows}
    if missing:
        raise UsageError(
            f"no register shown here is called {min(missing)!r}", hint="'print' knows parts such as al"
        )
    return "\n".join(map(register_line, rows))


def _disassemble(session: Session, words: Words) -> str:
    expect(words, 0, 2, "disassemble [ADDRESS] [N]")
    address = session.evaluate(words[0]) if words else None
    count = number(words[1], MOST_LINES, least=1) if len(words) == 2 else 10
    rows = code_rows(session, 5 if address is None else 0, count, address)
    lines = []
    for row in rows:
        if row.label:
            lines.append(f"{row.label}:")
        lines.append(code_line(row))
    if not lines:
        raise UsageError(f"{session.pc if address is None else address:#x} is not mapped here")
    return "\n".join(lines)


def _trail(session: Session, words: Words) -> str:
    count = count_of(words, 10, "trail [N]", MOST_LINES)
    trail = session.walk.trail()
    before, after = (
        trail.before[len(trail.before) - min(count, len(trail.before)) :],
        trail.after[: count + 1],
    )
    lines = [_trail_line(session, place - len(before), address) for place, address in enumerate(before)]
    lines += [_trail_line(session, place, address) for place, address in enumerate(after)]
    return "\n".join(lines)


def _trail_line(session: Session, distance: int, address: int) -> str:
    data = session.timeline.read(address, 16)
    found = next(session.disassembler.instructions(address, data, session.bits), None)
    mark = "=>" if distance == 0 else f"{distance:+}"
    return f"{mark:>5}  {session.named(address)}  {found.text if found is not None else '(not mapped)'}"


def _examine(session: Session, words: Words) -> str:
    text, *rest = expect(words, 1, 2, "x ADDRESS [BYTES]")
    address = session.evaluate(text)
    rows = memory_rows(session, address, number(rest[0], MOST_BYTES, least=1) if rest else 64)
    if not rows:
        raise UsageError(f"{address:#x} is not mapped here")
    return "\n".join(map(memory_line, rows))


def _print(session: Session, words: Words) -> str:
    expect(words, 1, 100, "print EXPRESSION")
    value = session.evaluate(" ".join(words))
    return f"{session.named(value)}  {value}"


def _stack(session: Session, words: Words) -> str:
    count = count_of(words, 16, "stack [N]", MOST_LINES)
    return "\n".join(map(stack_line, stack_rows(session, count))) or "the stack is not mapped here"


def _console(session: Session, words: Words) -> str:
    return "\n".join(console_lines(session, count_of(words, 20, "console [N]", MOST_LINES)))


def _events(session: Session, words: Words) -> str:
    count = count_of(words, 10, "events [N]", MOST_LINES)
    return "\n".join(map(str, event_rows(session, count // 2, count - count // 2)))


def _memory(session: Session, words: Words) -> str:
    expect(words, 1, 100, "memory EXPRESSION")
    text = " ".join(words)
    session.evaluate(text)
    session.followed = text
    return f"memory follows {text}"


def _info(session: Session, words: Words) -> str:
    (topic,) = expect(words, 1, 1, "info breakpoints|recording")
    if topic == "recording":
        return "\n".join(_about(session))
    if topic == "breakpoints":
        lines = [f"{key:>4}  {each.text}" for key, each in session.points.items()]
        return "\n".join(lines) or "no breakpoints"
    raise UsageError("write: info breakpoints|recording")


def _about(session: Session) -> Iterator[str]:
    timeline = session.timeline
    told = facts(session.recording, timeline.start, timeline.end)
    for name, value in {
        **told,
        "symbols": len(session.symbols) or "none",
        "notes": session.notes.path,
    }.items():
        yield printable(f"{name:<8} {value}")


COMMANDS = (
    Command("where", "", "the position, the instruction to come, the next event, the time", _where, ("when", "w")),
    Command("registers", "[NAME..]", "registers, and what those were that have changed", _registers, ("regs",)),
    Command(
        "disassemble", "[ADDRESS] [N]", "instructions, with those marked that were executed and will be",
        _disassemble, ("disas",), complete_expression,
    ),
    Command("trail", "[N]", "the last N instructions on the way here, and the next N", _trail),
    Command("x", "ADDRESS [BYTES]", "memory", _examine, ("examine",), complete_expression),
    Command("print", "EXPRESSION", "what an expression comes to", _print, ("p",), complete_expression),
    Command("stack", "[N]", "words from the top of the stack on", _stack),
    Command("console", "[N]", "the last N lines that the guest has printed up to here", _console),
    Command("events", "[N]", "N events around here; > is the one to come", _events),
    Command("memory", "EXPRESSION", "let the screen's memory follow an expression", _memory, (), complete_expression),
    Command("info", "TOPIC", "`breakpoints` that are set, or what the `recording` is", _info, (),
            one_of("breakpoints", "recording")),
)  # fmt: skip
