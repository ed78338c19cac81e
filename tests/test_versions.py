"""Whatever a newer revirt wrote is refused by name: the file, the version it has, the newest known, what to do."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from library import RecordingOf, console_for

import revirt
from revirt.checkpoint.format import CHECKPOINT_FRAME, PAGES_FRAME
from revirt.cli import main
from revirt.image import Guest, find
from revirt.index.format import FRAME as INDEX_FRAME
from revirt.log import segment
from revirt.log.frame import PREFIX, Frame, check_of
from revirt.machine import machine as machine_module
from revirt.machine.clock import ClockState
from revirt.machine.cpuid import cpuid_leaves
from revirt.machine.model import MODEL
from revirt.machine.uart import UartState
from revirt.monitor.session import RecordOptions, record
from revirt.recording import FORMAT_VERSION, Manifest, pack, pack_format
from revirt.recording.manifest import NAME
from revirt.seal import leaves

FRAMES = {
    "log": segment.FRAME,
    "checkpoints": CHECKPOINT_FRAME,
    "pages": PAGES_FRAME,
    "seal": leaves.FRAME,
}
"""Every kind of binary file in a recording, by the directory that it is in."""

READING = ("info", "events", "console", "stats", "stats --checkpoints", "verify", "replay -q", "audit")


@dataclass(frozen=True, slots=True)
class Newer:
    """Something of a version that is not there yet: which file of a recording has it, and which commands need it.

    *make* gives it to the recording in a directory and returns the version; *known* is the newest that there is.
    """

    what: str
    file: str
    known: int
    make: Callable[[Path], int]
    needed_by: tuple[str, ...]
    is_text_of: str = "format"


def raise_frame(path: Path) -> int:
    """Raise the version in the header of the file *path*, and make the header's check right again."""
    data = bytearray(path.read_bytes())
    _, version, size, *_ = PREFIX.unpack_from(data)
    struct.pack_into("<H", data, 8, version + 1)
    data[12:28] = check_of(data[:12], data[28:size])
    path.write_bytes(data)
    return int(version + 1)


def raise_in(directory: str) -> Callable[[Path], int]:
    """Return a function that raises the version of the last file in *directory* of a recording."""
    return lambda path: raise_frame(max((path / directory).iterdir()))


def change_manifest(path: Path, **changes: Any) -> None:
    contents = Manifest.read(path / NAME)
    (path / NAME).write_text(replace(contents, **changes).to_json())


def raise_format(path: Path) -> int:
    change_manifest(path, format=FORMAT_VERSION + 1)
    return FORMAT_VERSION + 1


def raise_model(path: Path) -> int:
    machine = Manifest.read(path / NAME).machine
    # What else a newer model has nobody knows.
    change_manifest(path, machine={"model": machine["model"] + 1, "memory": {"banks": 2}})
    return int(machine["model"] + 1)


CASES = (
    Newer("manifest", NAME, FORMAT_VERSION, raise_format, (*READING, "events --icount", "pack")),
    Newer(
        "segment",
        "log/00000002.seg",
        segment.FRAME.version,
        raise_in("log"),
        (*READING, "events --icount", "pack"),
    ),
    Newer(
        "checkpoint",
        "checkpoints/00000002.ckpt",
        CHECKPOINT_FRAME.version,
        raise_in("checkpoints"),
        ("info", "stats --checkpoints", "verify", "replay -q", "replay -q --from 1", "audit", "pack"),
    ),
    Newer(
        "pages",
        "pages/00000002.pages",
        PAGES_FRAME.version,
        raise_in("pages"),
        ("info", "stats --checkpoints", "verify", "replay -q", "audit", "pack"),
    ),
    Newer(
        "model",
        NAME,
        MODEL,
        raise_model,
        (
            "stats",
            "stats --checkpoints",
            "verify",
            "replay -q",
            "audit",
            "events --icount",
            "pack",
            "pack --force",
        ),
        "machine model",
    ),
)


