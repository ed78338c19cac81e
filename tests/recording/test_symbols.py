"""The symbols of a guest: which file has them, and what that says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from library import RecordingOf, built

from revirt.errors import ImageError
from revirt.image.symbols import Symbols
from revirt.recording import Recording, find_symbols
from revirt.recording.symbols import kernel_release

GUESTS = Path(__file__).parents[2] / "guests"


def test_the_symbols_of_an_elf_guest_are_its_image(recording_of: RecordingOf) -> None:
    found = find_symbols(recording_of("vuln"))

    assert found is not None
    assert found.read_bytes() == (GUESTS / "vuln" / "vuln.elf").read_bytes()


def test_a_flat_guest_has_no_symbols(recording_of: RecordingOf) -> None:
    assert find_symbols(recording_of("hello")) is None


def test_an_image_that_is_not_the_recorded_one_is_not_taken(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(recording_of("vuln").path, copy)
    recording = Recording.open(copy)
    recording.manifest.guest["digests"]["image"] = "00" * 32

    assert find_symbols(recording) is None


@pytest.mark.parametrize("guest", [{}, {"name": None}, {"name": "vuln", "digests": 5}, {"name": "../.."}])
def test_a_manifest_may_say_anything_of_its_guest(
    recording_of: RecordingOf, guest: dict[str, object]
) -> None:
    recording = recording_of("hello")
    recording.manifest.guest = guest

    assert find_symbols(recording) is None


@pytest.mark.debian
def test_the_release_of_a_kernel_is_that_of_its_package() -> None:
    file = built("debian").image_spec().file
    packages = json.loads((file.parent / "build.json").read_text())["packages"]

    release = kernel_release(file.read_bytes())

    assert f"linux-image-{release}" in packages


@pytest.mark.parametrize(
    "image", [b"", b"HdrS", b"\0" * 0x202 + b"HdrS", b"\0" * 0x202 + b"HdrS" + b"\xff" * 64]
)
def test_what_is_no_kernel_has_no_release(image: bytes) -> None:
    assert kernel_release(image) is None


# -- the table ---------------------------------------------------------------------------------------------------


@pytest.fixture
def vuln() -> Symbols:
    return Symbols.of_elf(GUESTS / "vuln" / "vuln.elf")


def test_symbols_have_the_addresses_that_nm_prints(vuln: Symbols) -> None:
    listed = subprocess.run(
        ["nm", "--defined-only", GUESTS / "vuln" / "vuln.elf"], capture_output=True, text=True, check=True
    )
    expected = dict(line.split()[::2][::-1] for line in listed.stdout.splitlines())

    assert {name: int(address, 16) for name, address in expected.items() if name[0] not in "."} == {
        name: vuln.address_of(name) for name in expected if name[0] not in "."
    }


def test_an_address_is_named_by_the_symbol_before_it(vuln: Symbols) -> None:
    grant = vuln.address_of("grant")
    assert grant == 0x10012E

    assert vuln.near(grant) == ("grant", 0)
    assert vuln.near(grant + 5) == ("grant", 5)


def test_an_address_outside_of_all_symbols_has_no_name(vuln: Symbols) -> None:
    assert vuln.near(0) is None
    assert vuln.near(0x10_0000_0000) is None


def test_names_can_be_listed_by_how_they_begin(vuln: Symbols) -> None:
    assert list(vuln.beginning_with("gra")) == ["grant"]


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", b"\x7fELF" + b"\xff" * 600])
def test_a_file_that_is_no_elf_file_is_refused_by_name(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(damage)

    with pytest.raises(ImageError, match="vmlinux"):
        Symbols.of_elf(path)
