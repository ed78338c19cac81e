"""gdb as scripts use it: in a batch, with a script that connects (as pwntools writes one), through its Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from gdb_session import TIMEOUT_S, Served, quiet_environment
from library import RecordingOf

GUESTS = Path(__file__).parents[2] / "guests"
VULN = GUESTS / "vuln" / "vuln.elf"
GRANT = 0x10012E


def gdb(*arguments: str | Path) -> tuple[int, list[str]]:
    """Run gdb with *arguments*; return its exit status and the lines that it wrote."""
    done = subprocess.run(
        ["gdb", "-nx", "-q", *map(os.fspath, arguments)],
        env=quiet_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


def test_a_batch_goes_there_and_back(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("vuln"), tmp_path, "--port", "0") as served:
        batch = ["target remote " + served.address, "break *grant", "continue", "reverse-stepi", "x/i $pc"]
        words = [word for command in batch for word in ("-ex", command)]
        status, said = gdb(VULN, "-batch", *words)
        # The next client finds the guest where it stood, and this one goes there again.
        again, said_again = gdb(VULN, "-batch", *words)

    assert (status, again) == (0, 0)
    for lines in (said, said_again):
        assert next(line for line in lines if line.startswith("=> ")).split()[-2:] == ["jmp", "*%eax"]


@pytest.mark.parametrize(("guest", "architecture"), [("vuln", "i386"), ("paging", "i386:x86-64")])
def test_a_script_says_what_it_connects_to(
    guest: str, architecture: str, recording_of: RecordingOf, tmp_path: Path
) -> None:
    script = tmp_path / "script.gdb"
    with Served(recording_of(guest), tmp_path, "--port", "0", "--at", "50%") as served:
        script.write_text(
            f"set endian little\nset architecture {architecture}\ntarget remote {served.address}\n"
            "print/x $pc\nstepi 20\nreverse-stepi 20\nprint/x $pc\nprint/x $cr0 & 1\nkill\nquit\n"
        )
        status, said = gdb(*GUESTS.glob(f"{guest}/{guest}.elf"), "-x", script)

    values = [line.split(" = ")[1] for line in said if line.startswith("$")]
    assert status == 0
    assert values[0] == values[1]
    assert values[2:] == ["0x1"]


PYTHON = """
python
import gdb

def say(*facts):
    print(">", *facts)

stops = []
gdb.events.stop.connect(stops.append)
gdb.execute("target remote ADDRESS")

class Second(gdb.Breakpoint):
    hits = 0

    def stop(self):
        Second.hits += 1
        return Second.hits == 2

Second("*print")
gdb.execute("continue")
say("hit", Second.hits, gdb.selected_frame().name())
gdb.execute("delete")

gdb.Breakpoint("*grant")
gdb.execute("continue")
say("at", hex(int(gdb.selected_frame().read_register("eip"))), type(stops[-1]).__name__)
gdb.execute("delete")

machine = gdb.selected_inferior()
say("begins", machine.read_memory(0x100000, 4).tobytes().hex())
text = machine.search_memory(0x100000, 0x10000, b"access granted")
say("found", machine.read_memory(text, 14).tobytes().decode())
for change in (lambda: machine.write_memory(0x100000, b"x"), lambda: gdb.execute("set $eax = 5")):
    try:
        change()
        say("changed")
    except gdb.error:
        say("refused")
say("threads", len(machine.threads()), gdb.selected_thread().is_stopped())

gdb.Breakpoint("*(int *) &admin", gdb.BP_WATCHPOINT, gdb.WP_WRITE)
gdb.execute("reverse-continue")
say("before", int(gdb.parse_and_eval("*(int *) &admin")))
gdb.execute("stepi")
say("after", int(gdb.parse_and_eval("*(int *) &admin")))
say("when", gdb.execute("monitor when", to_string=True).split()[1:3])
end
"""


def test_the_python_of_gdb_sees_all_of_it(recording_of: RecordingOf, tmp_path: Path) -> None:
    script = tmp_path / "script.gdb"
    with Served(recording_of("vuln"), tmp_path, "--port", "0") as served:
        script.write_text(PYTHON.replace("ADDRESS", served.address))
        status, said = gdb(VULN, "-batch", "-x", script)

    assert status == 0
    assert [line.removeprefix("> ") for line in said if line.startswith("> ")] == [
        "hit 2 print",
        f"at {GRANT:#x} BreakpointEvent",
        "begins 02b0ad1b",
        "found access granted",
        "refused",
        "refused",
        "threads 1 True",
        "before 0",
        "after 1",
        "when ['before', 'event']",
    ]
