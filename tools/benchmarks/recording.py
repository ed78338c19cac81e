"""What recording costs, what a replay takes, and how much is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Figure,
    Sample,
    Settings,
    alternate,
    cpus,
    figure,
    ratio,
    revirt_command,
    run,
    walls,
    work,
)
from benchmarks.workloads import Workload

GUEST = "debian"
RECORD_BAR = 1.08
REPLAY_BAR = 1.0
LOG_BARS = {("boot", "host"): 25.0, ("boot", "virtual"): 10.0}
_LOG_CLOCKS = ("host", "virtual")
_MILLION = 1e6


def compare_recording(workload: Workload, settings: Settings) -> Iterator[Figure]:
    """Yield recorded / unrecorded and replay / record for *workload*."""
    script = workload.write_script(settings.scratch("script"))
    common: list[str | Path] = ["record", GUEST, "--clock", settings.clock, "--script", script, "--json"]

    def unrecorded() -> Mapping[str, Sample]:
        return {"unrecorded": run(revirt_command(*common, "--no-record"))}

    def recorded() -> Mapping[str, Sample]:
        path = settings.scratch("recording")
        sample = run(revirt_command(*common, "-o", path))
        return {"recorded": sample, "replay": run(revirt_command("replay", path, "--json"))}

    samples = alternate([unrecorded, recorded], settings, f"{workload.name}, {settings.clock} clock")
    once, again, without = samples["recorded"], samples["replay"], samples["unrecorded"]
    subject = f"{workload.name}, {settings.clock}"
    yield ratio("recorded / unrecorded", subject, "CPU time", cpus(once), cpus(without), RECORD_BAR)
    yield ratio("recorded / unrecorded", subject, "wall time", walls(once), walls(without))
    yield ratio("replay / record", subject, "wall time", walls(again), walls(once), REPLAY_BAR)
    yield ratio("replay / record", subject, "CPU time", cpus(again), cpus(once))


def measure_log(workload: Workload, settings: Settings) -> Iterator[Figure]:
    """Yield the bytes of log on disk for a million instructions of *workload*, with either clock.

    Recorded once: the instructions come from a replay that counts them, several times slower than the recording.
    """
    script = workload.write_script(settings.scratch("script"))
    for clock in _LOG_CLOCKS:
        settings.note(f"log of {workload.name}, {clock} clock")
        path = settings.scratch("recording")
        recorded = record(path, "--clock", clock, "--script", script)
        instructions = work("instructions", path)["instructions"]
        rate = recorded["log_bytes"] / (instructions / _MILLION)
        bar = LOG_BARS.get((workload.name, clock))
        subject = f"{workload.name}, {clock}"
        yield figure("log", subject, "size", "bytes/million instructions", [rate], bar)
        yield figure("log", subject, "instructions", "millions", [instructions / _MILLION])


def measure_help(settings: Settings) -> Iterator[Figure]:
    """Yield how long ``revirt --help`` takes."""
    samples = alternate([lambda: {"help": run(revirt_command("--help"))}], settings, "help")
    yield figure("command line", "revirt --help", "wall time", "s", walls(samples["help"]), 0.25)


def record(path: Path, *arguments: str | Path) -> dict[str, Any]:
    """Record the Debian guest into *path*; return what ``record --json`` says."""
    outcome: dict[str, Any] = json.loads(
        run(revirt_command("record", GUEST, "-o", path, "--json", *arguments)).output
    )
    return outcome
