from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from revirt.errors import GuestError, ImageError, UnknownGuestError, UsageError
from revirt.image import find, from_command_line, guests, parse_size
from revirt.image.guest import from_directory

MIB = 1 << 20
MINIMAL = """
name = "sample"
summary = "It proves a point"
[image]
file = "sample.bin"
[machine]
memory = "16M"
"""


def describe(tmp_path: Path, text: str) -> Path:
    """Return the directory of a guest with that description and an image."""
    directory = tmp_path / "sample"
    directory.mkdir()
    (directory / "guest.toml").write_text(text)
    (directory / "sample.bin").write_bytes(b"\xf4")
    return directory


def test_description_with_only_what_is_needed_has_defaults_for_the_rest(tmp_path: Path) -> None:
    directory = describe(tmp_path, MINIMAL)

    guest = from_directory(directory)

    assert (guest.name, guest.summary, guest.memory) == ("sample", "It proves a point", 16 * MIB)
    assert guest.file == directory / "sample.bin"
    assert (guest.format, guest.entry, guest.append) == ("auto", "direct", "")
    assert (guest.devices, guest.script, guest.clock, guest.recipe) == ((), None, None, None)
    assert guest.is_built


def test_full_description_is_read(tmp_path: Path) -> None:
    directory = describe(
        tmp_path,
        MINIMAL.replace("[machine]", 'format = "flat"\naddress = 0x1000\n[machine]\ndevices = ["debugexit"]')
        + '[run]\nscript = "type.script"\nclock = "virtual"\n',
    )
    (directory / "type.script").write_text("")

    guest = from_directory(directory)

    assert guest.image_spec().address == 0x1000
    assert guest.devices == ("debugexit",)
    assert (guest.script, guest.clock) == (directory / "type.script", "virtual")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "sample"', "", "name is missing"),
        ('summary = "It proves a point"', "", "summary is missing"),
        ('memory = "16M"', "", "machine.memory is missing"),
        ('"16M"', "16", "machine.memory: must be a string"),
        ('"16M"', '"lots"', "machine.memory: 'lots' is not a size"),
        ('"16M"', '"8G"', "machine.memory: a machine cannot have 8589934592 bytes"),
        ('"16M"', '"16M"\nvideo = true', "machine.video: unknown key"),
        ('"16M"', '"16M"\ndevices = "disk"', "machine.devices: must be a list"),
        ('"16M"', '"16M"\ndevices = [1]', "machine.devices: must be a list of different strings"),
        ('"16M"', '"16M"\n[run]\nclock = "sun"', "run.clock: 'sun' is none of host, virtual"),
        ('"16M"', '"16M"\n[run]\nscript = "gone"', "run.script: there is no file 'gone'"),
        ('"16M"', '"16M"\n[extra]\n', "extra: unknown key"),
        ('"16M"', '"16M"\n[digests]\n"sample.bin" = "12"', "digests.sample.bin: '12' does not match"),
        ('"16M"', '"16M"\n[build]\nrecipe = "debian"', "exactly one of image.file and build.recipe"),
        ('"16M"', '"16M"\ndisks = ["gone.img"]', "machine.disks: there is no file 'gone.img'"),
        ('"16M"', '"16M"\ndisks = ["../other.img"]', "machine.disks: .* does not lie in the directory"),
        (
            'file = "sample.bin"',
            '[build]\nrecipe = "debian"\ndaemon = "d.c"',
            "build.daemon: there is no file",
        ),
        ('"16M"', '"16M"\n[build]\ndaemon = "sample.bin"', "build.daemon: only a guest with a recipe"),
        ("[image]", "[[image]]", "image: must be a table"),
        ('"sample.bin"', '"../sample/../secret"', "image.file: .* does not lie in the directory"),
        ('"sample.bin"', '"/etc/passwd"', "image.file: .* does not lie in the directory"),
        ('"sample.bin"', '"missing.bin"', "image.file: there is no file 'missing.bin'"),
        ('"sample.bin"', '"sample.bin"\naddress = -1', "image.address: must be an integer"),
        ('"sample.bin"', '"sample.bin"\naddress = true', "image.address: must be an integer"),
        ('"sample.bin"', '"sample.bin"\nformat = "pe"', "image.format: 'pe' is none of"),
        ('name = "sample"', 'name = "Other Name"', "name: 'Other Name' does not match"),
        ('name = "sample"', 'name = "other"', "name: 'other' lies in a directory called 'sample'"),
        ('file = "sample.bin"', 'append = "a"', "exactly one of image.file and build.recipe"),
        ("[image]", "[image", "not valid TOML"),
        ("[image]", "x = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_wrong_description_is_an_error_naming_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    directory = describe(tmp_path, MINIMAL.replace(old, new))

    with pytest.raises(GuestError, match=message) as caught:
        from_directory(directory)

    assert str(directory / "guest.toml") in str(caught.value)


def test_disks_are_files_beside_the_description(tmp_path: Path) -> None:
    directory = describe(tmp_path, MINIMAL + 'disks = ["one.img", "two.img"]\n')
    for name in ("one.img", "two.img"):
        (directory / name).write_bytes(bytes(512))

    assert from_directory(directory).disks == (directory / "one.img", directory / "two.img")


BUILT = MINIMAL.replace('[image]\nfile = "sample.bin"', '[build]\nrecipe = "debian-disk"')


def test_disks_of_a_guest_with_a_recipe_are_where_it_is_built(tmp_path: Path, empty_cache: Path) -> None:
    guest = from_directory(describe(tmp_path, BUILT + 'disks = ["root.img"]\n'))

    assert guest.disks == (empty_cache / "guests" / "sample" / "root.img",)


@pytest.mark.parametrize("name", ["../../vmlinuz", "/etc/passwd", ".hidden", ""])
def test_disks_of_a_guest_with_a_recipe_have_plain_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(GuestError, match=r"machine\.disks: .* does not match"):
        from_directory(describe(tmp_path, BUILT + f'disks = ["{name}"]\n'))


def test_symbolic_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    directory = describe(tmp_path, MINIMAL)
    (directory / "sample.bin").unlink()
    (directory / "sample.bin").symlink_to("/etc/passwd")

    with pytest.raises(GuestError, match="does not lie in the directory"):
        from_directory(directory)


def test_description_that_is_not_text_is_refused(tmp_path: Path) -> None:
    directory = describe(tmp_path, "")
    (directory / "guest.toml").write_bytes(b"\xff\xfe\0")

    with pytest.raises(GuestError, match="not valid TOML"):
        from_directory(directory)


def test_huge_description_is_refused(tmp_path: Path) -> None:
    directory = describe(tmp_path, MINIMAL + "#" * 100_000)

    with pytest.raises(GuestError, match="too large"):
        from_directory(directory)


def test_file_with_the_digest_it_should_have_is_accepted(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"\xf4").hexdigest()

    guest = from_directory(describe(tmp_path, MINIMAL + f'[digests]\n"sample.bin" = "{digest}"\n'))

    assert guest.image_spec().file == guest.file
    assert guest.digests() == {"image": digest}


def test_file_with_another_digest_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    guest = from_directory(describe(tmp_path, MINIMAL + f'[digests]\n"sample.bin" = "{"0" * 64}"\n'))

    with pytest.raises(GuestError, match=r"sample\.bin is not the file"):
        guest.image_spec()


def test_all_bundled_guests_are_described_and_match_their_digests() -> None:
    found = guests()

    assert {"debian", "debian-i386"} <= {guest.name for guest in found}
    for guest in found:
        if guest.recipe is None:
            assert guest.image_spec().file.is_file()


def test_guest_is_found_by_the_path_of_its_directory(tmp_path: Path) -> None:
    directory = describe(tmp_path, MINIMAL)

    assert find(str(directory)) == from_directory(directory)


def test_unknown_guest_tells_the_nearest_names() -> None:
    with pytest.raises(UnknownGuestError) as caught:
        find("debain")

    assert "debian" in caught.value.nearest
    assert "debian" in caught.value.hint


@pytest.mark.parametrize("name", ["", "..", "a\0b", "x" * 5000])
def test_names_that_are_no_names_are_unknown_guests(name: str) -> None:
    with pytest.raises(UnknownGuestError):
        find(name)


@pytest.mark.usefixtures("empty_cache")
def test_guest_that_is_not_built_says_how_to_build_it() -> None:
    guest = find("debian")

    assert not guest.is_built
    with pytest.raises(GuestError, match="not built") as caught:
        guest.image_spec()
    assert "revirt guest build debian" in caught.value.hint


def test_built_guest_that_was_changed_is_refused(empty_cache: Path) -> None:
    directory = empty_cache / "guests" / "debian"
    directory.mkdir(parents=True)
    files = {"vmlinuz": b"kernel", "initrd": b"ramdisk"}
    for name, data in files.items():
        (directory / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (directory / "build.json").write_text(json.dumps({"files": digests}))
    guest = find("debian")

    assert guest.is_built
    assert guest.image_spec().initrd == directory / "initrd"
    assert guest.digests() == {"image": digests["vmlinuz"], "initrd": digests["initrd"]}
    (directory / "initrd").write_bytes(b"changed")
    with pytest.raises(GuestError, match="initrd is not the file"):
        guest.image_spec()


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"files": 3}', '{"files": {"vmlinuz": "x"}}', "[" * 9000]
)
def test_build_with_a_broken_record_is_not_built(empty_cache: Path, record: str) -> None:
    directory = empty_cache / "guests" / "debian"
    directory.mkdir(parents=True)
    for name in ("vmlinuz", "initrd"):
        (directory / name).write_bytes(b"x")
    (directory / "build.json").write_text(record)

    assert not find("debian").is_built


def test_command_line_describes_a_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    guest = from_command_line(Path("vmlinuz"), Path("initrd"), "quiet", 64 * MIB)

    assert (guest.name, guest.file, guest.initrd) == ("vmlinuz", tmp_path / "vmlinuz", tmp_path / "initrd")
    assert (guest.append, guest.memory) == ("quiet", 64 * MIB)
    with pytest.raises(ImageError, match="does not exist"):
        guest.digests()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("640K", 640 << 10), ("256M", 256 * MIB), ("1g", 1 << 30), ("16MiB", 16 * MIB)],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "1T", "0x10", "256 M B", "9" * 30])
def test_text_that_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)
