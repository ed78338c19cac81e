"""Rows in, text out: tables for people, JSON, JSON Lines and CSV for programs.

A query yields rows, which are dataclass instances or mappings, and knows nothing of how they look.  Rows are
written as they come, so a query over millions of events needs the memory of a few.

Rules:
- Nothing from a guest or a file reaches a terminal as control characters: cells are escaped.
- JSON has every field of a row, CSV the columns of the table; both hold plain values, never formatted ones.
- Colour and progress are for terminals only, and colour not where ``NO_COLOR`` is set (no-color.org).
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Row = Any
"""A dataclass instance, or a mapping from field names to values."""

# A table's columns are as wide as its first rows need: those are kept, so they must not be too large, either.
_MEASURED_ROWS = 200
_MEASURED_SIZE = 1 << 20
_WIDEST = 1000
_REFRESH_S = 0.1
_ESCAPES = dict(zip(b'\a\b\t\n\v\f\r"\\', 'abtnvfr"\\', strict=True))
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


class Format(Enum):
    """How rows are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the field *key*, under *title*; *text* turns its value into words."""

    key: str
    title: str
    right: bool = False
    text: Callable[[Any], str] | None = None

    def cell(self, row: Row) -> str:
        """Return what stands in this column for *row*; None is empty."""
        value = fields(row).get(self.key)
        if value is None:
            return ""
        return printable(self.text(value) if self.text else str(value))


def emit(rows: Iterable[Row], columns: Sequence[Column], form: Format, out: TextIO) -> int:
    """Write *rows* to *out* as they come; return how many there were."""
    if form is Format.TABLE:
        return _emit_table(rows, columns, out)
    if form is Format.CSV:
        return _emit_csv(rows, columns, out)
    if form is Format.JSONL:
        return _count(out.write(_json(row) + "\n") for row in rows)
    separators = chain(("[\n  ",), iter(lambda: ",\n  ", ""))
    written = _count(out.write(mark + _json(row)) for mark, row in zip(separators, rows, strict=False))
    out.write("\n]\n" if written else "[]\n")
    return written


def emit_record(record: Row, form: Format, out: TextIO, labels: Mapping[str, str] | None = None) -> None:
    """Write *record*: as a JSON object, or a line ``label  value`` for each field (that *labels* names)."""
    if form is not Format.TABLE:
        out.write(_json(record, indent=None if form is Format.JSONL else 2) + "\n")
        return
    values = fields(record)
    shown = labels or {key: key for key in values}
    width = max((len(label) for label in shown.values()), default=0)
    for key, label in shown.items():
        value = values.get(key)
        if value is not None and value != "":
            name = styled(f"{label:<{width}}", "bold", out)
            out.write(f"{name}  {printable(str(value))}\n")


def fields(row: Row) -> Mapping[str, Any]:
    """Return the fields of *row* by name."""
    if isinstance(row, Mapping):
        return row
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def plain(value: Any) -> Any:
    """Return *value* as JSON knows it: bytes become hex digits, dataclasses objects, what has words text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and "__str__" not in vars(type(value)):
        return {name: plain(item) for name, item in fields(value).items()}
    return str(value)


