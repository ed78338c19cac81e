"""The bundled guests are what their sources say: descriptions, digests, and builds that come out the same."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from revirt.image import find, load
from revirt.monitor.script import Script

GUESTS = Path(__file__).parents[2] / "guests"
ASSEMBLED = ("hello", "echo", "timer", "race", "paging", "paging32", "packer", "idle")
NAMES = (*ASSEMBLED, "vuln")
BOOT_SECTOR_SIZE = 510
MAX_BINARY_SIZE = 64 << 10


def describe(name: str) -> dict[str, Any]:
    return tomllib.loads((GUESTS / name / "guest.toml").read_text(encoding="utf-8"))


def binary(name: str) -> Path:
    return GUESTS / name / str(describe(name)["image"]["file"])


def producer(image: Path) -> bytes:
    """Return the compiler that *image* says it was made by."""
    with image.open("rb") as file:
        units = ELFFile(file).get_dwarf_info().iter_CUs()
        return bytes(next(units).get_top_DIE().attributes["DW_AT_producer"].value)


@pytest.fixture(scope="module")
def attack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vuln_attack", GUESTS / "vuln" / "attack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with all binaries, built from copies of the sources in another place."""
    missing = [tool for tool in ("make", "gcc", "ld", "objcopy") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"rebuilding the guests needs {', '.join(missing)}")
    copy = tmp_path_factory.mktemp("elsewhere") / "guests"
    ignored = shutil.ignore_patterns("build", "*.bin", "*.elf")
    shutil.copytree(GUESTS, copy, ignore=ignored)
    subprocess.run(["make", "-s", "binaries"], cwd=copy, check=True, capture_output=True)
    return copy / "build"


@pytest.mark.parametrize("name", NAMES)
def test_description_names_the_guest_and_what_it_proves(name: str) -> None:
    description = describe(name)

    assert description["name"] == name
    assert description["summary"]
    assert "\n" not in description["summary"]


@pytest.mark.parametrize("name", NAMES)
def test_digests_are_those_of_the_committed_binaries(name: str) -> None:
    digests: Mapping[str, str] = describe(name)["digests"]

    found = {file: hashlib.sha256((GUESTS / name / file).read_bytes()).hexdigest() for file in digests}

    assert found == digests
    assert binary(name).name in digests


@pytest.mark.parametrize("name", NAMES)
def test_binaries_are_small(name: str) -> None:
    assert binary(name).stat().st_size < MAX_BINARY_SIZE


@pytest.mark.parametrize("name", NAMES)
def test_guest_loads_into_the_memory_it_asks_for(name: str) -> None:
    guest = find(name)

    boot = load(guest.image_spec(), guest.memory)

    assert boot.writes


@pytest.mark.parametrize("name", [name for name in NAMES if describe(name)["image"]["format"] == "flat"])
def test_flat_guests_fit_into_a_boot_sector(name: str) -> None:
    assert binary(name).stat().st_size <= BOOT_SECTOR_SIZE


@pytest.mark.parametrize("script", sorted(GUESTS.glob("*/*script*")), ids=lambda path: f"{path.parent.name}")
def test_scripts_are_well_formed(script: Path) -> None:
    Script.load(script)


@pytest.mark.parametrize("name", ASSEMBLED)
def test_rebuilding_an_assembled_guest_gives_the_committed_binary(name: str, rebuilt: Path) -> None:
    committed = binary(name)

    assert (rebuilt / committed.name).read_bytes() == committed.read_bytes()


def test_rebuilding_vuln_with_its_compiler_gives_the_committed_binary(rebuilt: Path) -> None:
    here, there = rebuilt / "vuln.elf", binary("vuln")
    if producer(here) != producer(there):
        pytest.skip(f"vuln.elf was made by {producer(there)!r}, this is {producer(here)!r}")

    assert here.read_bytes() == there.read_bytes()


def test_vuln_names_no_directory_of_the_host(rebuilt: Path) -> None:
    assert str(rebuilt.parent).encode() not in (rebuilt / "vuln.elf").read_bytes()


def test_attack_script_is_the_one_made_from_vuln(attack: ModuleType) -> None:
    script = attack.attack_script(attack.find_target(binary("vuln")))

    assert script == (GUESTS / "vuln" / "attack.script").read_text(encoding="ascii")


def test_attack_fits_whatever_the_compiler_made(attack: ModuleType, rebuilt: Path) -> None:
    target = attack.find_target(rebuilt / "vuln.elf")

    script = attack.attack_script(target)

    assert target.return_offset >= 64
    Script.parse(script)


def test_attack_on_an_image_without_debug_information_says_so(attack: ModuleType) -> None:
    with pytest.raises(LookupError, match="no debug information"):
        attack.find_target(binary("timer"))


@given(value=st.integers(0, 2**32 - 1))
def test_loading_a_register_takes_no_forbidden_byte(attack: ModuleType, value: int) -> None:
    code = attack.load_register(attack.ECX, value)

    first, second = (int.from_bytes(part, "little") for part in (code[1:5], code[7:11]))
    assert first ^ second == value
    assert not set(code) & attack.FORBIDDEN
    assert (code[:1], code[5:7]) == (b"\xb9", b"\x81\xf1")
