"""Events that the core notes, and makes columns of."""

from __future__ import annotations

import pytest
from small_guests import FOREVER, real

from revirt.core import create_core, encode_columns
from revirt.log import columns
from revirt.log.events import Event, Kind
from revirt.log.rows import ROW, Rows, rows_of

LOOP = "mov cx, 100\n again: loop again\n hlt"


def test_a_note_says_where_the_core_stands() -> None:
    core = real(LOOP)
    core.run(7)

    core.note(Kind.INTERRUPT, False, True, 48, b"")
    core.note(Kind.TRANSMITTED, True, False, 0, b"line")

    there = {"branches": 7, "pc": core.pc}
    expected = [
        Event(Kind.INTERRUPT, halted=False, check=core.check(), number=48, **there),
        Event(Kind.TRANSMITTED, halted=True, data=b"line", **there),
    ]
    assert Rows(*core.take_notes()) == rows_of(expected)


def test_notes_are_taken_once_and_their_size_is_told() -> None:
    core = real(LOOP)

    sizes = [core.note(Kind.RECEIVED, False, False, 0, bytes(1000)) for _ in range(300)]

    assert sizes == [(index + 1) * (ROW.size + 1000) for index in range(300)]
    rows, data = core.take_notes()
    assert (len(rows), len(data)) == (300 * ROW.size, 300_000)
    assert core.take_notes() == (b"", b"")


def test_a_callback_can_note_what_is_not_checked() -> None:
    core = real("mov al, 1\n out 0xe9, al\n hlt")
    refused: list[str] = []

    def port_out(port: int, size: int, value: int) -> None:
        core.note(Kind.TRANSMITTED, False, False, 0, b"x")
        try:
            core.note(Kind.CLOCK, False, True, 0, b"")
        except RuntimeError as error:
            refused.append(str(error))

    core.set_callbacks(lambda *_: 0, port_out, lambda *_: 0, lambda *_: None)
    core.run(FOREVER)

    assert len(core.take_notes()[0]) == ROW.size
    assert refused == ["the guest is running"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        ((4, False, True, 0, "text"), TypeError),
        ((4, False, True, "0", b""), TypeError),
        ((256, False, True, 0, b""), ValueError),
        ((4, False, False, 0, bytes((8 << 20) + 1)), ValueError),
        ((4, False, True, 1 << 64, b""), OverflowError),
        ((4, False, True, -1, b""), OverflowError),
    ],
)
def test_what_is_no_event_is_not_noted(arguments: tuple[object, ...], error: type[Exception]) -> None:
    core = create_core(4096)

    with pytest.raises(error):
        core.note(*arguments)  # type: ignore[arg-type]

    assert core.take_notes() == (b"", b"")


@pytest.mark.parametrize(
    ("rows", "data", "problem"),
    [
        (bytes(31), b"", "rows are 32 bytes each"),
        (ROW.pack(1, 0, 0, 5, 0, 0, 0), b"four", "5 bytes of data, and 4 bytes"),
        (ROW.pack(1, 0, 0, 3, 0, 0, 0), b"four", "3 bytes of data, and 4 bytes"),
        (ROW.pack(1, 0, 0, 0, 5, 0, 0) + ROW.pack(1, 0, 0, 0, 4, 0, 0), b"", "at 4 branches after one at 5"),
        (ROW.pack(1, 0, 0, 0, 1 << 63, 0, 0), b"", "branches"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: bytes, data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        encode_columns(rows, data)


def test_the_largest_values_come_back() -> None:
    greatest = (1 << 64) - 1
    events = [
        Event(kind, (1 << 63) - 1, True, pc, 0xFFFF, number, b"data")
        for kind in Kind
        for pc, number in ((greatest, 0), (0, greatest))
    ]

    rows = rows_of(events)

    assert columns.decode(columns.encode(rows), len(events)) == events
