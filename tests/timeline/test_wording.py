"""Conditions as people write them, and what they are told of a stop."""

from __future__ import annotations

import pytest

from revirt.errors import UsageError
from revirt.log.events import Kind
from revirt.position import Position
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


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("execute 0x100010", Execute(0x100010)),
        ("write 4096", Write(4096, 8)),
        ("write 0xffffffff81000000 4", Write(0xFFFFFFFF81000000, 4)),
        ("read 0x10 0x20", Read(0x10, 0x20)),
        ("access 0x10", Access(0x10, 8)),
        ("console Kernel panic - .*", ConsoleText(b"Kernel panic - .*")),
        ("event received", EventKind(Kind.RECEIVED)),
        ("interrupt", Interrupt()),
        ("interrupt 14", Interrupt(14)),
        ("syscall 59", SystemCall(59)),
        ("syscall", SystemCall()),
        ("cr3", AddressSpace()),
        ("cpl 3", Privilege(3)),
    ],
)
def test_conditions_are_written_in_words(text: str, condition: Condition) -> None:
    assert parse_condition(text.split()) == condition


@pytest.mark.parametrize(
    "text",
    [
        "",
        "execute",
        "execute main",
        "execute -1",
        "execute 0x10000000000000000",
        "write 1 2 3",
        "write 1 0",
        "write 1 65537",
        "console",
        "event nothing",
        "interrupt 1 2",
        "syscall x",
        "cpl 99999999999999999999999999",
        "moon",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_condition(text.split())


@pytest.mark.parametrize(
    ("stopped", "text"),
    [
        (Stopped(StopReason.INTERRUPT, Position(1), value=14), "interrupt 0x0e"),
        (Stopped(StopReason.SYSTEM_CALL, Position(1), value=1), "system call 1"),
        (Stopped(StopReason.ADDRESS_SPACE, Position(1), value=0x1000), "cr3 0x1000"),
        (Stopped(StopReason.PRIVILEGE, Position(1), value=3), "privilege level 3"),
        (Stopped(StopReason.WATCHPOINT, Position(1), address=0x5000), "watchpoint 0x5000"),
        (Stopped(StopReason.END, Position(1)), "end"),
    ],
)
def test_a_stop_is_told_in_words(stopped: Stopped, text: str) -> None:
    assert describe(stopped) == text
