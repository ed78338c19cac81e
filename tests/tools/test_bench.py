"""The benchmark: its arithmetic, its way of running processes, and one tiny guest measured in earnest."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import bench
import pytest
from benchmarks import compute, memory, outside, worker
from benchmarks.measure import (
    Sample,
    Settings,
    Step,
    alternate,
    cpus,
    figure,
    ratio,
    revirt_command,
    run,
    work,
)
from benchmarks.qemu import by_character
from benchmarks.workloads import WORKLOADS

from revirt.errors import HostError
from revirt.monitor.script import Expect, Script, Send
from revirt.recording import Recording


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(rounds=3, clock="virtual", directory=tmp_path, note=lambda _: None)


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# -- figures ---------------------------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_a_round() -> None:
    # The host was ten times slower in the last round, for both.
    found = ratio("a / b", "work", "CPU time", [1.1, 1.2, 12.0], [1.0, 1.0, 10.0])

    assert (found.value, found.least, found.greatest) == pytest.approx((1.2, 1.1, 1.2))
    assert (found.first, found.second) == (1.2, 1.0)


@pytest.mark.parametrize(("bar", "is_met"), [(1.2, True), (1.19, False), (None, None)])
def test_a_figure_says_whether_its_bar_is_met(bar: float | None, is_met: bool | None) -> None:
    found = figure("size", "work", "log", "bytes", [1.3, 1.2, 1.1], bar)

    assert found.is_met is is_met


def test_every_other_round_runs_backwards(settings: Settings) -> None:
    order = []

    def variant(name: str) -> dict[str, Sample]:
        order.append(name)
        return {name: Sample(wall=1.0, cpu=len(order))}

    samples = alternate([lambda: variant("a"), lambda: variant("b")], settings, "work")

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert cpus(samples["a"]) == [1, 4, 5]


# -- processes -------------------------------------------------------------------------------------------------


def test_cpu_time_is_that_of_the_one_process() -> None:
    busy = run(_python("import time\nwhile time.process_time() < 0.3: pass"))
    idle = run(_python("import time\ntime.sleep(0.3)"))

    assert busy.cpu >= 0.3
    assert idle.wall >= 0.3
    assert idle.cpu < busy.cpu


def test_a_conversation_waits_for_what_it_answers() -> None:
    code = "print('name?', flush=True); print('hello', input())"

    sample = run(_python(code), [Step(b"name?", b"guest\n"), Step(b"hello guest")])

    assert sample.output == b"name?\nhello guest\n"
    assert 0 < sample.seen[0] <= sample.seen[1] <= sample.wall


def test_a_text_is_not_found_before_the_one_it_follows() -> None:
    sample = run(_python("print('b a b')"), [Step(b"a"), Step(b"b")])

    assert len(sample.seen) == 2


@pytest.mark.parametrize(
    ("code", "conversation", "said"),
    [
        ("import sys; print('no disk', file=sys.stderr); sys.exit(3)", [], "status 3, having said: no disk"),
        ("print('bye')", [Step(b"ready")], "status 0, having said: bye"),
        ("import time; time.sleep(600)", [], "status -9, having said: nothing"),
    ],
    ids=["fails", "ends early", "hangs"],
)
def test_a_run_that_goes_wrong_says_how(code: str, conversation: list[Step], said: str) -> None:
    with pytest.raises(HostError, match=said):
        run(_python(code), conversation, timeout_s=5)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(HostError, match="cannot run no-such-program"):
        run(["no-such-program"])


# -- workloads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_a_script_that_revirt_reads(name: str, tmp_path: Path) -> None:
    workload = WORKLOADS[name]

    script = Script.load(workload.write_script(tmp_path / "script"))

    texts = [(type(c), c.text) for c in script.commands if isinstance(c, Expect | Send)]
    said = [
        pair for step in workload.steps() for pair in ((Expect, step.expect), (Send, step.send)) if pair[1]
    ]
    assert texts == said


@pytest.mark.parametrize("name", [name for name in WORKLOADS if WORKLOADS[name].proof])
def test_the_echo_of_a_command_is_no_proof_that_it_ran(name: str) -> None:
    workload = WORKLOADS[name]

    assert workload.proof not in workload.command


def test_what_is_typed_into_qemu_waits_for_its_echo() -> None:
    steps = [Step(b"ready"), Step(b"# ", b"ls\n")]

    typed = by_character(steps)

    assert typed == [Step(b"ready"), Step(b"# ", b"l"), Step(b"l", b"s"), Step(b"s", b"\n")]


# -- networks and disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", outside.carried(1.0), ids=lambda what: what.name)
def test_a_transfer_is_timed_by_lines_that_are_printed_and_not_typed(what: outside.Carried) -> None:
    steps = outside.conversation(what.command.format(port=4711), 1500)

    typed = b"".join(step.send for step in steps)
    begun, done = steps[2].expect, steps[3].expect
    assert begun not in typed
    assert done not in typed
    assert typed.replace(b"''", b"").index(begun) < typed.replace(b"''", b"").index(done)
    assert outside.took(Sample(9.0, 1.0, seen=(1.0, 2.0, 2.5, 6.0, 7.0))) == 3.5


def test_networks_and_disks_that_are_measured_have_their_bars_for_the_log() -> None:
    assert {what.name for what in outside.carried(1.0)} > set(outside.LOG_BARS)
    assert [what.to_guest + what.from_guest for what in outside.carried(2.5)] == [2_500_000, 2_500_000, 0, 0]


# -- a guest that computes -------------------------------------------------------------------------------------


def test_the_machine_and_bare_unicorn_compute_the_same(settings: Settings) -> None:
    mixed, tight = compute.compute_guests(passes=1, iterations=1_000_000)
    settings = Settings(1, "virtual", settings.directory, settings.note)

    found = [each for guest in (mixed, tight) for each in compute.compare_compute(guest, settings)]

    assert [(each.quantity, each.bar) for each in found] == [
        ("CPU time", 1.25),
        ("wall time", None),
        ("CPU time", None),
        ("wall time", None),
    ]
    assert all(each.value > 0 for each in found)


def test_a_guest_that_computes_something_else_is_no_measurement(settings: Settings) -> None:
    wrong = compute.ComputeGuest("wrong", ("-DPASSES=1", "-DEXPECTED=0"), None)

    with pytest.raises(HostError, match="something else: exit code 1"):
        list(compute.compare_compute(wrong, settings))


def test_instructions_are_those_that_the_guest_executed(tmp_path: Path) -> None:
    _, tight = compute.compute_guests(iterations=100_000)
    image = compute.build(tight, tmp_path / "tight.elf")
    recorded = tmp_path / "recording"
    run(revirt_command("record", "--kernel", image, "--batch", "--json", "-o", recorded))

    count = work("instructions", recorded)["instructions"]

    # Five a turn, and a few dozen to get there and away.
    assert 500_000 < count < 500_100


# -- the command line ------------------------------------------------------------------------------------------


def test_help_is_measured_and_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    status = bench.main(["help", "--rounds", "1", "--json"])

    (found,) = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (found["subject"], found["unit"], found["rounds"], found["bar"]) == ("revirt --help", "s", 1, 0.25)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["speed"], "no comparison is called speed; there are recording,"),
        (["--rounds", "0"], "'0' is not a number of rounds"),
        (["-w", "cpu"], "invalid choice: 'cpu'"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        bench.main(arguments)

    assert raised.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_guest_that_is_not_built_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REVIRT_CACHE", str(tmp_path))

    status = bench.main(["recording", "--rounds", "1"])

    assert status == 1
    assert "revirt guest build debian" in capsys.readouterr().err


def test_without_qemu_the_boot_is_left_out_and_qemu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.qemu, "is_installed", lambda: False)
    monkeypatch.setattr(bench, "_check_guest", lambda _: None)

    statuses = [bench.main(["boot"]), bench.main(["boot", "--qemu"])]

    assert statuses == [0, 1]
    said = capsys.readouterr().err
    assert "boot is left out" in said
    assert "QEMU is not installed" in said


# -- memory ----------------------------------------------------------------------------------------------------

SMAPS = """\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                 100 kB
7f0000000000-7f0040000000 rwxp 00000000 00:00 0
Rss:                2048 kB
7f1000000000-7f1000100000 rw-p 00000000 00:00 0
Rss:                 512 kB
7f1000200000-7f1000300000 rw-p 00000000 00:00 0
Rss:                  64 kB
7f2000000000-7f2000100000 r-xp 00000000 08:01 77                         /usr/lib/libfoo bar.so (deleted)
Rss:                 300 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Rss:                   0 kB
"""


def test_memory_is_told_apart_by_its_mappings() -> None:
    found = memory.parts_of(SMAPS, ram=1 << 20)

    assert {part: size >> 10 for part, size in found.items()} == {
        "the guest's RAM": 512,
        "translated code": 2048,
        "libraries": 300,
        "heap": 164,
    }
    assert memory.beyond_ram(found) == (2048 + 300 + 164) << 10


def test_what_no_sample_saw_is_added_to_the_most_that_one_saw() -> None:
    phase = memory.Phase()

    phase.take(Counter({"heap": 50, "the guest's RAM": 10}), high_water=60)
    phase.take(Counter({"heap": 40, "the guest's RAM": 30}), high_water=75)

    assert phase.peak["heap"] == 50
    assert phase.most == 50 + 75 - 70


def test_a_recorder_is_watched_while_it_loads_and_while_it_records(settings: Settings) -> None:
    library = memory.build_library(settings.directory)
    # A slow disk: the guest itself is done within milliseconds.
    subject = memory.Subject("timer", ("timer", "--batch"), 4 << 20, pause_us=50_000)

    loading, recording = memory._watch(subject, settings, library)

    for phase in (loading, recording):
        assert phase.most > 10 << 20
        assert 0 < phase.peak["the guest's RAM"] <= 4 << 20


def test_a_recording_that_fails_is_no_measurement(settings: Settings) -> None:
    library = memory.build_library(settings.directory)
    subject = memory.Subject("nobody", ("no-such-guest",), 1 << 20)

    with pytest.raises(HostError, match="recording nobody came to nothing"):
        memory._watch(subject, settings, library)


def test_proofs_of_a_small_log_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PROVEN_EVENTS", 2_000)
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path))

    found = worker.proofs(tmp_path / "recording")

    assert found["events"] == Recording.open(tmp_path / "recording").event_end == 2_000
    assert 1_000 < found["size"] < 4_096
    assert not list(Recording.open(tmp_path / "recording").verify())
