"""Points in the life of a guest, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.position import (
    CheckpointNumber,
    Edge,
    EventNumber,
    GuestTime,
    InstructionCount,
    Point,
    Position,
    Share,
    parse_point,
)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("0", Position(0)),
        ("1,000,000", Position(1_000_000)),
        ("1_000:7", Position(1_000, 7)),
        ("12.5s", GuestTime(12_500_000_000)),
        ("50%", Share(50)),
        ("99.25%", Share(99.25)),
        ("0.000000001s", GuestTime(1)),
        ("250ms", GuestTime(250_000_000)),
        ("1.5ms", GuestTime(1_500_000)),
        ("10m", GuestTime(600_000_000_000)),
        ("0.5h", GuestTime(1_800_000_000_000)),
        ("2d", GuestTime(172_800_000_000_000)),
        ("checkpoint:3", CheckpointNumber(3)),
        ("icount:1306869310", InstructionCount(1306869310)),
        ("event:0", EventNumber(0)),
        ("start", Edge.START),
        (" end ", Edge.END),
    ],
)
def test_points_are_written_in_many_ways(text: str, point: Point) -> None:
    assert parse_point(text) == point


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "-1", "1:", ":1", "1.5", "1.s", ".5s", "1 s", "5w", "-1s", "9" * 19, "1" * 10 + "s", "٣s"),
        *("checkpoint:", "checkpoint:-1", "event:x", "events:1", "START", "12.5s:3", "0.1234567891s"),
        *("101%", "-1%", "%", "nan%", "1:2%", "50 %"),
    ],
)
def test_anything_else_is_refused_and_told_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no point of a recording; write BRANCHES, 12.5s, 50%, check"):
        parse_point(text)


@given(
    st.one_of(
        st.builds(Position, st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1)),
        st.builds(GuestTime, st.integers(0, 10**18 - 1)),
        st.builds(CheckpointNumber, st.integers(0, 10**18 - 1)),
        st.builds(EventNumber, st.integers(0, 10**18 - 1)),
        st.builds(Share, st.integers(0, 1000).map(lambda tenths: tenths / 10)),
        st.sampled_from(Edge),
    )
)
def test_a_point_reads_as_it_prints(point: Point) -> None:
    assert parse_point(str(point)) == point