def printable(text: str) -> str:
    """Return *text* with everything that could move a cursor or hide other text written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(ord(char)) for char in text)


def escape(data: bytes) -> str:
    r"""Return *data* as ASCII text with C escapes, as console scripts take it (``\n``, ``\"``, ``\x1b``)."""
    # Not a join, which makes a list of as many pointers first: there may be megabytes.
    return data.decode("latin-1").translate(_ESCAPED)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print *warnings*, sentences for people, to standard error."""
    for text in warnings:
        print(f"{styled('revirt:', 'bold', sys.stderr)} {printable(text)}", file=sys.stderr)


def size(count: int) -> str:
    """Return *count* bytes in words: ``512 B``, ``1.5 KiB``, ``256 MiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def duration(ns: int) -> str:
    """Return *ns* nanoseconds in words: ``12.3 ms``, ``4.567 s``, ``2 min 05 s``, ``3 h 10 min``."""
    seconds = ns / 1e9
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.3f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def seconds(ns: int) -> str:
    """Return *ns* nanoseconds as seconds with six digits behind the point, for columns of times."""
    return f"{ns / 1e9:.6f}"


def grouped(number: int) -> str:
    """Return *number* with its thousands set apart."""
    return f"{number:,}"


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether *stream* is an open terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def has_colour(stream: TextIO) -> bool:
    """Return whether text for *stream* may carry colour."""
    environ = os.environ
    return is_terminal(stream) and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def styled(text: str, style: str, stream: TextIO) -> str:
    """Return *text* in *style* (bold, dim, green or red) if *stream* takes colour, else as it is."""
    code = {"bold": 1, "dim": 2, "red": 31, "green": 32}[style]
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour(stream) else text


class Progress(Protocol):
    """Told now and then how far a run has come."""

    def update(self, branches: int, guest_ns: int, total: int | None) -> None:
        """Note that *branches* of *total* (None: unknown) are done; the guest's clock shows *guest_ns*."""
        ...


class ProgressLine:
    """A line at the bottom of a terminal: bar, guest time, branches, million branches a second."""

    def __init__(
        self, display: RichProgress, task: TaskID, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._display = display
        self._task = task
        self._now = now
        self._last_s = now()
        self._last_branches: int | None = None

    def update(self, branches: int, guest_ns: int, total: int | None) -> None:
        """Redraw the line, at most ten times a second."""
        elapsed = self._now() - self._last_s
        if elapsed < _REFRESH_S:
            return
        before = self._last_branches
        # One run may be behind another: it starts over.
        rate = (branches - before) / elapsed / 1e6 if before is not None and branches >= before else 0.0
        self._last_s += elapsed
        self._last_branches = branches
        facts = f"{duration(guest_ns)} of guest time, {grouped(branches)} branches, {rate:.1f} M/s"
        self._display.update(self._task, completed=branches, total=total, facts=facts, refresh=True)


class ByteLine:
    """A line at the bottom of a terminal: bar, what is being done, bytes done and bytes a second."""

    def __init__(
        self, display: RichProgress, task: TaskID, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._display = display
        self._task = task
        self._now = now
        self._what = ""
        self._begun_s = self._shown_s = now()

    def update(self, what: str, done: int, total: int | None) -> None:
        """Redraw the line if something else is being done, else at most ten times a second.

        *done* of *total* bytes (None: unknown) are done.
        """
        now = self._now()
        if what != self._what:
            self._what, self._begun_s = what, now
        elif now - self._shown_s < _REFRESH_S:
            return
        self._shown_s = now
        facts = what
        if done and now > self._begun_s:
            facts += f" {size(done)}, {size(int(done / (now - self._begun_s)))}/s"
        self._display.update(self._task, completed=done, total=total, facts=facts, refresh=True)


@contextmanager
def byte_progress(label: str, *, stream: TextIO | None = None) -> Iterator[ByteLine | None]:
    """Give a `ByteLine` called *label* on *stream* (default: stderr); None if that is no terminal."""
    stream = stream or sys.stderr
    if not is_terminal(stream):
        yield None
        return
    display = _display(stream)
    with display:
        yield ByteLine(display, display.add_task(printable(label), total=None, facts=""))


@contextmanager
def progress(
    label: str, *, is_wanted: bool = True, stream: TextIO | None = None
) -> Iterator[Progress | None]:
    """Give a `Progress` called *label* on *stream* (default: stderr); None if not wanted, or no terminal."""
    stream = stream or sys.stderr
    if not is_wanted or not is_terminal(stream):
        yield None
        return
    display = _display(stream)
    with display:
        yield ProgressLine(display, display.add_task(printable(label), total=None, facts=""))


def _display(stream: TextIO) -> RichProgress:
    """Return a bar with a task's description before it and its facts behind it; it goes when it ends."""
    # Imported here: rich costs more time than everything else that 'revirt --help' does.
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),  # a kernel's file name is no markup
        BarColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        console=Console(file=stream),
        auto_refresh=False,  # a drawing thread would take the interpreter from the run it shows
        transient=True,
    )


def _emit_table(rows: Iterable[Row], columns: Sequence[Column], out: TextIO) -> int:
    source = ([column.cell(row) for column in columns] for row in rows)
    first = list(_measured(source))
    if not first:
        return 0
    titles = [column.title for column in columns]
    widths = [min(max(map(len, cells)), _WIDEST) for cells in zip(titles, *first, strict=True)]
    if not columns[-1].right:
        widths[-1] = 0  # nothing is to its right

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, columns, strict=True)
        padded = (f"{text:{'>' if column.right else '<'}{width}}" for text, width, column in pairs)
        return "  ".join(padded).rstrip()

    out.write(styled(line(titles), "bold", out) + "\n")
    return _count(out.write(line(cells) + "\n") for cells in chain(first, source))


def _measured(source: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the first rows of *source*, those that a table's columns are measured by."""
    total = 0
    for cells in islice(source, _MEASURED_ROWS):
        yield cells
        total += sum(map(len, cells))
        if total > _MEASURED_SIZE:
            return


def _emit_csv(rows: Iterable[Row], columns: Sequence[Column], out: TextIO) -> int:
    import csv

    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.key for column in columns)
    records = (fields(row) for row in rows)
    return _count(writer.writerow(_csv_cell(record.get(c.key)) for c in columns) for record in records)


def _csv_cell(value: Any) -> Any:
    simple = plain(value)
    return printable(simple) if isinstance(simple, str) else simple


def _json(row: Row, indent: int | None = None) -> str:
    import json

    return json.dumps({str(key): plain(value) for key, value in fields(row).items()}, indent=indent)


def _count(writes: Iterable[object]) -> int:
    return sum(1 for _ in writes)


def _is_plain(byte: int) -> bool:
    return 0x20 <= byte < 0x7F and byte not in _ESCAPES


def _escaped(code: int) -> str:
    if code in _ESCAPES:
        return f"\\{_ESCAPES[code]}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_ESCAPED = {byte: _escaped(byte) for byte in range(0x100) if not _is_plain(byte)}
