"""Makes golden recordings, each once, and notes down what they are."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.measure import environment, revirt_command

from goldens.table import BUILT, WRITTEN, Golden, Kill, Run, Step, Tear
from goldens.witness import facts_of
from revirt.errors import HostError, RecordingExistsError
from revirt.recording import Recording, unpack

INDEX = "index.json"
README = "README.md"
PACK_SUFFIX = ".revirt"

_HERE = Path(__file__).parent
_GUESTS = _HERE.parents[1] / "guests"
_COMMON = _GUESTS / "common"
_SOURCES = (_GUESTS / "vuln" / "multiboot.S", _COMMON / "protected.S", _COMMON / "receiver.S")
_FLAGS = (
    *("-m32", "-std=c11", "-Os", "-Wall", "-Wextra", "-march=i386", "-mgeneral-regs-only", "-ffreestanding"),
    *("-fno-pic", "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
    *("-fno-tree-loop-distribute-patterns", "-static", "-nostdlib", "-no-pie", "-Wa,--noexecstack"),
    *("-Wl,--build-id=none", f"-I{_COMMON}", f"-Wl,-T,{_COMMON / 'protected.ld'}"),
)
_TIMEOUT_S = 120.0
_PREAMBLE = """\
# Golden recordings of format 1

Every revirt from the one that made them on has to replay these exactly. They are made once, by `python
tools/golden.py make` from what `tools/goldens/table.py` lists, and never again: a change that they do not survive is a
change of version ([docs/log-format.md](../../docs/log-format.md#versions)).

`index.json` has, for every recording: how it was made, SHA-256 of its files, and what a replay of it comes to at its
end and at some positions: SHA-256 of memory, of the registers (names and values as JSON with sorted names), of the
devices' fields (likewise), and of what the guest printed. `python tools/golden.py check` compares all of that, and so
do the tests.

What ends in `.revirt` is a pack: `revirt unpack` makes a recording of it. The others are directories as a recorder left
them; copy one before you try out what changes it.

| recording | |
| --- | --- |
"""


def make(directory: Path, golden: Golden) -> None:
    """Make *golden* in *directory*, and add it to the index there.

    Raises RecordingExistsError if it is there, or its name is taken, and HostError if a step does not end as it should.
    """
    index = read_index(directory)
    targets = [directory / file_name(golden), *(directory / name for name in golden.beside.values())]
    for target in targets:
        if os.path.lexists(target):
            raise _exists(target)
    if golden.name in index:
        raise _exists(directory / INDEX)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        _prepare(scratch)
        for step in golden.steps:
            _take(step, scratch)
        if golden.form == "pack":
            options = " --with-disks" if golden.has_disks else ""
            _take(Run(f"pack {golden.name} -o {file_name(golden)}{options}"), scratch)
        directory.mkdir(parents=True, exist_ok=True)
        _place(scratch / file_name(golden), targets[0])
        for found, kept in golden.beside.items():
            _place(scratch / found, directory / kept)
    index[golden.name] = describe(directory, golden)
    (directory / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    rows = (f"| `{entry['file']}` | {entry['what']} |\n" for entry in index.values())
    (directory / README).write_text(_PREAMBLE + "".join(rows))


def file_name(golden: Golden) -> str:
    """Return what *golden* is called where it is kept."""
    return golden.name + (PACK_SUFFIX if golden.form == "pack" else "")


def describe(directory: Path, golden: Golden) -> dict[str, Any]:
    """Return the entry that *golden*, which is in *directory*, has in the index."""
    files = [*files_of(directory / file_name(golden)), *(directory / name for name in golden.beside.values())]
    with opened(directory / file_name(golden)) as recording:
        return {
            "what": golden.what,
            "made": [str(step) for step in golden.steps],
            "file": file_name(golden),
            "files": {
                path.relative_to(directory).as_posix(): sha256(path.read_bytes()).hexdigest()
                for path in files
            },
            **facts_of(recording),
        }


def read_index(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of the index in *directory* by name, none if there is no index."""
    try:
        entries: dict[str, dict[str, Any]] = json.loads((directory / INDEX).read_bytes())
    except FileNotFoundError:
        return {}
    return entries


def files_of(path: Path) -> list[Path]:
    """Return the files that *path*, a file or a directory, consists of, by name."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


@contextmanager
def opened(path: Path) -> Iterator[Recording]:
    """Give the recording *path*, which may be a pack."""
    if path.is_dir():
        yield Recording.open(path)
        return
    with tempfile.TemporaryDirectory() as name:
        unpack(path, Path(name) / path.stem)
        yield Recording.open(Path(name) / path.stem)


def _exists(path: Path) -> RecordingExistsError:
    return RecordingExistsError(path, hint="golden recordings are never made again")


def _prepare(scratch: Path) -> None:
    """Put the guests and scripts into *scratch*."""
    for name, (source, options) in BUILT.items():
        _run(["gcc", *_FLAGS, *options, "-o", name, _HERE / source, *_SOURCES], scratch)
    for name, data in WRITTEN.items():
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_bytes(data)


def _take(step: Step, scratch: Path) -> None:
    match step:
        case Run(words, status):
            _run(revirt_command(*shlex.split(words)), scratch, status=status)
        case Kill(words, after_s):
            _kill(revirt_command(*shlex.split(words)), scratch, after_s)
        case Tear(recording):
            _tear(scratch / recording)


def _run(command: list[str | Path], scratch: Path, *, status: int = 0) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=scratch,
            env=_surroundings(scratch),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot run {_line(command)}: {error}") from error
    if done.returncode != status:
        said = done.stderr.decode(errors="replace")[-1000:]
        raise HostError(f"{_line(command)} ended with {done.returncode}: {said}")


def _kill(command: list[str | Path], scratch: Path, after_s: float) -> None:
    with subprocess.Popen(
        command,
        cwd=scratch,
        env=_surroundings(scratch),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            _, errors = process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return
    raise HostError(f"the recorder ended before it was killed: {errors.decode(errors='replace')[-1000:]}")


def _line(command: list[str | Path]) -> str:
    return shlex.join(str(word) for word in command)


def _surroundings(scratch: Path) -> dict[str, str]:
    return {**environment(), "REVIRT_DIR": str(scratch / "recordings")}


def _tear(recording: Path) -> None:
    last = sorted((recording / "log").glob("*.seg"))[-1]
    os.truncate(last, last.stat().st_size // 2)
    checkpoint = sorted((recording / "checkpoints").glob("*.ckpt"))[-1]
    half = checkpoint.read_bytes()[: checkpoint.stat().st_size // 2]
    checkpoint.with_name(f"{int(checkpoint.stem) + 1:08}.ckpt.tmp").write_bytes(half)


def _place(source: Path, target: Path) -> None:
    place: Callable[[Path, Path], Any] = shutil.copytree if source.is_dir() else shutil.copyfile
    place(source, target)
