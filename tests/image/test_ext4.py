from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from revirt.errors import BuildError
from revirt.image import cpio, tools
from revirt.image.apt import Package
from revirt.image.ext4 import make_file_system
from revirt.image.tools import Toolbox

MIB = 1 << 20
UUID = "00000000-0000-4000-8000-000000000001"
ENTRIES = (
    cpio.directory("bin"),
    cpio.executable("bin/run", b"#!/bin/sh\n"),
    cpio.symlink("bin/[", "run"),
    cpio.directory("etc"),
    cpio.regular("etc/long", b"0123456789" * 10_000),
)


def no_packages(names: Sequence[str], _directory: Path) -> Mapping[str, Package]:
    raise BuildError(f"there is no network to fetch {names[0]} from")


def make(scratch: Path, entries: Sequence[cpio.Entry] = ENTRIES, size: int = 16 * MIB) -> bytes:
    scratch.mkdir()
    return make_file_system(entries, size, UUID, Toolbox(no_packages, scratch))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return the file of a file system with `ENTRIES`."""
    path = tmp_path / "image"
    path.write_bytes(make(tmp_path / "scratch"))
    return path


def look(image: Path, question: str) -> bytes:
    """Return what debugfs answers to *question*."""
    debugfs = tools.find_tool("debugfs")
    assert debugfs is not None
    return subprocess.run([debugfs, "-R", question, image], capture_output=True, check=True).stdout


def test_what_was_put_in_is_in_it(image: Path) -> None:
    assert image.stat().st_size == 16 * MIB
    assert look(image, "cat /etc/long") == b"0123456789" * 10_000
    assert look(image, "cat /bin/run") == b"#!/bin/sh\n"
    assert b"Mode:  0755" in look(image, "stat /bin/run")
    assert b"Mode:  0644" in look(image, "stat /etc/long")
    assert b'Fast link dest: "run"' in look(image, 'stat "/bin/["')


def test_file_system_is_sound(image: Path) -> None:
    e2fsck = tools.find_tool("e2fsck")
    assert e2fsck is not None

    assert subprocess.run([e2fsck, "-fn", image], capture_output=True, check=False).returncode == 0


def test_file_system_is_the_same_bytes_every_time(tmp_path: Path, image: Path) -> None:
    # Times in a file system are in seconds.
    time.sleep(1.1)

    assert make(tmp_path / "again") == image.read_bytes()


@pytest.mark.parametrize("name", ["/", "/lost+found", "/bin", "/bin/run", "/bin/[", "/etc/long"])
def test_nothing_of_the_host_is_in_it(image: Path, name: str) -> None:
    shown = look(image, f'stat "{name}"').decode()

    assert "User:     0   Group:     0" in shown
    assert shown.count("time: 0x5e0be100:00000000") == 4


def test_files_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="mke2fs failed"):
        make(tmp_path / "scratch", [cpio.regular("large", b"x" * 20 * MIB)])


def test_device_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="neither a directory, a file nor a link"):
        make(tmp_path / "scratch", [cpio.character_device("console", 0o600, 5, 1)])


@pytest.fixture
def bare_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host have no programs of its own."""
    monkeypatch.setattr(tools, "find_tool", lambda name: None)


@pytest.fixture
def package(tmp_path: Path) -> Callable[[Sequence[str], Path], Mapping[str, Package]]:
    """Return a function that delivers a package with a program that says what it is given."""

    def deliver(names: Sequence[str], directory: Path) -> Mapping[str, Package]:
        root = tmp_path / "package"
        for part in ("DEBIAN", "usr/sbin"):
            (root / part).mkdir(parents=True)
        control = (
            f"Package: {names[0]}\nVersion: 1.2\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
        )
        (root / "DEBIAN/control").write_text(control)
        program = root / "usr/sbin/mke2fs"
        program.write_text('#!/bin/sh\necho packaged "$@"\n')
        program.chmod(0o755)
        file = directory / "made.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", root, file], check=True, stdout=subprocess.DEVNULL
        )
        return {names[0]: Package(file, names[0], "1.2")}

    return deliver


@pytest.mark.usefixtures("bare_host")
def test_program_that_the_host_lacks_comes_out_of_its_package(
    tmp_path: Path, package: Callable[[Sequence[str], Path], Mapping[str, Package]]
) -> None:
    toolbox = Toolbox(package, tmp_path)

    assert toolbox.run(["mke2fs", "-q"], ("e2fsprogs",)) == "packaged -q\n"
    # Fetched once: making the package again would fail.
    assert toolbox.run(["mke2fs"], ("e2fsprogs",)) == "packaged\n"
    assert toolbox.packages == {"e2fsprogs": "1.2"}


@pytest.mark.usefixtures("bare_host")
def test_program_that_is_nowhere_to_be_had_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"mke2fs is not installed, .* no network to fetch e2fsprogs"
    ) as caught:
        Toolbox(no_packages, tmp_path).run(["mke2fs"], ("e2fsprogs",))

    assert "e2fsprogs" in caught.value.hint
