"""What tests of timelines share."""

from __future__ import annotations

from pathlib import Path

import pytest
from assembly import assemble
from library import RecordWith
from sources import RecordSource

from revirt.image import Guest
from revirt.monitor.console import NullConsole
from revirt.position import Position
from revirt.recording import Recording


@pytest.fixture
def record_source(record_with: RecordWith, tmp_path: Path) -> RecordSource:
    """Return a function that records 16-bit code."""

    def record(source: str, branches: int) -> Recording:
        image = tmp_path / "code.bin"
        image.write_bytes(assemble(source, 16, 0x1000))
        guest = Guest("code", "some code", 1 << 20, file=image, format="flat", address=0x1000)
        return record_with(guest, NullConsole(), until=Position(branches))

    return record
