"""How much memory a recorder takes beyond its guest's RAM.

``revirt record`` runs as a process of its own, and its mappings are read from ``/proc/PID/smaps`` again and again:

    the guest's RAM     the anonymous mapping of its size
    translated code     the mappings that can be written and executed: Unicorn's buffer
    libraries           what is mapped from files: the interpreter, Unicorn, what they import
    heap                everything else

Only what is resident counts.  A sample may miss a peak between two others, so the kernel's own high-water mark is
read, too, and what it has more than all samples is added.  A run has two phases: loading, until the first checkpoint
is on the disk, when the guest's image is there a second time and its RAM is not used yet; and recording.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torturing.faults import build_library
from torturing.subjects import CHURN, make_subject

from benchmarks.measure import TIMEOUT_S, Figure, Settings, environment, figure, revirt_command
from benchmarks.recording import GUEST
from benchmarks.workloads import WORKLOADS
from revirt.errors import HostError
from revirt.image import find
from revirt.log.writer import QUEUE_SIZE

MIB = 1 << 20
BAR_MIB = (64 * MIB + QUEUE_SIZE) / MIB
"""What a recorder may take: 64 MiB, and the ring in memory in which events and pages wait for the disk."""

_PERIOD_S = 0.01
_CHURN_S = 5.0
_SLOW_US = 20_000
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)$", re.MULTILINE)
_RESIDENT = re.compile(r"^Rss: +(\d+) kB$", re.MULTILINE)
_HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_RAM, _CODE, _LIBRARIES, _HEAP = "the guest's RAM", "translated code", "libraries", "heap"
PARTS = (_CODE, _LIBRARIES, _HEAP)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is recorded: the *words* for ``revirt record``, and how much RAM the guest has, in bytes.

    ``life_s`` ends a guest that does not end by itself; ``pause_us`` is how long each change on the disk takes.
    """

    name: str
    words: tuple[str | Path, ...]
    ram: int
    life_s: float = TIMEOUT_S
    pause_us: int = 0


@dataclass(slots=True)
class Phase:
    """The sample of a phase that had the most beyond the guest's RAM, by part; what all samples missed; in bytes."""

    peak: Counter[str] = field(default_factory=Counter)
    resident: int = 0
    high_water: int = 0

    def take(self, sample: Counter[str], high_water: int) -> None:
        """Take in *sample*, which has all parts, and the process's most until then."""
        self.peak = max(self.peak, sample, key=beyond_ram)
        self.resident = max(self.resident, sample.total())
        self.high_water = max(self.high_water, high_water)

    @property
    def most(self) -> int:
        """The most beyond the guest's RAM."""
        return beyond_ram(self.peak) + max(0, self.high_water - self.resident)


def beyond_ram(sample: Counter[str]) -> int:
    """Return how many bytes of *sample* are not the guest's RAM."""
    return sum(sample[part] for part in PARTS)


def parts_of(smaps: str, ram: int) -> Counter[str]:
    """Return how many bytes of each part are resident, of a process with these *smaps* and so much guest *ram*."""
    found: Counter[str] = Counter()
    rams = [0]
    pieces = _MAPPING.split(smaps)[1:]
    for start, end, rights, path, rest in zip(*(iter(pieces),) * 5, strict=True):
        match = _RESIDENT.search(rest)
        resident = int(match[1]) << 10 if match else 0
        if "w" in rights and "x" in rights:
            found[_CODE] += resident
        elif path.startswith("/"):
            found[_LIBRARIES] += resident
        elif not path and int(end, 16) - int(start, 16) == ram:
            rams.append(resident)
        else:
            found[_HEAP] += resident
    # The stack of a thread may be of the same size.
    found[_RAM] = max(rams)
    found[_HEAP] += sum(rams) - max(rams)
    return found