@pytest.fixture
def copy(recording_of: RecordingOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording with three segments and checkpoints, that may be changed; the place to pack it to is current."""
    monkeypatch.chdir(tmp_path)
    source = recording_of("vuln", "host", checkpoint_every=1000).path
    path = tmp_path / "copy"
    shutil.copytree(source, path)
    return path


def assert_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command and require that it ends with status 4 and *message*, and the advice that belongs to it."""
    capsys.readouterr()

    status = main(words)

    said = capsys.readouterr().err
    assert (status, said) == (4, f"revirt: {message}\n        install a newer revirt\n"), words


def words_for(command: str, path: Path) -> list[str]:
    name, *options = command.split()
    return [name, str(path), *options]


@pytest.mark.parametrize("newer", CASES, ids=lambda newer: newer.what)
def test_a_newer_part_of_a_recording_is_refused_by_every_command_that_needs_it(
    newer: Newer, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = newer.make(copy)

    message = (
        f"{copy / newer.file} has {newer.is_text_of} version {version}; this revirt reads up to {newer.known}"
    )
    for command in newer.needed_by:
        assert_refused(words_for(command, copy), message, capsys)


@pytest.mark.parametrize("command", ["info", "events", "console", "du"])
def test_a_newer_model_hides_nothing_that_can_be_read_without_a_machine(
    command: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_model(copy)

    assert main(words_for(command, copy)) == 0
    assert capsys.readouterr().err == ""


def test_an_interrupted_recording_with_a_newer_segment_is_not_repaired(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_manifest(copy, state="recording", end=None)
    version = raise_in("log")(copy)
    before = sorted(copy.rglob("*"))

    damaged = copy / "log" / "00000002.seg"
    message = f"{damaged} has format version {version}; this revirt reads up to {segment.FRAME.version}"
    assert_refused(["repair", str(copy)], message, capsys)

    assert sorted(copy.rglob("*")) == before


def test_newer_leaves_of_a_seal_are_refused_by_every_command_that_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["key", "new", "key"]) == 0
    assert main(["record", "vuln", "--batch", "--clock", "virtual", "--sign", "key", "-o", "sealed"]) == 0
    file = max(Path("sealed/seal").glob("*.leaves"))
    version = raise_frame(file)

    message = f"{file} has format version {version}; this revirt reads up to {leaves.FRAME.version}"
    for words in (["verify"], ["verify", "--key", "key.pub"], ["audit"], ["prove", "3"], ["pack"]):
        assert_refused([words[0], "sealed", *words[1:]], message, capsys)
    # What is not proven by them is read as before.
    assert main(["replay", "sealed", "-q"]) == 0


# -- states of the machine's parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "owner", "name"),
    [
        ("cpu", machine_module, "CPU_STATE_VERSION"),
        ("clock", ClockState, "VERSION"),
        ("uart", UartState, "VERSION"),
    ],
)
def test_a_checkpoint_with_a_newer_state_is_refused_by_the_name_of_the_part(
    part: str,
    owner: object,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, guest = tmp_path / "newer", find("hello")
    with monkeypatch.context() as future, console_for(guest, None) as console:
        future.setattr(owner, name, 2, raising=True)
        record(guest, console, RecordOptions(clock="virtual"), path)

    checkpoint = path / "checkpoints" / "00000000.ckpt"
    message = f"{checkpoint} has {part} state version 2; this revirt reads up to 1"
    for command in ("replay", "replay --from 0", "audit", "events --icount"):
        assert_refused(words_for(command, path), message, capsys)
    # Nothing is wrong with the files.
    assert main(["verify", str(path)]) == 0


# -- packs ---------------------------------------------------------------------------------------------------------


def test_a_newer_pack_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(copy, copy.parent / "a.revirt")
    data = (copy.parent / "a.revirt").read_bytes()
    size = int(data[124:135], 8)
    index = data[512 : 512 + size]
    known = pack_format.VERSION
    newer = b"# revirt pack %d\n" % (known + 1)
    lines = index.replace(b"# revirt pack 1\n", newer).splitlines(keepends=True)[:-1]
    digest = blake2b(b"".join(lines), digest_size=32).hexdigest()
    changed = b"".join(lines) + f"# check {digest}\n".encode()
    (copy.parent / "a.revirt").write_bytes(data[:512] + changed + data[512 + size :])

    assert_refused(
        ["unpack", "a.revirt", "-o", "again"],
        f"a.revirt has format version {known + 1}; this revirt reads up to {known}",
        capsys,
    )
    assert not (copy.parent / "again").exists()


@pytest.mark.parametrize("newer", CASES, ids=lambda newer: newer.what)
def test_a_newer_part_inside_a_pack_is_refused(
    newer: Newer, copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = newer.make(copy)
    with monkeypatch.context() as future:
        # As the revirt packs it that wrote it.
        future.setattr("revirt.recording.packing.check", lambda *_, **__: ("uuid", 0))
        pack(copy, copy.parent / "a.revirt")

    message = f"a.revirt has {newer.is_text_of} version {version}; this revirt reads up to {newer.known}"
    for options in ([], ["--force"]):
        assert_refused(["unpack", "a.revirt", "-o", "again", *options], message, capsys)
    assert not (copy.parent / "again").exists()


# -- everything that has a version ----------------------------------------------------------------------------------


def test_every_kind_of_file_is_among_those_that_are_tested() -> None:
    modules = [
        importlib.import_module(each.name)
        for each in pkgutil.walk_packages(revirt.__path__, "revirt.")
        if not each.name.endswith("__main__") and ".guests" not in each.name
    ]

    found = {value.magic for module in modules for value in vars(module).values() if isinstance(value, Frame)}

    # An index is no part of a recording: tests/index has what becomes of one that is newer.
    assert found == {frame.magic for frame in (*FRAMES.values(), INDEX_FRAME)}


# -- tables of CPUID -------------------------------------------------------------------------------------------------


def test_a_table_of_cpuid_that_the_machine_cannot_have_is_refused_by_leaf(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Manifest.read(copy / NAME).machine
    machine["cpuid"]["7.0"] = "00000000 00040000 00000000 00000000"
    change_manifest(copy, machine=machine)

    for command in ("replay", "audit --json", "verify"):
        capsys.readouterr()
        assert main(words_for(command, copy)) == 4
        printed = capsys.readouterr()
        text = re.sub(r"\s+", " ", printed.out + printed.err)
        assert "CPUID has leaf 0x7.0, which a machine of model 1 has not" in text, command


@pytest.fixture
def asker(tmp_path: Path) -> Path:
    """A recording of a guest that prints the first letter of its CPU's name."""
    image, path = tmp_path / "asks.bin", tmp_path / "asked"
    # cli; mov eax, 0x80000002; cpuid; mov dx, 0x3f8; out dx, al; hlt
    image.write_bytes(bytes.fromhex("fa66b8020000800fa2baf803eef4"))
    guest = Guest("asks", "asks who the CPU is", 1 << 20, file=image, format="flat", address=0x7C00)
    with console_for(guest, None) as console:
        record(guest, console, RecordOptions(clock="virtual"), path)
    return path


def test_a_replay_answers_cpuid_as_the_recording_did(
    asker: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    # A later revirt may call its CPU something else.
    monkeypatch.setattr("revirt.machine.cpuid._BRAND", b"another CPU".ljust(48, b"\0"))
    assert cpuid_leaves()[0x8000_0002, 0][0] & 0xFF == ord("a")

    assert main(["replay", str(asker)]) == 0

    assert capfdbinary.readouterr().out == b"r"


def test_a_table_that_is_not_the_recorded_one_makes_the_replay_diverge(asker: Path) -> None:
    machine = Manifest.read(asker / NAME).machine
    machine["cpuid"]["80000002.0"] = "00000061 00000000 00000000 00000000"
    change_manifest(asker, machine=machine)

    assert main(["replay", str(asker), "-q"]) == 3
