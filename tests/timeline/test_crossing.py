"""Accesses that go on into another page: what is watched there, and in pages that have nothing to do with it."""

from __future__ import annotations

import pytest
from sources import RecordSource

from revirt.position import Position
from revirt.timeline import Access, Condition, Read, StopReason, Timeline, Write

CROSSING = """
        cli
        xor     ax, ax
        mov     ds, ax
again:  mov     dword ptr [0x6ffe], eax
        inc     eax
        mov     ebx, dword ptr [0x6ffd]
        jmp     again
"""
WRITING, READING = 0, 2
"""The instructions of its line that go from one page on into the other."""


@pytest.mark.parametrize(
    ("condition", "instruction"),
    [
        (Write(0x6FFE, 1, physical=True), WRITING),
        (Write(0x6FFF, 1, physical=True), WRITING),
        (Write(0x7000, 1, physical=True), WRITING),
        (Write(0x7001, 7, physical=True), WRITING),
        (Write(0x6FF0, 64), WRITING),
        (Read(0x6FFD, 2), READING),
        (Read(0x7000, 1, physical=True), READING),
    ],
    ids=str,
)
def test_what_is_watched_on_either_side_is_found(
    condition: Condition, instruction: int, record_source: RecordSource
) -> None:
    timeline = Timeline(record_source(CROSSING, 50))
    timeline.seek(Position(20))

    on = timeline.run([condition])
    back = timeline.run_back([condition]), timeline.run_back([condition])

    assert (on.reason, on.position) == (StopReason.WATCHPOINT, Position(20, instruction + 1))
    assert [each.position for each in back] == [Position(20, instruction), Position(19, instruction)]


@pytest.mark.parametrize(
    "condition",
    [
        Write(0x5000, 8, physical=True),
        Write(0x7002, 1, physical=True),
        Read(0x7001, 1, physical=True),
        Access(0x8000, 7),
        Read(0x5006, 1),
    ],
    ids=str,
)
def test_what_is_watched_elsewhere_is_not_found(condition: Condition, record_source: RecordSource) -> None:
    """Seen: going on, an access across any two pages was taken for one to the first bytes of every page."""
    timeline = Timeline(record_source(CROSSING, 50))
    timeline.seek(Position(20))

    assert timeline.run_back([condition]).reason is StopReason.START
    assert timeline.run([condition]).reason is StopReason.END