def subjects(directory: Path) -> Iterator[Subject]:
    """Yield what is measured; files that are needed for it are made in *directory*."""
    churn = make_subject(CHURN, directory).words
    yield Subject("timer", ("timer", "--batch"), find("timer").memory)
    yield Subject(CHURN, churn, 8 * MIB, _CHURN_S)
    ring = (*churn, "--log-size", "8M", "--checkpoint-every", "2000000")
    yield Subject(f"{CHURN}, ring of 8 MiB", ring, 8 * MIB, _CHURN_S)
    for name in ("boot", "forks", "console"):
        yield _debian(name, directory)
    yield _debian(
        "console", directory, "ring of 64 MiB", ("--log-size", "64M", "--checkpoint-every", "16000000")
    )
    yield _debian("console", directory, "slow disk", pause_us=_SLOW_US)


def _debian(
    name: str, directory: Path, manner: str = "", words: tuple[str, ...] = (), *, pause_us: int = 0
) -> Subject:
    script = WORKLOADS[name].write_script(directory / f"{name}.script")
    whole: tuple[str | Path, ...] = (GUEST, "--script", script, *words)
    return Subject(", ".join(filter(None, (name, manner))), whole, find(GUEST).memory, pause_us=pause_us)


def measure_memory(settings: Settings) -> Iterator[Figure]:
    """Yield what recorders take beyond their guests' RAM, while they load and while they record, and in what parts."""
    directory = settings.scratch("memory")
    directory.mkdir()
    library = build_library(directory)
    for subject in subjects(directory):
        runs = []
        for number in range(settings.rounds):
            settings.note(f"memory of {subject.name}: round {number + 1} of {settings.rounds}")
            runs.append(_watch(subject, settings, library))
        recording = [run[1] for run in runs]
        yield _figure(subject, "while loading", [run[0].most for run in runs])
        yield _figure(subject, "while recording", [phase.most for phase in recording], BAR_MIB)
        for part in PARTS:
            yield _figure(subject, f"of that, {part}", [phase.peak[part] for phase in recording])


def _figure(subject: Subject, quantity: str, sizes: Sequence[int], bar: float | None = None) -> Figure:
    return figure("memory", subject.name, quantity, "MiB", [size / MIB for size in sizes], bar)


def _watch(subject: Subject, settings: Settings, library: Path) -> tuple[Phase, Phase]:
    """Record *subject*; return what was seen while it loaded and while it recorded.  Raises HostError if it fails."""
    path = settings.scratch("recording")
    command = revirt_command("record", *subject.words, "--clock", settings.clock, "--json", "-o", path)
    extra = {}
    if subject.pause_us:
        extra = {
            "LD_PRELOAD": str(library),
            "TORTURE_BELOW": str(path.parent),
            "TORTURE_PAUSE_US": str(subject.pause_us),
        }
    process = subprocess.Popen(
        [os.fspath(word) for word in command],
        env={**environment(), **extra},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        phases = _sample(process, path / "log", subject)
    finally:
        process.kill()
        process.wait()
    if phases[1].resident == 0:
        raise HostError(f"recording {subject.name} came to nothing", hint=" ".join(map(str, command)))
    return phases


def _sample(process: subprocess.Popen[bytes], log: Path, subject: Subject) -> tuple[Phase, Phase]:
    loading, recording = Phase(), Phase()
    home = Path("/proc") / str(process.pid)
    end = time.monotonic() + subject.life_s
    is_loading = True
    while process.poll() is None and time.monotonic() < end:
        if is_loading and log.is_dir() and any(each.suffix == ".seg" for each in log.iterdir()):
            is_loading = False
            # From here on the high-water mark begins anew.
            (home / "clear_refs").write_text("5")
        try:
            smaps, status = (home / "smaps").read_text(), (home / "status").read_text()
        except OSError:
            break  # it has just ended
        high_water = _HIGH_WATER.search(status)
        if smaps and high_water:
            phase = loading if is_loading else recording
            phase.take(parts_of(smaps, subject.ram), int(high_water[1]) << 10)
        time.sleep(_PERIOD_S)
    return loading, recording
