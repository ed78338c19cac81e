"""Instruction counts behind gdb's ``monitor``, which take an index."""

from __future__ import annotations

import shutil
from pathlib import Path

from library import RecordingOf

from revirt.gdb.monitor import Monitor
from revirt.index import build_index
from revirt.recording import Recording
from revirt.timeline import Timeline


def test_counts_are_there_as_soon_as_there_is_an_index(recording_of: RecordingOf, tmp_path: Path) -> None:
    path = shutil.copytree(recording_of("vuln", "virtual").path, tmp_path / "attack")
    timeline = Timeline(Recording.open(path))
    monitor = Monitor(timeline)

    refused = monitor.run("when-icount"), monitor.run("seek icount:1000")
    build_index(timeline.recording, jobs=1)

    assert all("revirt index attack" in each for each in refused)
    assert monitor.run("when-icount") == "0\n"
    assert monitor.run("seek icount:1000").startswith(f"{timeline.position}, pc ")
    assert monitor.run("when-icount") == "1000\n"
    assert "ends before" in monitor.run("seek icount:999999999")
    assert monitor.run("when-icount") == "1000\n"
