"""A replay that differs says where it began to, and in what."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import damage
import pytest
from library import RecordingOf, RecordWith

from revirt.image import Guest
from revirt.log.events import Event, Kind
from revirt.machine.machine import Machine
from revirt.monitor.console import NullConsole
from revirt.recording import Recording
from revirt.replay import replay
from revirt.replay import session as session_module

CODE = bytes.fromhex(
    "fa"  #        cli
    "baff03"  #    mov dx, 0x3ff       the scratch register of the 16550A
    "b055"  #      mov al, 0x55
    "ee"  #        out dx, al
    "bf0080"  #    mov di, 0x8000
    "b91027"  #    mov cx, 10000
    "ec"  #        in al, dx
    "aa"  #        stosb
    "e2fc"  #      loop                back to the IN
    "b8adde"  #    mov ax, 0xdead
    "b010"  #      mov al, 0x10
    "e6f4"  #      out 0xf4, al        exit
    "f4"  #        hlt
)
"""Reads a register 10,000 times, and keeps what it read."""

BUFFER, COUNT, PAGE = 0x8000, 10_000, 4096
FLAW = 6_000
"""Which of the readings is another one."""


@pytest.fixture
def recording(tmp_path: Path, record_with: RecordWith) -> Recording:
    image = tmp_path / "reader.bin"
    image.write_bytes(CODE)
    guest = Guest("reader", "", 1 << 20, file=image, format="flat", address=0x7C00)
    with NullConsole() as console:
        return record_with(guest, console, "virtual", checkpoint_every=2_500, digest_every=500)


@pytest.fixture
def read_differently(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], int]], None]:
    """Let replaying machine number n read ``value(n)`` at the `FLAW`-th reading."""

    def install(value: Callable[[int], int]) -> None:
        numbers = count()

        class Flawed(Machine):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                number, uart = next(numbers), self.board.uart
                read = uart.read

                def read_flawed(offset: int, size: int) -> int:
                    is_flaw = self.core.registers()["rdi"] == BUFFER + FLAW if self._is_near() else False
                    return value(number) if is_flaw else read(offset, size)

                monkeypatch.setattr(uart, "read", read_flawed)

            def _is_near(self) -> bool:
                return FLAW - 5 <= self.core.branches <= FLAW + 5

        monkeypatch.setattr(session_module, "Machine", Flawed)

    return install
