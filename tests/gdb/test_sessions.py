"""gdb itself looks at recordings: 16, 32 and 64 bits on bare metal, and Debian."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from gdb_session import PROMPT, TIMEOUT_S, Gdb, Served, quiet_environment
from library import COMMAND, RecordingOf

from revirt.position import Position
from revirt.recording import Recording

GUESTS = Path(__file__).parents[2] / "guests"
# Of the guest vuln, as its ELF file and its attack have them.
VULN = str(GUESTS / "vuln" / "vuln.elf")
ATTACKERS_CODE = 0x10102D


@pytest.fixture
def vuln(recording_of: RecordingOf, tmp_path: Path) -> Iterator[Gdb]:
    """A gdb with the symbols of the guest, at the start of the recorded attack on it."""
    with Served(recording_of("vuln"), tmp_path / "gdb") as served, Gdb(served.address, VULN) as gdb:
        yield gdb


def registers_of(recording: Recording) -> int:
    """Return the program counter at the first checkpoint, as the log has it."""
    return next(recording.events()).pc


# -- 16 bits -----------------------------------------------------------------------------------------------------


def test_real_mode_is_disassembled_as_16_bit_code(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("hello"), tmp_path / "gdb") as served, Gdb(served.address) as gdb:
        code = gdb.run("x/3i $pc")

        assert gdb.pc == 0x7C00
        # The guest begins with cli, cld, xor ax, ax.
        assert code.split() == ["=>", "0x7c00:", "cli", "0x7c01:", "cld", "0x7c02:", "xor", "%ax,%ax"]
        assert "i8086" in gdb.run("show architecture")


def test_real_mode_steps_there_and_back(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("hello"), tmp_path / "gdb") as served, Gdb(served.address) as gdb:
        gdb.run("stepi 3")
        assert gdb.pc == 0x7C04

        gdb.run("reverse-stepi 2")

        assert gdb.pc == 0x7C01


def test_ctrl_c_ends_many_steps(recording_of: RecordingOf, tmp_path: Path) -> None:
    """Seen: it was lost, for each step by itself was over too soon to be interrupted."""
    with Served(recording_of("timer"), tmp_path / "gdb") as served, Gdb(served.address) as gdb:
        gdb.begin("stepi 100000000")

        assert "SIGINT" in gdb.interrupt()

        assert Position.parse(gdb.where()) > Position(0)


# -- 32 bits -----------------------------------------------------------------------------------------------------


def test_a_breakpoint_stops_before_its_instruction(vuln: Gdb) -> None:
    vuln.run("break *grant")

    assert "Breakpoint 1, grant ()" in vuln.run("continue")
    # The attacker's code has counted up `admin` before it jumps here.
    assert vuln.value("*(int *) &admin") == 1


def test_stepping_back_from_the_takeover_leads_into_the_attackers_code(vuln: Gdb) -> None:
    vuln.run("break *grant")
    vuln.run("continue")

    vuln.run("reverse-stepi")

    line = vuln.value("(int) &line")
    assert line < vuln.pc < line + 256
    assert "jmp" in vuln.run("x/i $pc")
    vuln.run("stepi")
    assert vuln.pc == vuln.value("(int) &grant")


def test_continuing_back_to_a_watchpoint_finds_who_wrote(vuln: Gdb) -> None:
    vuln.run("break *grant")
    vuln.run("continue")
    vuln.run("delete")
    vuln.run("watch *(int *) &admin")

    told = vuln.run("reverse-continue")

    assert "Hardware watchpoint" in told
    assert ("Old value = 1" in told, "New value = 0" in told) == (True, True)
    assert "incl   (%ecx)" in vuln.run("x/i $pc")


def test_continuing_to_a_watchpoint_stops_behind_the_write(vuln: Gdb) -> None:
    vuln.run("watch *(int *) &admin")

    told = vuln.run("continue")

    assert ("Old value = 0" in told, "New value = 1" in told) == (True, True)
    vuln.run("delete")
    vuln.run("reverse-stepi")
    assert "incl   (%ecx)" in vuln.run("x/i $pc")


def test_the_read_of_a_return_address_is_where_the_takeover_begins(vuln: Gdb) -> None:
    vuln.run(f"break *{ATTACKERS_CODE:#x}")
    vuln.run("continue")
    vuln.run("delete")
    vuln.run("rwatch -location *(int *) ($esp - 4)")

    told = vuln.run("reverse-continue")

    assert "Hardware read watchpoint" in told
    assert "ret" in vuln.run("x/i $pc")
    assert vuln.value("*(int *) $esp") == ATTACKERS_CODE


def test_the_ends_of_the_recording_are_named(vuln: Gdb) -> None:
    assert "No more reverse-execution history" in vuln.run("continue")
    assert "No more reverse-execution history" in vuln.run("reverse-continue")


def test_the_start_is_where_the_log_says(vuln: Gdb, recording_of: RecordingOf) -> None:
    assert vuln.pc == registers_of(recording_of("vuln"))


def test_monitor_commands_move_what_gdb_shows(vuln: Gdb) -> None:
    start = vuln.pc
    assert "Checkpoint 1" in vuln.run("checkpoint")

    # Event 14 is the attack, as it was received.
    vuln.run("seek event:14")
    there = vuln.pc
    assert there == 0x1003BE
    assert "interrupt" in vuln.run("events 1")
    vuln.run("restart 1")
    assert vuln.pc == start
    vuln.run("back")
    assert vuln.pc == there
    vuln.run("forward")
    assert vuln.pc == start
    vuln.run("seek end")
    assert vuln.where().startswith("2408:")
    assert "1  0:0" in vuln.run("info checkpoints")
    vuln.run("delete checkpoint 1")
    assert "no checkpoints" in vuln.run("info checkpoints")
    assert "vuln" in vuln.run("info recording")
    assert "99999999" in vuln.run("seek 99999999")


def test_the_script_has_gdb_forget_and_nobody_reminded_of_it(vuln: Gdb) -> None:
    answer = vuln.run("seek 50%") + vuln.run("monitor seek 60%")

    assert "flush" not in answer
    assert f"pc {vuln.pc:#x}" in answer


def test_nothing_can_be_written(vuln: Gdb) -> None:
    assert "a recording is never changed" in vuln.run("set $eax = 5")
    assert "Cannot access memory" in vuln.run("set *(int *) &admin = 5")
    assert vuln.value("*(int *) &admin") == 0


# -- 64 bits -----------------------------------------------------------------------------------------------------


def test_stepping_back_over_a_system_call_leads_into_the_program(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    with (
        Served(recording_of("paging"), tmp_path / "gdb") as served,
        Gdb(served.address, str(GUESTS / "paging" / "paging.elf")) as gdb,
    ):
        gdb.run("break *on_syscall")
        assert "Breakpoint 1" in gdb.run("continue")
        # SYSCALL leaves the address behind itself in RCX, and enters where LSTAR says.
        back = gdb.value("$rcx")
        assert gdb.pc == gdb.value("$lstar")

        gdb.run("reverse-stepi")

        assert gdb.pc == back - 2
        assert "syscall" in gdb.run("x/i $pc")
        assert gdb.value("$cs & 3") == 3


def test_control_registers_are_shown_bit_by_bit(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("paging"), tmp_path / "gdb") as served, Gdb(served.address) as gdb:
        gdb.run("seek end")

        assert {"PE", "PG"} <= set(gdb.run("output $cr0").strip("[ ]").split())
        assert {"LMA", "LME"} <= set(gdb.run("output $efer").strip("[ ]").split())
        assert gdb.value("$cr3") % 4096 == 0


# -- connections -------------------------------------------------------------------------------------------------


def test_one_gdb_may_follow_another(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("vuln"), tmp_path / "gdb") as served:
        with Gdb(served.address) as first:
            first.run("break *0x10012e")
            first.run("continue")
            there = first.where()
            assert "detached" in first.run("detach")

        with Gdb(served.address) as second:
            # It stands where the first one left it, without the first one's breakpoint.
            assert second.where() == there
            assert "No more reverse-execution history" in second.run("reverse-continue")

        status, said = served.end()

    assert status == 128 + signal.SIGTERM
    assert "Traceback" not in said


def test_a_gdb_that_dies_leaves_the_server_alive(recording_of: RecordingOf, tmp_path: Path) -> None:
    with Served(recording_of("vuln"), tmp_path / "gdb") as served:
        with Gdb(served.address) as first:
            first.run("stepi 3")
            there = first.where()

        with Gdb(served.address) as second:
            assert second.where() == there


def test_a_port_that_is_free_is_chosen_and_named(recording_of: RecordingOf, tmp_path: Path) -> None:
    with (
        Served(recording_of("hello"), tmp_path, "--port", "0") as served,
        Gdb(served.address) as gdb,
    ):
        assert served.address.startswith("127.0.0.1:")
        assert gdb.pc == 0x7C00


def test_launch_starts_gdb_with_the_symbols_of_the_guest(recording_of: RecordingOf) -> None:
    command = [*COMMAND, "gdb", str(recording_of("vuln").path), "--launch"]
    child = pexpect.spawn(shlex.join(command), env=quiet_environment(), encoding="utf-8", timeout=TIMEOUT_S)

    child.expect_exact(PROMPT)
    child.sendline("info address grant")
    child.expect_exact("0x10012e")
    # Ctrl-C at a prompt is gdb's affair.
    child.sendintr()
    child.expect_exact(PROMPT)
    child.sendline("quit")
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0


# -- Debian ------------------------------------------------------------------------------------------------------


@pytest.fixture
def debian(recording_of: RecordingOf, tmp_path: Path) -> Iterator[Gdb]:
    with Served(recording_of("debian"), tmp_path / "gdb") as served, Gdb(served.address) as gdb:
        yield gdb


@pytest.mark.debian
def test_debian_steps_there_and_back(debian: Gdb) -> None:
    debian.run("seek 70%")
    places = [debian.pc]
    for _ in range(5):
        debian.run("stepi")
        places.append(debian.pc)

    back = [debian.pc]
    for _ in range(5):
        debian.run("reverse-stepi")
        back.append(debian.pc)

    assert back == places[::-1]


@pytest.mark.debian
def test_debian_goes_from_one_system_call_to_the_one_before(debian: Gdb) -> None:
    debian.run("seek 90%")
    debian.run("break *$lstar")
    assert "Breakpoint 1" in debian.run("continue")
    assert "Breakpoint 1" in debian.run("continue")
    number, place = debian.value("$rax"), debian.where()

    assert "Breakpoint 1" in debian.run("reverse-continue")
    assert debian.where() != place
    assert "Breakpoint 1" in debian.run("continue")

    assert (debian.value("$rax"), debian.where()) == (number, place)


@pytest.mark.debian
def test_debian_finds_who_wrote_a_word_of_the_stack(debian: Gdb) -> None:
    debian.run("seek 90%")
    debian.run("break *$lstar")
    debian.run("continue")
    debian.run("delete")
    # The system call's return address is pushed, in the kernel, a little later.
    debian.run("stepi 20")
    address = debian.value("$rsp")
    before = debian.value(f"*(long *) {address}")
    debian.run(f"watch *(long *) {address}")

    assert "New value" in debian.run("reverse-continue")

    debian.run("delete")
    debian.run("stepi")
    assert debian.value(f"*(long *) {address}") == before


@pytest.mark.debian
def test_debian_ctrl_c_ends_a_search(debian: Gdb) -> None:
    # Nothing is ever executed here: the search goes through the whole of the recording.
    debian.run("break *0x10")
    debian.begin("continue")
    debian.wait_for("Continuing.")

    assert "SIGINT" in debian.interrupt()

    here = debian.pc
    debian.run("stepi")
    debian.run("reverse-stepi")
    assert debian.pc == here
