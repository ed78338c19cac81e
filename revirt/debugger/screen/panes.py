"""The panes: each draws its part of a view in the space that it has.

Nothing is told by colour alone: marks and words say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widget import Widget

from revirt.debugger.looking import CodeRow, RegisterRow
from revirt.debugger.screen.view import View, branches_at, column_of, heights
from revirt.log.wording import payload
from revirt.render import grouped, printable

HERE, PAST, FUTURE, CHANGED, QUIET, NAME = (
    "bold reverse",
    "cyan",
    "green",
    "bold yellow",
    "bright_black",
    "magenta",
)
_BLOCKS = " ▁▂▃▄▅▆▇█"
_FARTHEST = 99
"""A distance in instructions is written out up to here."""


class Clicked(Message):
    """Somebody clicked at what the debugger's *command* goes to."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self.command = command


class Pane(Widget):
    """A pane with a title; `lines` says what is in it."""

    name_of: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__(id=self.name_of or None)
        self.view: View | None = None
        self.border_title = self.name_of

    def show(self, view: View) -> None:
        """Draw *view*."""
        self.view = view
        self.border_title = self.title(view)
        self.refresh()

    def title(self, _view: View) -> str:
        """Return what stands in the border."""
        return self.name_of

    def lines(self, view: View, width: int, height: int) -> Iterable[Text]:
        """Return what to draw in *width* columns and *height* lines."""
        raise NotImplementedError

    def render(self) -> Text:
        """Draw the lines that there is space for."""
        width, height = self.content_size
        if self.view is None or not height:
            return Text()
        drawn = list(self.lines(self.view, width, height))[:height]
        for line in drawn:
            line.truncate(width)
        return Text("\n", no_wrap=True).join(drawn)


