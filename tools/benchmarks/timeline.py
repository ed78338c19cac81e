"""What it costs to look into a recording: making its index, going to a position, and stepping back from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

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
from benchmarks.recording import record
from benchmarks.workloads import WORKLOADS
from revirt.recording import Recording
from revirt.render import printable

COLD_BAR_MS = 500.0
STEP_BAR_MS = 15.0
SLOW_STEP_BAR_MS = 150.0
WRITER_BAR_S = 1.0
SLOW_WRITER_BAR = 1.6
"""Times what one replay of everything takes."""


def recording_to_look_into(given: Path | None, settings: Settings) -> tuple[str, Path]:
    """Return the name and the path of a recording that may be given an index: a copy of *given*, or of a new boot."""
    path = settings.scratch("recording")
    if given is not None:
        shutil.copytree(Recording.open(given).path, path, ignore=shutil.ignore_patterns("index"))
        return printable(given.name), path
    settings.note("recording a boot to look into")
    script = WORKLOADS["boot"].write_script(settings.scratch("script"))
    record(path, "--clock", settings.clock, "--script", script)
    return f"boot, {settings.clock}", path


def measure_timeline(subject: str, path: Path, settings: Settings) -> Iterator[Figure]:
    """Yield what an index of the recording *path* costs, and how long it takes to get around with it."""
    yield from _measure_index(path, subject, settings)
    seeks, steps = [], []
    for number in range(settings.rounds):
        settings.note(f"timeline of {subject}: round {number + 1} of {settings.rounds}")
        seeks.append(work("cold_seeks", path))
        steps.append(work("reverse_steps", path))
    for quantity, key, bars in (("", "seconds", True), (" of CPU time", "cpu_seconds", False)):
        cold, back = ([_in_ms(each[key]) for each in outcomes] for outcomes in (seeks, steps))
        yield figure("cold seek", subject, f"median{quantity}", "ms", list(map(median, cold)))
        yield figure(
            "cold seek",
            subject,
            f"slowest{quantity}",
            "ms",
            list(map(max, cold)),
            COLD_BAR_MS if bars else None,
        )
        yield figure(
            "step back",
            subject,
            f"median{quantity}",
            "ms",
            list(map(median, back)),
            STEP_BAR_MS if bars else None,
        )
        slow = [quantiles(each, n=100)[98] for each in back]
        yield figure(
            "step back", subject, f"99th percentile{quantity}", "ms", slow, SLOW_STEP_BAR_MS if bars else None
        )


def measure_writers(subject: str, path: Path, settings: Settings) -> Iterator[Figure]:
    """Yield how long it takes to say who wrote a word last, for words from all over the recording *path*."""
    run(revirt_command("index", path, "--json"))
    outcomes = []
    for number in range(settings.rounds):
        settings.note(f"writers of {subject}: round {number + 1} of {settings.rounds}")
        outcomes.append(work("last_writes", path))
    for quantity, key, base, has_bars in (
        ("", "seconds", "replay", True),
        (" of CPU time", "cpu_seconds", "cpu_replay", False),
    ):
        middle = [median(each[key]) for each in outcomes]
        yield figure("writers", subject, f"median{quantity}", "s", middle, WRITER_BAR_S if has_bars else None)
        slowest = [max(each[key]) / each[base] for each in outcomes]
        yield figure(
            "writers",
            subject,
            f"slowest{quantity} / a replay",
            "",
            slowest,
            SLOW_WRITER_BAR if has_bars else None,
        )
    yield figure("writers", subject, "wrong answers", "", [float(each["wrong"]) for each in outcomes], 0.0)


def _measure_index(path: Path, subject: str, settings: Settings) -> Iterator[Figure]:
    """Yield what making the index of the recording at *path* takes; it is left there."""

    def indexed() -> Mapping[str, Sample]:
        return {"index": run(revirt_command("index", path, "--force", "--jobs", "1", "--json"))}

    def replayed() -> Mapping[str, Sample]:
        return {"replay": run(revirt_command("replay", path, "--json"))}

    samples = alternate([replayed, indexed], settings, f"index of {subject}")
    index, replay = samples["index"], samples["replay"]
    yield ratio("index / replay", subject, "CPU time", cpus(index), cpus(replay))
    yield ratio("index / replay", subject, "wall time", walls(index), walls(replay))
    size = json.loads(index[-1].output)["size"]
    used = json.loads(run(revirt_command("du", path, "--json")).output)[0]
    yield figure("index", subject, "size", "MB", [size / 1e6])
    yield figure("index", subject, "size / the recording's", "", [size / (used["total"] - size)])


def _in_ms(seconds: Sequence[float]) -> list[float]:
    return [1e3 * each for each in seconds]
