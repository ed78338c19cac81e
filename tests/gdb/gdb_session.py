"""gdb itself, driven through its command line, and `revirt gdb` in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pexpect
from library import COMMAND, environment

from revirt.gdb import COMMANDS
from revirt.recording import Recording

TIMEOUT_S = 240
_PATIENCE_S = 30
PROMPT = "(gdb) "


def quiet_environment() -> dict[str, str]:
    """Return an environment in which gdb writes plain text and asks nobody for symbols."""
    return {**environment(), "TERM": "dumb", "DEBUGINFOD_URLS": ""}


class Served:
    """`revirt gdb` of *recording*, waiting at a UNIX socket or, with ``--port``, at ``address``."""

    def __init__(self, recording: Recording, path: Path, *options: str) -> None:
        place = options or ("--socket", str(path))
        command = [*COMMAND, "gdb", str(recording.path), *place]
        self._process = subprocess.Popen(
            command, env=environment(), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self._process.stderr is not None
        first = self._process.stderr.readline()
        found = re.search(r"waits for gdb at (\S+);", first)
        assert found is not None, first + self._process.stderr.read()
        self.address = found[1]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal; return its exit status and what it said."""
        self._process.send_signal(number)
        _, said = self._process.communicate(timeout=TIMEOUT_S)
        return self._process.returncode, said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.end()


class Gdb:
    """A gdb that is connected to *address*; `run` gives it a command."""

    def __init__(self, address: str, *arguments: str) -> None:
        command = ["-q", "-nx", "-x", str(COMMANDS), *arguments]
        self._child = pexpect.spawn(
            "gdb", command, env=quiet_environment(), encoding="utf-8", timeout=TIMEOUT_S, echo=False
        )
        self._await_prompt()
        for setting in ("width 0", "height 0", "style enabled off"):
            self.run(f"set {setting}")
        self.connected = self.run(f"target remote {address}")

    def run(self, command: str) -> str:
        """Return what gdb says to *command*."""
        self._child.sendline(command)
        return self._await_prompt()

    def begin(self, command: str) -> None:
        """Give it a command that does not end by itself."""
        self._child.sendline(command)

    def wait_for(self, text: str) -> None:
        """Wait until gdb has said *text*."""
        self._child.expect_exact(text)

    def interrupt(self) -> str:
        """Type Ctrl-C; return what gdb says."""
        # It says "Continuing." before it lets the guest go on, and what is typed in between it sends too early: then
        # nothing comes of it.
        for _ in range(TIMEOUT_S // _PATIENCE_S):
            time.sleep(0.3)
            self._child.sendintr()
            if self._child.expect_exact([PROMPT, pexpect.TIMEOUT], timeout=_PATIENCE_S) == 0:
                return self._said()
        raise AssertionError("gdb does not hear Ctrl-C")

    def value(self, expression: str) -> int:
        """Return the value of *expression* as a number."""
        answer = self.run(f"output/u (unsigned long long)({expression})")
        return int(answer.strip())

    @property
    def pc(self) -> int:
        """The program counter, as gdb has it."""
        return self.value("$pc")

    def where(self) -> str:
        """Return the position that the stub stands at."""
        return self.run("when").partition(",")[0].strip()

    def _await_prompt(self) -> str:
        self._child.expect_exact(PROMPT)
        return self._said()

    def _said(self) -> str:
        return str(self._child.before).replace("\r\n", "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close(force=True)