class CodePane(Pane):
    """Instructions around the one to come, with how long ago, and in how many instructions, each is executed."""

    name_of = "code"

    def title(self, view: View) -> str:
        """Return where it is."""
        return f"code: {printable(view.where)}"

    def lines(self, view: View, _width: int, height: int) -> Iterable[Text]:
        """Return the listing, the instruction to come in the middle."""
        if not view.code:
            return [Text("(not mapped)", QUIET)]
        drawn: list[Text] = []
        here = 0
        for row in view.code:
            if row.label:
                drawn.append(Text(f"{'':12}{printable(row.label)}:", NAME))
            if row.is_here:
                here = len(drawn)
            drawn.append(_code_text(row))
        first = max(0, min(here - height // 2, len(drawn) - height))
        return drawn[first:]


class RegistersPane(Pane):
    """Registers, in as many columns as fit."""

    name_of = "registers"

    def lines(self, view: View, width: int, height: int) -> Iterable[Text]:
        """Return the registers column by column, and the flags; the last ones go where space ends."""
        cells = [_register_text(row) for row in view.registers if row.name != "eflags"]
        broadest = max(cell.cell_len for cell in cells) + 1
        columns = max(1, (width + 1) // broadest)
        rows = min(height - 1, -(-len(cells) // columns))
        for line in range(rows):
            text = Text()
            for cell in cells[line::rows][:columns]:
                text.append_text(cell)
                text.append(" " * (broadest - cell.cell_len))
            yield text
        # Flags are as long as there are any set: a line of their own.
        yield from (_register_text(row) for row in view.registers if row.name == "eflags")


class MemoryPane(Pane):
    """Bytes at the address that is followed; those that have changed since the stop before stand out."""

    name_of = "memory"

    def title(self, view: View) -> str:
        """Return what it follows."""
        return f"memory: {printable(view.followed)}"

    def lines(self, view: View, width: int, _height: int) -> Iterable[Text]:
        """Return rows of 16 bytes, or of 8 where these do not fit."""
        if not view.memory:
            yield Text("(not mapped here)", QUIET)
        digits = 16 if view.bits == 64 else 8
        count = 16 if width >= digits + 2 + 16 * 4 else 8
        for row in view.memory:
            for at in range(0, len(row.data), count):
                yield _memory_text(row.address + at, row.data[at : at + count], count, digits, view.changed)


class StackPane(Pane):
    """Words from the top of the stack on."""

    name_of = "stack"

    def lines(self, view: View, _width: int, height: int) -> Iterable[Text]:
        """Return a line for each word."""
        if not view.stack:
            yield Text("(not mapped here)", QUIET)
        for row in view.stack[:height]:
            address, value = f"{row.address:0{row.digits}x} ", f"{row.value:0{row.digits}x} "
            yield Text.assemble((address, QUIET), value, (printable(row.words), NAME))


class ConsolePane(Pane):
    """What the guest has printed up to here."""

    name_of = "console"

    def lines(self, view: View, _width: int, height: int) -> Iterable[Text]:
        """Return the last lines."""
        return [Text(line) for line in view.console[-height:]]


class EventsPane(Pane):
    """Events around the one to come; a click goes to one."""

    name_of = "events"

    def _first(self, view: View, height: int) -> int:
        place = next((number for number, row in enumerate(view.events) if row.is_next), len(view.events))
        return max(0, min(place - height // 2, len(view.events) - height))

    def lines(self, view: View, _width: int, height: int) -> Iterable[Text]:
        """Return a line for each event, a rule before the one to come."""
        first = self._first(view, height)
        for row in view.events[first : first + height]:
            mark, style = (
                (">", "bold") if row.is_next else (" ", "" if row.ordinal > view.next_event else QUIET)
            )
            text = f"{mark}{row.ordinal:>6} {grouped(row.event.branches):>13} {row.event.kind.label:<11} "
            yield Text(text + printable(payload(row.event)[:500]), style)

    def on_click(self, click: events.Click) -> None:
        """Go to the event that was clicked at."""
        offset = click.get_content_offset(self)
        if self.view is not None and offset is not None:
            place = self._first(self.view, self.content_size.height) + offset.y
            if place < len(self.view.events):
                self.post_message(Clicked(f"event {self.view.events[place].ordinal}"))


class TimelineBar(Pane):
    """The whole recording: how many events where, checkpoints, bookmarks, the present; a click goes there."""

    name_of = "timeline"

    def lines(self, view: View, width: int, _height: int) -> Iterable[Text]:
        """Return a line of facts, one of events and one of marks."""
        facts = Text(f"{printable(view.name)} ", "bold")
        facts.append(f" {view.position}", "bold green")
        facts.append(f"  before event {view.next_event}  {view.time_ns / 1e9:.6f} s  {view.bits}-bit")
        yield facts
        here = column_of(view.bar, view.position.branches, width)
        columns = "".join(_BLOCKS[height] for height in heights(view.bar, width, len(_BLOCKS) - 1))
        yield Text.assemble((columns[:here], PAST), (columns[here], "bold"), (columns[here + 1 :], QUIET))
        marks = ["─"] * width
        for branches in view.bar.checkpoints:
            marks[column_of(view.bar, branches, width)] = "┬"
        for bookmark in view.bookmarks:
            marks[column_of(view.bar, bookmark.position.branches, width)] = "◆"
        marks[here] = "▲"
        line = Text("".join(marks), QUIET)
        for column, mark in enumerate(marks):
            if mark in "◆▲":
                line.stylize(CHANGED if mark == "◆" else "bold green", column, column + 1)
        yield line

    def on_click(self, click: events.Click) -> None:
        """Go to the bookmark that was clicked at, or else to where that column begins; the last is the end."""
        offset, view = click.get_content_offset(self), self.view
        if offset is None or view is None:
            return
        bar, column, width = view.bar, offset.x, self.content_size.width
        for bookmark in view.bookmarks:
            if column_of(bar, bookmark.position.branches, width) == column:
                self.post_message(Clicked(f"goto {bookmark.name}"))
                return
        point = "end" if column >= width - 1 else str(branches_at(bar, column, width))
        self.post_message(Clicked(f"seek {point}"))


def _code_text(row: CodeRow) -> Text:
    past = f"-{row.past}" if row.past is not None and row.past <= _FARTHEST else "-.." if row.past else ""
    future = "=>" if row.is_here else _ahead(row.future)
    mark = "●" if row.point is not None else " "
    style = FUTURE if row.future is not None else PAST if row.past is not None else ""
    line = Text.assemble(
        (mark, "bold red"),
        (f"{past:>3}", PAST),
        (f"{future:>4} ", FUTURE),
        (f"{row.instruction.address:08x} ", QUIET),
        (printable(row.instruction.text), style),
    )
    if row.is_here:
        line.stylize(HERE, 4)
    return line


def _ahead(distance: int | None) -> str:
    if distance is None:
        return ""
    return f"+{distance}" if distance <= _FARTHEST else "+.."


def _register_text(row: RegisterRow) -> Text:
    style, mark = (CHANGED, "*") if row.has_changed else ("", " ")
    return Text.assemble(
        f"{row.name:<3} ", (f"{row.value:0{row.digits}x}{mark}", style), row.words and f" {row.words}"
    )


def _memory_text(address: int, data: bytes, count: int, digits: int, changed: frozenset[int]) -> Text:
    line = Text.assemble((f"{address:0{digits}x} ", QUIET))
    for at in range(count):
        if at < len(data):
            line.append(f" {data[at]:02x}", CHANGED if address + at in changed else "")
        else:
            line.append("   ")
    line.append("  ")
    for at, byte in enumerate(data):
        shown = chr(byte) if 0x20 <= byte < 0x7F else "."
        line.append(shown, CHANGED if address + at in changed else "")
    return line
