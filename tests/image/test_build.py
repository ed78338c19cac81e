from __future__ import annotations

import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from revirt.errors import BuildError, GuestError, ImageError
from revirt.image import cpio, debian, find
from revirt.image.build import build
from revirt.image.cache import recorded_digests
from revirt.image.debian import Ingredients
from revirt.image.tools import find_tool

KERNEL = b"kernel"
DISK = bytes(1 << 20) + b"something" + bytes(1 << 20)


def ignore(_message: str) -> None:
    pass


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the download by fixed ingredients; return the architectures that were fetched."""
    architectures: list[str] = []

    def fetch(
        recipe: debian.Recipe, _root: Path, _progress: Callable[[str], None], daemon: Path | None
    ) -> Ingredients:
        architectures.append(recipe.architecture)
        files = {"vmlinuz": KERNEL, "initrd": debian.initial_ramfs(b"busybox")}
        if recipe is debian.RECIPES["debian-disk"]:
            files["root.img"] = DISK
        if recipe is debian.RECIPES["debian-grub"]:
            files = {"bios.bin": b"bios", "disk.img": DISK}
        if daemon is not None:
            files["daemon"] = daemon.read_bytes()
        return Ingredients(files, {"linux": "6.1"})

    monkeypatch.setattr(debian, "fetch", fetch)
    return architectures


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the search path an empty directory, and return it."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def install(directory: Path, name: str, script: str) -> None:
    tool = directory / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


def test_build_is_kept_and_not_fetched_again(empty_cache: Path, fetched: list[str]) -> None:
    first = build(find("debian"), progress=ignore)
    second = build(find("debian"), progress=ignore)

    assert first == second == empty_cache / "guests" / "debian"
    assert (first / "vmlinuz").read_bytes() == KERNEL
    assert fetched == ["amd64"]
    assert find("debian").is_built
    assert find("debian").image_spec().file == first / "vmlinuz"


def test_guest_with_a_disk_is_built_only_with_it(empty_cache: Path, fetched: list[str]) -> None:
    directory = build(find("debian-disk"), progress=ignore)
    guest = find("debian-disk")

    assert guest.is_built
    assert guest.disks == (directory / "root.img",)
    assert guest.disks[0].read_bytes() == DISK
    (directory / "root.img").unlink()
    assert not guest.is_built
    build(guest, progress=ignore)
    assert guest.is_built
    assert len(fetched) == 2


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_disk_takes_no_space_where_it_is_empty() -> None:
    directory = build(find("debian-disk"), progress=ignore)

    assert (directory / "root.img").stat().st_blocks * 512 < 64 << 10


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_guest_with_firmware_starts_that_and_not_its_kernel() -> None:
    directory = build(find("debian-grub"), progress=ignore)

    spec = find("debian-grub").image_spec()

    assert (spec.file, spec.initrd) == (directory / "bios.bin", None)


@pytest.mark.usefixtures("empty_cache", "fetched")
@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ('"debian-disk"', "recipe 'debian-disk' makes no disk.img"),
        ('"debian-grub"\ndaemon = "d.c"', "recipe 'debian-grub' has no place for a daemon"),
    ],
)
def test_recipe_that_does_not_make_what_a_guest_wants_is_refused(
    tmp_path: Path, recipe: str, message: str
) -> None:
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "d.c").write_text("int main(void) { return 0; }\n")
    (directory / "guest.toml").write_text(
        'name = "small"\nsummary = "s"\n[machine]\nmemory = "64M"\ndisks = ["disk.img"]\n'
        f"[build]\nrecipe = {recipe}\n"
    )

    with pytest.raises(BuildError, match=message):
        build(find(str(directory)), progress=ignore)


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_disk_that_was_changed_since_it_was_built_is_refused() -> None:
    directory = build(find("debian-disk"), progress=ignore)
    with (directory / "root.img").open("r+b") as file:
        file.write(b"changed")

    with pytest.raises(GuestError, match=r"root\.img is not the file") as caught:
        find("debian-disk").image_spec()

    assert "revirt guest build debian-disk --force" in caught.value.hint


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_daemon_is_kept_beside_the_disk_that_it_is_on() -> None:
    guest = find("debian-vuln")

    directory = build(guest, progress=ignore)

    assert guest.daemon is not None
    assert (directory / "daemon").read_bytes() == guest.daemon.read_bytes()


@pytest.mark.usefixtures("empty_cache")
def test_forced_build_is_fetched_again(fetched: list[str]) -> None:
    build(find("debian-i386"), progress=ignore)
    build(find("debian-i386"), progress=ignore, force=True)

    assert fetched == ["i386", "i386"]


def test_nothing_but_the_build_is_left_in_the_cache(empty_cache: Path, fetched: list[str]) -> None:
    for _ in range(2):
        build(find("debian"), progress=ignore, force=True)

    assert fetched == ["amd64", "amd64"]
    assert [path.name for path in (empty_cache / "guests").iterdir()] == ["debian"]


def test_damaged_build_is_made_again(empty_cache: Path, fetched: list[str]) -> None:
    directory = build(find("debian"), progress=ignore)
    (directory / "initrd").unlink()

    build(find("debian"), progress=ignore)

    assert len(fetched) == 2
    assert (empty_cache / "guests" / "debian" / "initrd").is_file()


@pytest.mark.usefixtures("empty_cache")
def test_extra_files_make_another_build_without_another_download(tmp_path: Path, fetched: list[str]) -> None:
    program = tmp_path / "tst"
    program.write_bytes(b"program")
    guest = find("debian")
    plain = build(guest, progress=ignore)

    directory = build(guest, progress=ignore, extra={"/bin/tst": program})

    assert directory != plain
    assert directory == build(guest, progress=ignore, extra={"/bin/tst": program})
    assert (directory / "initrd").read_bytes().startswith((plain / "initrd").read_bytes())
    assert b"bin/tst\0" in (directory / "initrd").read_bytes()
    assert fetched == ["amd64"]


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_extra_files_of_a_guest_with_a_disk_are_for_its_disk(tmp_path: Path) -> None:
    program = tmp_path / "tst"
    program.write_bytes(b"program")

    directory = build(find("debian-disk"), progress=ignore, extra={"/bin/tst": program})

    assert b"extra/bin/tst\0" in (directory / "initrd").read_bytes()
    assert (directory / "root.img").read_bytes() == DISK


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_guest_that_loads_its_own_initrd_takes_no_extra_files(tmp_path: Path) -> None:
    program = tmp_path / "tst"
    program.write_bytes(b"program")

    with pytest.raises(BuildError, match="no initial RAM file system"):
        build(find("debian-grub"), progress=ignore, extra={"/bin/tst": program})


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_changed_extra_file_makes_another_build(tmp_path: Path) -> None:
    program = tmp_path / "tst"
    program.write_bytes(b"one")
    first = build(find("debian"), progress=ignore, extra={"/bin/tst": program})
    program.write_bytes(b"two")

    assert build(find("debian"), progress=ignore, extra={"/bin/tst": program}) != first


@pytest.mark.usefixtures("empty_cache", "fetched")
@pytest.mark.parametrize("name", ["tst", "/bin/../../etc/passwd", "/bin/"])
def test_extra_file_needs_an_absolute_path_in_the_guest(name: str) -> None:
    with pytest.raises(BuildError, match="absolute path"):
        build(find("debian"), progress=ignore, extra={name: Path("/bin/true")})


@pytest.mark.usefixtures("empty_cache", "fetched")
def test_missing_extra_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="gone: the extra file does not exist"):
        build(find("debian"), progress=ignore, extra={"/bin/tst": tmp_path / "gone"})


def test_second_builder_waits_for_the_first_and_finds_its_work(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    fetches = []

    def fetch(*_: object) -> Ingredients:
        fetches.append(1)
        assert waiting.wait(60)
        return Ingredients({"vmlinuz": KERNEL, "initrd": b"initrd"})

    monkeypatch.setattr(debian, "fetch", fetch)
    builders = [
        threading.Thread(target=build, args=(find("debian"),), kwargs={"progress": lambda _: waiting.set()})
        for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()

    assert len(fetches) == 1
    assert (empty_cache / "guests" / "debian" / "vmlinuz").is_file()


def test_bundled_guest_has_nothing_to_build(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "small.bin").write_bytes(b"\xf4")
    (directory / "guest.toml").write_text(
        'name = "small"\nsummary = "s"\n[image]\nfile = "small.bin"\n[machine]\nmemory = "1M"\n'
    )

    with pytest.raises(BuildError, match="nothing to build"):
        build(find(str(directory)), progress=ignore)


@pytest.mark.usefixtures("empty_cache", "tools")
def test_host_without_apt_says_what_to_do() -> None:
    with pytest.raises(BuildError, match="apt-get is not installed") as caught:
        build(find("debian"), progress=ignore)

    assert "--kernel" in caught.value.hint


def test_failing_sources_are_named_with_what_apt_said(empty_cache: Path, tools: Path) -> None:
    install(tools, "apt-get", "echo 'E: the network is down' >&2; exit 100")
    install(tools, "apt-cache", "exit 100")
    install(tools, "dpkg-deb", "exit 1")

    with pytest.raises(BuildError, match="the network is down") as caught:
        build(find("debian"), progress=ignore)

    assert "network" in caught.value.hint
    assert not (empty_cache / "guests").exists()


@pytest.mark.usefixtures("empty_cache")
def test_failing_download_is_named_with_what_apt_said(tools: Path) -> None:
    install(tools, "apt-get", 'test "$3" = update && exit 0; echo "E: disk full" >&2; exit 100')
    install(tools, "apt-cache", "echo 'Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1)'")
    install(tools, "dpkg-deb", "exit 1")

    with pytest.raises(BuildError, match="apt-get failed: disk full"):
        build(find("debian"), progress=ignore)


@pytest.mark.usefixtures("empty_cache")
def test_packages_that_apt_leaves_out_are_named(tools: Path) -> None:
    install(tools, "apt-get", "exit 0")
    install(tools, "apt-cache", "echo 'Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1)'")
    install(tools, "dpkg-deb", "exit 1")

    with pytest.raises(
        BuildError, match=r"did not deliver busybox-static, linux-image-6\.1\.0-9-cloud-amd64"
    ):
        build(find("debian"), progress=ignore)


@pytest.mark.usefixtures("fetched")
def test_cache_that_cannot_be_written_is_a_build_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REVIRT_CACHE", str(tmp_path / "file"))

    with pytest.raises(BuildError, match="cannot build debian") as caught:
        build(find("debian"), progress=ignore)

    assert "REVIRT_CACHE" in caught.value.hint


def test_initial_ramfs_is_the_same_bytes_every_time() -> None:
    assert debian.initial_ramfs(b"busybox") == debian.initial_ramfs(b"busybox")


@pytest.mark.debian
@pytest.mark.parametrize("name", ["debian", "debian-i386"])
def test_debian_guest_is_built_from_packages(debian_guest: Callable[[str], Path], name: str) -> None:
    directory = debian_guest(name)

    assert (directory / "vmlinuz").read_bytes()[0x202:0x206] == b"HdrS"
    initrd = (directory / "initrd").read_bytes()
    assert b"bin/busybox\0" in initrd
    assert b"revirt: shell ready" in initrd
    assert find(name).is_built


@pytest.fixture
def busybox(tmp_path: Path, debian_guest: Callable[[str], Path]) -> Path:
    """Return the busybox of the Debian guest, which knows cpio archives and runs on this host as well."""
    initrd = (debian_guest("debian") / "initrd").read_bytes()
    program = tmp_path / "busybox"
    program.write_bytes(initrd[initrd.index(b"\x7fELF") :])
    program.chmod(0o755)
    return program


@pytest.mark.debian
def test_archive_is_unpacked_by_busybox(tmp_path: Path, busybox: Path) -> None:
    archive = cpio.archive(
        [
            cpio.directory("bin"),
            cpio.executable("bin/run", b"#!/bin/sh\n"),
            cpio.symlink("bin/sh", "run"),
            cpio.executable("bin/odd", b"odd length!"),
        ]
    )

    subprocess.run([busybox, "cpio", "-id"], input=archive, cwd=tmp_path, check=True)

    assert (tmp_path / "bin/run").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "bin/run").stat().st_mode) == 0o755
    assert (tmp_path / "bin/sh").readlink() == Path("run")
    assert (tmp_path / "bin/odd").read_bytes() == b"odd length!"


@pytest.mark.debian
def test_device_nodes_are_listed_by_busybox(busybox: Path) -> None:
    archive = cpio.archive([cpio.directory("dev"), cpio.character_device("dev/ttyS0", 0o600, 4, 64)])

    listing = subprocess.run([busybox, "cpio", "-tv"], input=archive, capture_output=True, check=True).stdout

    assert [(line.split()[0], line.split()[-1]) for line in listing.decode().splitlines()] == [
        ("drwxr-xr-x", "dev"),
        ("crw-------", "dev/ttyS0"),
    ]


@pytest.mark.debian
@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("name", ["debian-grub", "debian-vuln"])
def test_guest_with_a_disk_is_the_same_bytes_when_it_is_built_again(name: str) -> None:
    first, second = (recorded_digests(build(find(name), progress=print, force=True)) for _ in range(2))

    assert first.keys() >= set(find(name).built_files)
    assert first == second


@pytest.mark.debian
def test_disk_that_boots_has_a_partition_with_what_grub_looks_for(
    tmp_path: Path, debian_guest: Callable[[str], Path]
) -> None:
    disk = (debian_guest("debian-grub") / "disk.img").read_bytes()
    debugfs = find_tool("debugfs")
    assert debugfs is not None
    partition = tmp_path / "partition"
    partition.write_bytes(disk[2048 * 512 :])

    found = subprocess.run(
        [debugfs, "-R", "cat /boot/grub/grub.cfg", partition], capture_output=True, check=True
    )

    assert disk[510:512] == b"\x55\xaa"
    assert b"menuentry" in found.stdout
