"""Conditions behind gdb's ``monitor``."""

from __future__ import annotations

from library import RecordingOf

from revirt.gdb.monitor import Monitor
from revirt.timeline import Timeline


def test_conditions_are_gone_to_both_ways(recording_of: RecordingOf) -> None:
    timeline = Timeline(recording_of("timer", "host"))
    monitor = Monitor(timeline)

    first = monitor.run("next interrupt 0x20")
    assert first.startswith(f"interrupt 0x20\n{timeline.position}, pc ")
    second = monitor.run("next interrupt")
    assert second != first
    assert monitor.run("previous interrupt 32") == first
    assert monitor.run("previous interrupt").startswith("start\n")
    assert monitor.run("next console hash .*").startswith("console\n")
    assert monitor.run("back").startswith(f"{timeline.start}, pc ")


def test_what_is_no_condition_is_told_what_one_is(recording_of: RecordingOf) -> None:
    monitor = Monitor(Timeline(recording_of("hello", "virtual")))

    for command in (
        "next",
        "previous",
        "next week",
        "next console (",
        "next interrupt 256",
        "next write 0x0 9999999",
    ):
        assert monitor.run(command).endswith("\n")
    assert "execute ADDRESS" in monitor.run("next week")
