"""The same guest and the same work in QEMU's emulator: plain, recorded (``rr=record``) and replayed.

QEMU gets the bzImage and initial RAM disk that revirt gets, one CPU, and no network card: revirt has none, and the
card's boot ROM would take time.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import (
    Figure,
    Sample,
    Settings,
    Step,
    alternate,
    cpus,
    ratio,
    revirt_command,
    run,
    walls,
)
from benchmarks.recording import GUEST
from benchmarks.workloads import Workload
from revirt.image.guest import find

BOOT_AGAINST_RECORDING = 0.6
BOOT_AGAINST_PLAIN = 1.0
REPLAY_BAR = 0.35

_QEMU = "qemu-system-x86_64"


def is_installed() -> bool:
    """Return whether there is a QEMU to compare with."""
    return shutil.which(_QEMU) is not None


def compare_qemu(workload: Workload, settings: Settings) -> Iterator[Figure]:
    """Yield revirt / QEMU for *workload*: to the shell, the whole run, and its replay.  The clock is the host's."""
    variants = [
        lambda: _ours(workload, settings),
        lambda: _plain(workload),
        lambda: _recorded(workload, settings),
    ]
    samples = alternate(variants, settings, f"{workload.name} against QEMU")
    ours, our_replay = samples["recorded"], samples["replay"]
    plain, recorded, replayed = samples["plain"], samples["qemu recorded"], samples["qemu replay"]
    name = workload.name
    if not workload.command:
        shells = [[sample.seen[0] for sample in each] for each in (ours, recorded, plain)]
        to_shell = "recorded, to the shell"
        yield ratio("revirt / QEMU recorded", name, to_shell, shells[0], shells[1], BOOT_AGAINST_RECORDING)
        yield ratio("revirt / QEMU plain", name, to_shell, shells[0], shells[2], BOOT_AGAINST_PLAIN)
    bar = None if workload.command else REPLAY_BAR
    yield ratio("revirt / QEMU recorded", name, "recorded, whole run", walls(ours), walls(recorded))
    yield ratio("revirt / QEMU plain", name, "recorded, whole run", walls(ours), walls(plain))
    yield ratio("revirt / QEMU replay", name, "replay, whole run", walls(our_replay), walls(replayed), bar)
    yield ratio("revirt / QEMU recorded", name, "CPU time", cpus(ours), cpus(recorded))
    yield ratio("revirt / QEMU plain", name, "CPU time", cpus(ours), cpus(plain))
    yield ratio("revirt / QEMU replay", name, "CPU time", cpus(our_replay), cpus(replayed))
    yield ratio("QEMU recorded / plain", name, "CPU time", cpus(recorded), cpus(plain))
    yield ratio("QEMU replay / recorded", name, "wall time", walls(replayed), walls(recorded))


def by_character(steps: Sequence[Step]) -> list[Step]:
    """Return *steps* with what they send typed character by character, each when the one before is echoed.

    A recording QEMU 7.2 takes nothing more once the 16 bytes of the serial port's FIFO were full.
    """
    typed = []
    for step in steps:
        pieces = [step.send[start : start + 1] for start in range(len(step.send))]
        typed.append(Step(step.expect, pieces[0] if pieces else b""))
        typed += [Step(before, piece) for before, piece in itertools.pairwise(pieces)]
    return typed


def _ours(workload: Workload, settings: Settings) -> Mapping[str, Sample]:
    script = workload.write_script(settings.scratch("script"))
    path = settings.scratch("recording")
    command = revirt_command("record", GUEST, "--clock", "host", "--script", script, "-o", path)
    # The script types; here is only watched for the shell.
    recorded = run(command, [Step(workload.steps()[0].expect)])
    return {"recorded": recorded, "replay": run(revirt_command("replay", path, "--json"))}


def _plain(workload: Workload) -> Mapping[str, Sample]:
    return {"plain": run(_qemu_command(), by_character(workload.steps()))}


def _recorded(workload: Workload, settings: Settings) -> Mapping[str, Sample]:
    log = settings.scratch("replay.bin")
    recorded = run(_qemu_command("record", log), by_character(workload.steps()))
    return {"qemu recorded": recorded, "qemu replay": run(_qemu_command("replay", log))}


def _qemu_command(mode: str | None = None, log: Path | None = None) -> list[str | Path]:
    guest = find(GUEST)
    image = guest.image_spec()
    assert image.initrd is not None
    command: list[str | Path] = [_QEMU, "-accel", "tcg,thread=single", "-no-reboot", "-nic", "none"]
    # Not -nographic: QEMU 7.2 does not replay what is typed on a console that is shared with its monitor.
    command += ["-display", "none", "-monitor", "none", "-serial", "stdio"]
    command += ["-m", str(guest.memory >> 20), "-append", guest.append]
    command += ["-kernel", image.file, "-initrd", image.initrd]
    if mode is not None:
        command += ["-icount", f"shift=auto,rr={mode},rrfile={log}"]
    return command
