"""Programs for a bare PC, out of packages that are made as Debian's are."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from revirt.errors import BuildError
from revirt.image import debian, find, guests, programs
from revirt.image.apt import Package
from revirt.image.build import build
from revirt.image.firmware import FLASH_SIZE

BIOS, VIDEO, ROM, DISK = b"B" * (256 << 10), b"V" * 1024, b"R" * 512, b"D" * 2048
CONTENTS = {
    "seabios": {
        "usr/share/seabios/bios.bin": b"b" * (128 << 10),
        "usr/share/seabios/bios-256k.bin": BIOS,
        "usr/share/seabios/vgabios-isavga.bin": VIDEO,
    },
    "memtest86+": {"usr/lib/memtest86+/memtest86+x64.iso": DISK},
    "ipxe-qemu": {"usr/lib/ipxe/qemu/pxe-virtio.rom": ROM, "usr/lib/ipxe/qemu/efi-virtio.rom": b"E"},
}
Packages = Callable[..., dict[str, Package]]


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    """Return a function that makes packages of these names."""

    def make(*names: str, contents: Mapping[str, Mapping[str, bytes]] = CONTENTS) -> dict[str, Package]:
        return {name: _package(tmp_path / name, name, contents[name]) for name in names}

    return make


def _package(root: Path, name: str, files: Mapping[str, bytes]) -> Package:
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@y>\nDescription: x\n"
    for path, data in {"DEBIAN/control": control.encode(), **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    file = root.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--build", root, file], check=True, capture_output=True)
    return Package(file, name, "1")


def test_a_bare_pc_has_the_large_bios_and_its_video_bios(packages: Packages) -> None:
    files = programs.bare_pc(packages("seabios"))

    assert files.keys() == {"bios.bin"}
    assert len(files["bios.bin"]) == FLASH_SIZE
    assert files["bios.bin"].endswith(BIOS)
    assert b"vgaroms/vgabios.bin\0" in files["bios.bin"][:4096]
    assert files["bios.bin"][4096:].startswith(VIDEO)


def test_memtest_comes_on_the_disk_that_its_package_has(packages: Packages) -> None:
    files = programs.memtest(packages("seabios", "memtest86+"))

    assert files["disk.img"] == DISK


def test_ipxe_is_the_rom_of_cards_that_the_machine_has(packages: Packages) -> None:
    flash = programs.ipxe(packages("seabios", "ipxe-qemu"))["bios.bin"]

    assert b"pci1af4,1000.rom\0" in flash[:4096]
    assert flash[4096:].startswith(VIDEO + ROM)


def test_a_package_without_what_is_wanted_of_it_is_named(packages: Packages) -> None:
    made = packages("seabios", contents={"seabios": {"usr/share/seabios/bios.bin": b"b"}})

    with pytest.raises(BuildError, match="seabios 1 has no file like"):
        programs.bare_pc(made)


def test_a_program_is_built_into_the_cache(
    empty_cache: Path, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(recipe: programs.Recipe, *_: object) -> debian.Ingredients:
        return debian.Ingredients(recipe.make(packages(*recipe.packages)), {"seabios": "1"})

    monkeypatch.setattr(programs, "fetch", fetch)

    directory = build(find("memtest"), progress=lambda _message: None)

    assert directory == empty_cache / "guests" / "memtest"
    assert find("memtest").is_built
    assert find("memtest").image_spec().format == "bios"
    assert (directory / "disk.img").read_bytes() == DISK


def test_every_recipe_that_a_guest_names_is_there() -> None:
    named = {guest.recipe for guest in guests() if guest.recipe is not None}

    assert named <= debian.RECIPES.keys() | programs.RECIPES.keys()
