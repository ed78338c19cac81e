"""Clients that are not gdb's command line: lldb, gdb's machine interface as programs use it, and a plain socket."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

from fake import Client
from gdb_session import TIMEOUT_S, Served, quiet_environment
from library import RecordingOf

GUESTS = Path(__file__).parents[2] / "guests"
VULN = GUESTS / "vuln" / "vuln.elf"
GRANT = 0x10012E


def lldb(address: str, *commands: str) -> str:
    """Return what lldb, connected to *address*, says to *commands*; it ends at the first that fails."""
    words = ["lldb", "--no-lldbinit", "--batch", "-o", f"process connect unix-connect://{address}"]
    for command in commands:
        words += ["-o", command]
    done = subprocess.run(
        words,
        env=quiet_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + done.stderr


class Mi:
    """A gdb that speaks its machine interface (GDB manual, "GDB/MI")."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            ["gdb", "-nx", "-q", "--interpreter=mi3", *arguments],
            env=quiet_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._until("(gdb)")

    def ask(self, command: str) -> str:
        """Return the result of *command*."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"7{command}\n")
        self._process.stdin.flush()
        return self._until("7^")

    def go(self, command: str) -> str:
        """Return what is said of the stop that *command* leads to."""
        assert self.ask(command).startswith("7^running")
        return self._until("*stopped")

    def close(self) -> None:
        """End it."""
        self._process.communicate("-gdb-exit\n", timeout=TIMEOUT_S)

    def _until(self, begin: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(begin):
                return line
        raise EOFError(begin)


def test_lldb_stops_steps_and_watches(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("vuln"), tmp_path / "gdb") as served:
        said = lldb(
            served.address,
            f"breakpoint set --address {GRANT:#x}",
            "continue",
            "register read eip",
            "thread step-inst",
            "memory read --format x --size 4 --count 1 0x100000",
            "breakpoint delete --force",
            "process plugin packet send bc",
            "watchpoint set expression --size 4 --watch write -- 0x103900",
            "continue",
            "register write eax 5",
        )

    assert f"eip = {GRANT:#010x}" in said
    assert "pushl  %ebp" in said
    assert "instruction step into" in said
    # The magic number of multiboot, with which the image begins.
    assert "0x00100000: 0x1badb002" in said
    assert "T05thread:1;replaylog:begin;" in said
    assert "Watchpoint 1 hit" in said
    assert "Failed to write register 'eax'" in said


def test_lldb_shows_long_mode(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(
        recording_of("paging"), tmp_path / "gdb", "--socket", str(tmp_path / "gdb"), "--at", "20000"
    ) as served:
        said = lldb(
            served.address,
            "register read rip cr3",
            "thread step-inst",
            "process plugin packet send bs",
            "detach",
        )

    before, after = re.findall(r"frame #0: (0x[0-9a-f]{16})", said)[:2]
    assert f"rip = {before}" in said
    assert after != before
    assert "response: T05thread:1;" in said


def test_a_program_uses_the_machine_interface(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("vuln"), tmp_path / "gdb") as served:
        gdb = Mi(str(VULN))
        assert gdb.ask(f"-target-select remote {served.address}").startswith("7^connected")
        assert gdb.ask("-break-insert *grant").startswith("7^done")
        assert 'reason="breakpoint-hit"' in gdb.go("-exec-continue")

        assert 'func="line"' in gdb.go("-exec-step-instruction --reverse")

        assert f'begin="{GRANT:#010x}"' in gdb.ask(f"-data-read-memory-bytes {GRANT:#x} 16")
        assert gdb.ask(f"-data-write-memory-bytes {GRANT:#x} 90").startswith("7^error")
        assert 'func="_start"' in gdb.go("-exec-continue --reverse")
        assert gdb.ask("-target-detach").startswith("7^done")
        gdb.close()


def test_a_few_lines_of_a_script_do(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("vuln"), tmp_path, "--port", "0") as served:
        host, port = served.address.rsplit(":", 1)
        client = Client(socket.create_connection((host, int(port))))
        assert b"ReverseContinue+" in client.ask(b"qSupported")
        start = client.ask(b"g")

        assert client.ask(b"Z0,%x,1" % GRANT) == b"OK"
        assert client.ask(b"c").startswith(b"T05")
        there = client.ask(b"p8")
        assert int.from_bytes(bytes.fromhex(there.decode()), "little") == GRANT
        assert client.ask(b"bs").startswith(b"T05")
        assert client.ask(b"s").startswith(b"T05")
        assert client.ask(b"p8") == there

        assert client.ask(b"z0,%x,1" % GRANT) == b"OK"
        assert client.ask(b"bc") == b"T05thread:1;replaylog:begin;"
        assert client.ask(b"g") == start
        assert client.ask(b"D") == b"OK"
        client.socket.close()
