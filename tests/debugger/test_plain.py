"""`revirt debug --plain`: a script, a pipe, a person at a terminal."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest
from library import COMMAND, RecordingOf, environment

from revirt.debugger.plain import PROMPT
from revirt.recording import Recording

TIMEOUT_S = 60


def debug(recording: Recording, *options: str, typed: str = "") -> tuple[int, str, str]:
    """Run it with *options*, *typed* being its standard input; return status, output and errors."""
    done = subprocess.run(
        [*COMMAND, "debug", str(recording.path), *options],
        input=typed, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_script_says_who_overwrote_the_return_address(attack: Recording, tmp_path: Path) -> None:
    script = tmp_path / "who.txt"
    script.write_text(
        "# into the typed code, and back to the return that leads there\n"
        "search execute &line+0xd\n"
        "step-back\n"
        "search-back write sp 4\n"
    )

    status, out, errors = debug(attack, "--plain", "-x", str(script))

    assert (status, errors) == (0, "")
    assert out.splitlines()[2].endswith("ret")
    assert out.splitlines()[-1].split()[1:3] == ["0x100107", "<greet+0xb>"]


def test_commands_run_in_the_order_in_which_they_are_given(attack: Recording, tmp_path: Path) -> None:
    script = tmp_path / "one.txt"
    script.write_text("print 2")

    status, out, _ = debug(attack, "--plain", "-e", "print 1", "-x", str(script), "-e", "print 3")

    assert (status, out) == (0, "0x1  1\n0x2  2\n0x3  3\n")


def test_a_pipe_is_a_script(attack: Recording) -> None:
    status, out, _ = debug(attack, "--plain", typed="print 1\nquit\nprint 2\n")

    assert (status, out) == (0, "0x1  1\n")


def test_the_first_command_that_fails_ends_a_script_with_its_status(attack: Recording) -> None:
    status, out, errors = debug(attack, "--plain", typed="print 1\nprint nowhere\nprint 2\n")

    assert (status, out) == (2, "0x1  1\n")
    assert errors.startswith("print nowhere: no register or symbol is called 'nowhere'")


def test_a_script_that_is_not_there_is_named(attack: Recording) -> None:
    status, _, errors = debug(attack, "--plain", "-x", "nowhere.txt")

    assert status == 1
    assert "nowhere.txt" in errors


@pytest.mark.parametrize("typed", ["\0\0\0\n", "x" * 100_000, "print \x1b[2J\n", "é\n"])
def test_a_script_of_anything_is_refused_without_control_characters(attack: Recording, typed: str) -> None:
    status, out, errors = debug(attack, "--plain", typed=typed)

    assert (status, out) == (2, "")
    assert errors.removesuffix("\n").isprintable()


def test_a_reader_that_stops_reading_ends_it_quietly(attack: Recording) -> None:
    command = shlex.join([*COMMAND, "debug", str(attack.path), "--plain"])
    typed = "events 1000\n" * 2000

    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"],
        input=typed, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip

    assert "Traceback" not in done.stderr
    assert done.returncode == 141


def test_programs_get_a_row_for_each_command(attack: Recording) -> None:
    commands = ("-e", "search execute grant", "-e", "# why", "-e", "print eax", "-e", "quit")

    _, lines, _ = debug(attack, "--plain", "--jsonl", *commands)
    _, array, _ = debug(attack, "--plain", "--json", *commands)
    _, text, _ = debug(attack, "--plain", *commands)

    rows = [json.loads(line) for line in lines.splitlines()]
    assert rows == json.loads(array)
    assert [row["command"] for row in rows] == ["search execute grant", "# why", "print eax"]
    assert "\n".join(row["answer"] for row in rows if row["answer"]) == text.rstrip()
    assert {row["position"] for row in rows} == {rows[0]["answer"].splitlines()[1].split()[0]}


def test_an_array_is_closed_when_a_command_fails(attack: Recording) -> None:
    status, out, errors = debug(attack, "--plain", "--json", typed="print 1\nprint nowhere\nprint 2\n")

    assert status == 2
    assert [row["answer"] for row in json.loads(out)] == ["0x1  1"]
    assert errors.startswith("print nowhere: ")


def test_a_program_reads_an_answer_before_it_writes_the_next_command(attack: Recording) -> None:
    command = [*COMMAND, "debug", str(attack.path), "--plain", "--jsonl"]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        places = []
        for _ in range(3):
            process.stdin.write("step\n")
            process.stdin.flush()
            places.append(json.loads(process.stdout.readline())["position"])
        process.stdin.close()

    assert process.returncode == 0
    assert len(set(places)) == 3


def test_forms_for_programs_are_for_plain(attack: Recording) -> None:
    assert debug(attack, "--json")[0] == 2


@pytest.mark.debian
def test_ctrl_c_ends_a_script_and_what_it_looks_for(recording_of: RecordingOf) -> None:
    command = [*COMMAND, "debug", str(recording_of("debian").path), "--plain", "-e", "print 1"]
    with subprocess.Popen(
        [*command, "-e", "search access 0x10 8", "-e", "print 2"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        while process.returncode is None:
            # What comes before the search has begun goes by unheard.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)

        assert process.returncode == 130
        assert (first, process.stdout.read()) == ("0x1  1\n", "")


def test_the_screen_without_a_terminal_is_refused(attack: Recording) -> None:
    status, _, errors = debug(attack)

    assert status == 2
    assert "--plain" in errors


def test_a_place_to_begin_at_may_be_any_point(attack: Recording) -> None:
    status, out, _ = debug(attack, "--plain", "--at", "event:14", "-e", "where")

    assert status == 0
    assert "before event 15" in out
    assert debug(attack, "--plain", "--at", "nowhere", "-e", "where")[0] == 2


def test_symbols_may_come_from_another_file(recording_of: RecordingOf) -> None:
    elf = Path(__file__).parents[2] / "guests" / "vuln" / "vuln.elf"

    _, out, _ = debug(recording_of("hello"), "--plain", "--symbols", str(elf), "-e", "print &grant")

    assert "<grant>" in out
    assert debug(recording_of("hello"), "--plain", "--symbols", __file__, "-e", "where")[0] == 1


def test_a_person_is_prompted_and_may_be_wrong(attack: Recording) -> None:
    child = _spawned(attack)

    child.sendline("print nowhere")
    child.expect_exact("no register or symbol is called 'nowhere'")
    child.expect_exact(PROMPT)
    child.sendline("print 5")
    child.expect_exact("0x5  5")
    child.expect_exact(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0


@pytest.mark.debian
def test_ctrl_c_ends_a_search_and_not_the_debugger(recording_of: RecordingOf) -> None:
    child = _spawned(recording_of("debian"))

    child.sendline("search execute 0x10")
    # It has to have begun: at a prompt Ctrl-C discards the line.
    child.expect(pexpect.TIMEOUT, timeout=1)
    child.sendintr()
    child.expect_exact("interrupted")
    child.expect_exact(PROMPT)
    child.sendintr()
    child.expect_exact(PROMPT)
    child.sendline("quit")
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0


def _spawned(recording: Recording) -> pexpect.spawn:
    command = [*COMMAND, "debug", str(recording.path), "--plain"]
    env = {**environment(), "TERM": "dumb"}
    child = pexpect.spawn(shlex.join(command), env=env, encoding="utf-8", timeout=TIMEOUT_S, echo=False)
    child.expect_exact(PROMPT)
    return child
