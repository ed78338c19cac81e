from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.log import columns, segment
from revirt.log.events import Event, Kind
from revirt.log.rows import MAX_DATA, rows_of

U64 = st.integers(0, 2**64 - 1)

EVENTS = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from(Kind),
        branches=st.one_of(st.integers(0, 10_000), st.integers(0, 2**63 - 1)),
        halted=st.booleans(),
        pc=U64,
        check=st.integers(0, 0xFFFF),
        number=U64,
        data=st.binary(max_size=40),
    ),
    min_size=1,
    max_size=60,
).map(lambda events: sorted(events, key=lambda event: event.branches))


@given(EVENTS)
def test_any_events_come_back_as_they_were(events: list[Event]) -> None:
    decoded = columns.decode(columns.encode(rows_of(events)), len(events))

    assert decoded == events
    assert all(type(event.kind) is Kind and type(event.halted) is bool for event in decoded)


@given(st.binary(max_size=300), st.integers(-1, 70_000))
def test_any_bytes_are_events_or_a_value_error(raw: bytes, count: int) -> None:
    try:
        decoded = columns.decode(raw, count)
    except ValueError:
        return

    assert len(decoded) == count


def test_a_steady_timer_costs_next_to_nothing() -> None:
    timer = [
        Event(Kind.INTERRUPT, 400_000 * tick, False, 0xFFFF_FFFF_8100_0000, 0, 48) for tick in range(1000)
    ]

    assert len(segment.encode(0, 0, rows_of(timer))) < 250


@pytest.mark.parametrize(
    "event",
    [
        Event(Kind.CLOCK, 2**64, False, 0),
        Event(Kind.CLOCK, 0, False, 2**64),
        Event(Kind.CLOCK, 0, False, 0, 0x10000),
        Event(Kind.CLOCK, 0, False, 0, 0, -1),
        Event(Kind.CLOCK, 0, False, -1),
    ],
)
def test_a_value_outside_its_range_is_refused(event: Event) -> None:
    with pytest.raises(ValueError, match="no log can hold"):
        rows_of([event])


def test_more_branches_than_a_log_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="at 9223372036854775808 branches"):
        columns.encode(rows_of([Event(Kind.CLOCK, 2**63, False, 0)]))


def test_events_that_go_back_are_refused() -> None:
    with pytest.raises(ValueError, match="at 4 branches after one at 5"):
        columns.encode(rows_of([Event(Kind.CLOCK, 5, False, 0), Event(Kind.CLOCK, 4, False, 0)]))


def test_no_events_and_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="0 events"):
        columns.encode(rows_of([]))
    with pytest.raises(ValueError, match="65537 events"):
        columns.encode(rows_of([Event(Kind.CLOCK, 0, False, 0)] * (columns.MAX_EVENTS + 1)))


def test_bytes_behind_the_last_column_are_refused() -> None:
    raw = columns.encode(rows_of([Event(Kind.RECEIVED, 1, True, 2, 3, 4, b"five")]))

    with pytest.raises(ValueError, match="1 bytes after"):
        columns.decode(raw + b"\0", 1)


def test_every_cut_of_the_columns_is_refused() -> None:
    raw = columns.encode(
        rows_of([Event(Kind.RECEIVED, 1, True, 2, 3, 4, b"five"), Event(Kind.CLOCK, 9, False, 7, 0, 8)])
    )

    for size in range(len(raw)):
        with pytest.raises(ValueError, match="columns end"):
            columns.decode(raw[:size], 2)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of event 99"):
        columns.decode(bytes([99]) + bytes(5), 1)


def test_data_of_sizes_that_do_not_exist_is_not_allocated() -> None:
    # Moments, pcs, checks and numbers of width 0, then a size of 2**64 - 1.
    raw = bytes([Kind.RECEIVED]) + bytes(4) + b"\x08" + b"\xff" * 8

    with pytest.raises(ValueError, match="an event with 18446744073709551615 bytes"):
        columns.decode(raw, 1)


def test_an_unknown_kind_is_not_written() -> None:
    with pytest.raises(ValueError, match="unknown kind of event 99"):
        columns.encode(rows_of([Event(99, 0, False, 0)]))  # type: ignore[arg-type]


def test_more_data_than_an_event_may_have_is_refused() -> None:
    raw = (
        bytes([Kind.RECEIVED])
        + bytes(4)
        + b"\x03"
        + (MAX_DATA + 1).to_bytes(3, "little")
        + bytes(MAX_DATA + 1)
    )

    with pytest.raises(ValueError, match="an event with 8388609 bytes of data"):
        columns.decode(raw, 1)
