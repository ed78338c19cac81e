"""The guests whose recorders are tortured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.measure import run

from revirt.errors import UnknownGuestError
from revirt.image import find
from revirt.image.debian import PROMPT, READY

CHURN = "churn"
_SOURCE = Path(__file__).with_name("churn.S")
DISK = "disk"
_DISK_SOURCE = Path(__file__).with_name("disk.S")
_DISK_SECTORS = 4096
_COMMON = Path(__file__).parents[2] / "guests" / "common"
_FLAGS = ("-m32", "-static", "-nostdlib", "-no-pie", "-fno-pic", "-Wa,--noexecstack", "-Wl,--build-id=none")

SILENCE = "silence"
_FAR = 10_000_000_000
"""A spacing that leaves it at the first checkpoint: each cuts a segment off, so that with many little is lost."""
_SHORT_S = 20.0
_ENDLESS_S = 2.5

_LINES = 20_000
_COUNTING = "i=0; while :; do i=$((i+1)); echo line $i; usleep 20000 2>/dev/null || sleep 0.02; done"


@dataclass(frozen=True, slots=True)
class Subject:
    """A guest to record: the *words* that say which, and what may be asked of its recorder.

    ``life_s`` is about how long the recorder records, or is let record, on a host that has nothing else to do.
    ``spacings`` are distances of checkpoints in branches, None for the recorder's own.
    """

    name: str
    words: tuple[str, ...]
    life_s: float
    spacings: tuple[int | None, ...]

    @property
    def ring_spacings(self) -> tuple[int, ...]:
        """Those distances at which there are checkpoints enough for a ring to turn."""
        return tuple(each for each in self.spacings if each is not None and each < _FAR)


def default_names() -> list[str]:
    """Return the guests that are tortured unless others are asked for: Debian only if it is built."""
    names = [CHURN, DISK, "race", "timer", "idle", "echo"]
    return [*names, "debian"] if find("debian").is_built else names


def make_subject(name: str, directory: Path) -> Subject:
    """Return the guest *name*, ready to be recorded; its files are made in *directory*.

    Raises GuestError if there is no such guest, HostError if the host cannot build it.
    """
    if name in _MAKERS:
        return _MAKERS[name](directory)
    try:
        guest = find(name)
    except UnknownGuestError as error:
        raise UnknownGuestError(name, [CHURN] if not error.nearest else error.nearest) from error
    return Subject(guest.name, (guest.name, "--batch"), 0.6, (100_000, 5_000_000, None))


def make_target(name: str, directory: Path) -> Subject:
    """Return the guest *name* with everything said about how it is recorded, for faults; raises as `make_subject`.

    `SILENCE` is one that says a word and waits for an answer for ever: nothing that its recorder does reminds it of
    the disk.
    """
    if name == SILENCE:
        script = directory / "silence.script"
        script.write_text('expect "or quit"\ntimeout 3600\nexpect "what nobody says"\n')
        return Subject(SILENCE, ("echo", "--script", str(script), "--clock", "host"), _ENDLESS_S, ())
    if name in (CHURN, DISK):
        endless = make_subject(name, directory)
        return Subject(name, (*endless.words, "--clock", "host"), _ENDLESS_S, ())
    guest = make_subject(name, directory).name
    words = (guest, "--batch", "--clock", "virtual", "--checkpoint-every", "1000")
    return Subject(guest, words, _SHORT_S, ())


def _churn(directory: Path) -> Subject:
    image = directory / "churn.elf"
    script = f"-Wl,-T,{_COMMON / 'protected.ld'}"
    run(["gcc", *_FLAGS, f"-I{_COMMON}", script, "-o", image, _SOURCE, _COMMON / "protected.S"])
    words = ("--kernel", str(image), "--memory", "8M", "--batch")
    return Subject(CHURN, words, 4.0, (500_000, 20_000_000, None, _FAR))


def _disk(directory: Path) -> Subject:
    """One that writes to its disk without end, and to no sector twice in a row."""
    settings = f".equ SECTORS, {_DISK_SECTORS}\n.equ ROUNDS, 0\n"
    head = ".intel_syntax noprefix\n.code16\n.globl _start\n_start:\n"
    source, code, image = (directory / f"disk.{suffix}" for suffix in ("s", "o", "img"))
    source.write_text(head + settings + _DISK_SOURCE.read_text())
    linked, sector = directory / "disk.elf", directory / "disk.bin"
    run(["as", "--32", "-o", code, source])
    run(["ld", "-m", "elf_i386", "-Ttext=0x7c00", "-o", linked, code])
    run(["objcopy", "-O", "binary", "-j", ".text", linked, sector])
    sector.write_bytes(sector.read_bytes().ljust(510, b"\0") + b"\x55\xaa")
    image.write_bytes(Random(1).randbytes(512 * _DISK_SECTORS))
    words = ("--kernel", str(sector), "--memory", "1M", "--disk", str(image), "--batch")
    return Subject(DISK, words, 3.0, (20_000, 1_000_000, None, _FAR))


def _echo(directory: Path) -> Subject:
    lines = (f'send "line {n}\\n"\nexpect "{n}: LINE {n}\\r\\n"\n' for n in range(1, _LINES + 1))
    script = directory / "echo.script"
    script.write_text('expect "or quit"\n' + "".join(lines))
    return Subject("echo", ("echo", "--script", str(script)), 3.0, (2_000, 100_000, None, _FAR))


def _debian(directory: Path) -> Subject:
    script = directory / "debian.script"
    script.write_text(f'timeout 300\nexpect "{READY}"\nexpect "{PROMPT}"\nsend "{_COUNTING}\\n"\n')
    return Subject("debian", ("debian", "--script", str(script)), 10.0, (4_000_000, 24_000_000, None, _FAR))


_MAKERS: dict[str, Callable[[Path], Subject]] = {CHURN: _churn, DISK: _disk, "echo": _echo, "debian": _debian}
