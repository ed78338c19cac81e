"""A recorder that cannot write must not let its guest go on unrecorded, however quiet it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from library import built

from revirt.errors import HostError
from revirt.log import writer
from revirt.monitor.console import PipeConsole
from revirt.monitor.session import RecordOptions, record
from revirt.recording import Recording, RecordingState


def test_a_full_disk_ends_the_run_of_a_guest_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path, *_parts: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "write_whole", fail)
    monkeypatch.setattr(writer, "SEGMENT_SECONDS", 0.05)
    nobody_types, keyboard = os.pipe()

    with (
        pytest.raises(HostError, match="No space left on device"),
        PipeConsole(nobody_types, None) as console,
    ):
        record(built("echo"), console, RecordOptions(clock="host"), tmp_path / "echo")

    os.close(keyboard)
    os.close(nobody_types)
    assert Recording.open(tmp_path / "echo").state is RecordingState.INTERRUPTED
