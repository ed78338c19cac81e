from __future__ import annotations

import csv
import io
import json
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.position import Position
from revirt.render import (
    ByteLine,
    Column,
    Format,
    ProgressLine,
    byte_progress,
    duration,
    emit,
    emit_record,
    escape,
    has_colour,
    printable,
    progress,
    size,
    styled,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Animal:
    name: str
    legs: int | None
    tag: bytes = b""


ANIMALS = [Animal("cow", 4, b"\x01\x02"), Animal("centipede", 354), Animal("snake", None)]
COLUMNS = (Column("name", "NAME"), Column("legs", "LEGS", right=True))


def rendered(form: Format, rows: list[object] | None = None) -> str:
    out = io.StringIO()
    emit(ANIMALS if rows is None else rows, COLUMNS, form, out)
    return out.getvalue()


def test_a_table_aligns_its_columns() -> None:
    assert rendered(Format.TABLE) == (
        "NAME       LEGS\n"  #
        "cow           4\n"
        "centipede   354\n"
        "snake\n"
    )


def test_a_table_of_large_cells_takes_the_memory_of_a_few() -> None:
    """What was seen: two hundred rows of megabytes kept for their width, and every other row filled up to it."""
    rows = ({"name": "x" * (1 << 20) if large else "cow", "legs": 4} for large in [True] * 30 + [False] * 300)
    columns = (Column("legs", "LEGS"), Column("name", "NAME"))
    out = _Counting()

    tracemalloc.start()
    try:
        assert emit(rows, columns, Format.TABLE, out) == 330
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 12 << 20
    assert out.count < 31 << 20


class _Counting(io.TextIOBase):
    """Counts the characters that it is given, and forgets them."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, text: str) -> int:
        self.count += len(text)
        return len(text)


def test_a_column_is_as_wide_as_a_screen_may_be_and_not_as_its_largest_cell() -> None:
    lines = rendered(Format.TABLE, [Animal("x" * 5000, 4), Animal("cow", 4)]).splitlines()

    assert lines[1] == "x" * 5000 + "     4"
    assert lines[2] == f"{'cow':<1000}     4"


def test_a_table_without_rows_is_nothing_at_all() -> None:
    assert rendered(Format.TABLE, []) == ""


def test_json_has_every_field_of_every_row() -> None:
    assert json.loads(rendered(Format.JSON)) == [
        {"name": "cow", "legs": 4, "tag": "0102"},
        {"name": "centipede", "legs": 354, "tag": ""},
        {"name": "snake", "legs": None, "tag": ""},
    ]


def test_json_without_rows_is_an_empty_array() -> None:
    assert json.loads(rendered(Format.JSON, [])) == []


def test_json_lines_are_one_object_each() -> None:
    lines = rendered(Format.JSONL).splitlines()

    assert [json.loads(line)["name"] for line in lines] == ["cow", "centipede", "snake"]


def test_csv_has_the_columns_of_the_table() -> None:
    records = list(csv.reader(io.StringIO(rendered(Format.CSV))))

    assert records == [["name", "legs"], ["cow", "4"], ["centipede", "354"], ["snake", ""]]


def test_rows_are_written_before_the_next_is_asked_for() -> None:
    out = io.StringIO()
    seen = []

    def rows() -> object:
        for animal in ANIMALS:
            seen.append(len(out.getvalue().splitlines()))
            yield animal

    emit(rows(), COLUMNS, Format.JSONL, out)  # type: ignore[arg-type]

    assert seen == [0, 1, 2]


@given(name=st.text(max_size=40))
def test_no_name_puts_a_control_character_into_a_table_or_csv(name: str) -> None:
    for form in (Format.TABLE, Format.CSV):
        text = rendered(form, [Animal(name, 1)])

        assert all(char.isprintable() or char == "\n" for char in text)
        assert len(text.splitlines()) == 2


def test_a_record_in_words_leaves_out_what_is_unknown() -> None:
    out = io.StringIO()

    emit_record({"state": "complete", "end": None, "at": Position(7, 2)}, Format.TABLE, out)

    assert out.getvalue() == "state  complete\nat     7:2\n"


def test_a_record_in_json_keeps_positions_and_paths_as_text() -> None:
    out = io.StringIO()

    emit_record({"at": Position(7, 2), "path": Path("/x"), "rows": [ANIMALS[2]]}, Format.JSON, out)

    assert json.loads(out.getvalue()) == {
        "at": "7:2",
        "path": "/x",
        "rows": [{"name": "snake", "legs": None, "tag": ""}],
    }


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"ls -l\n", r"ls -l\n"),
        (b'say "x"', r"say \"x\""),
        (b"\x1b[2J\\\x00\xff", r"\x1b[2J\\\x00\xff"),
        (b"\x7f\t\r", r"\x7f\t\r"),
    ],
)
def test_bytes_are_escaped_as_scripts_write_them(data: bytes, text: str) -> None:
    assert escape(data) == text


def test_printable_escapes_what_moves_the_cursor_or_turns_the_text() -> None:
    assert printable("a\x1b[31m\u202eb\udcff") == r"a\x1b[31m\u202eb\udcff"
    assert printable("crème brûlée") == "crème brûlée"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (256 << 20, "256 MiB"), ((1 << 20) - 1, "1 MiB")],
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1_500_000, "1.5 ms"),
        (2_345_000_000, "2.345 s"),
        (125_000_000_000, "2 min 05 s"),
        (11_400_000_000_000, "3 h 10 min"),
    ],
)
def test_durations_in_words(ns: int, text: str) -> None:
    assert duration(ns) == text


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    assert styled("ok", "green", Terminal()) == "\x1b[32mok\x1b[0m"
    assert styled("ok", "green", io.StringIO()) == "ok"

    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(Terminal())

    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colour(Terminal())


def test_progress_off_a_terminal_is_silent() -> None:
    stream = io.StringIO()

    with progress("hello", stream=stream) as shown:
        assert shown is None

    assert stream.getvalue() == ""


def test_progress_shows_guest_time_branches_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    ticks = iter([0.0, 1.0, 2.0])

    with progress("debian", stream=stream) as shown:
        assert isinstance(shown, ProgressLine)
        line = ProgressLine(shown._display, shown._task, now=lambda: next(ticks))
        line.update(10_000_000, 500_000_000, None)
        line.update(35_000_000, 1_500_000_000, 70_000_000)

    assert "1.500 s of guest time, 35,000,000 branches, 25.0 M/s" in stream.getvalue()


def test_of_a_run_behind_another_the_rate_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    ticks = iter([0.0, 1.0, 2.0, 3.0])

    with progress("debian", stream=stream) as shown:
        assert isinstance(shown, ProgressLine)
        line = ProgressLine(shown._display, shown._task, now=lambda: next(ticks))
        for branches in (50_000_000, 10_000_000, 30_000_000):
            line.update(branches, 0, None)

    assert "10,000,000 branches, 0.0 M/s" in stream.getvalue()
    assert "30,000,000 branches, 20.0 M/s" in stream.getvalue()


def test_byte_progress_shows_what_is_done_how_much_and_how_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    ticks = iter([0.0, 1.0, 1.01, 3.0, 4.0])

    with byte_progress("debian", stream=stream) as shown:
        assert isinstance(shown, ByteLine)
        line = ByteLine(shown._display, shown._task, now=lambda: next(ticks))
        line.update("checking", 0, None)
        line.update("checking", 1, None)
        line.update("packing", 0, 12 << 20)
        line.update("packing", 6 << 20, 12 << 20)

    assert "debian" in stream.getvalue()
    assert "checking 1 B" not in stream.getvalue()
    assert "packing 6 MiB, 6 MiB/s" in stream.getvalue()


def test_byte_progress_off_a_terminal_is_silent() -> None:
    stream = io.StringIO()

    with byte_progress("hello", stream=stream) as shown:
        assert shown is None

    assert stream.getvalue() == ""
