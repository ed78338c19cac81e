"""Unpacking what somebody else sent: all of it comes out, under the names it may have, or nothing does."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import stat
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from countdown import Countdown
from hypothesis import given, settings
from hypothesis import strategies as st

from revirt.errors import (
    CorruptError,
    FormatVersionError,
    HostError,
    RecordingError,
    RecordingExistsError,
)
from revirt.recording import PackReport, Recording, pack, unpack, unpack_from
from revirt.recording.manifest import NAME

HEADER = 512
SEGMENT = "log/00000000.seg"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIRT_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, library: Any) -> bytes:
    """A pack of a small recording."""
    target = tmp_path_factory.mktemp("packs") / "hello.revirt"
    pack(library.get("hello", "virtual", None, {}).path, target)
    return target.read_bytes()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory to unpack in, and to leave empty."""
    return tmp_path_factory.mktemp("scene")


def files_of(whole: bytes) -> dict[str, bytes]:
    """Return the files of the recording in the pack *whole*, as another program sees them."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        names = archive.getnames()[1:]
        streams = ((name, archive.extractfile(name)) for name in names)
        return {name.removeprefix("recording/"): stream.read() for name, stream in streams if stream}


def header(name: str, size: int) -> bytes:
    """Return a header as POSIX has it."""
    info = tarfile.TarInfo(name)
    info.size = size
    data = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    data[329:345] = b"0000000\0" * 2
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def archived(name: str, data: bytes, size: int | None = None) -> bytes:
    return header(name, len(data) if size is None else size) + data + bytes(-len(data) % 512)


def index_of(entries: list[tuple[str, int, bytes]], first: str = "# revirt pack 1") -> bytes:
    """Return the index that says this of names, sizes and contents, with a check that is right."""
    lines = [first]
    for name, size, data in entries:
        digest = hashlib.blake2b(data, digest_size=32).hexdigest()
        lines += [f"# {size} bytes", f"BLAKE2b-256 (recording/{name}) = {digest}"]
    return checked("".join(f"{line}\n" for line in lines).encode())


def checked(lines: bytes) -> bytes:
    return lines + f"# check {hashlib.blake2b(lines, digest_size=32).hexdigest()}\n".encode()


def pack_of(files: list[tuple[str, bytes]], **options: Any) -> bytes:
    """Return a pack of *files*, right in everything but what they are."""
    index = index_of([(name, len(data), data) for name, data in files], **options)
    parts = [archived(f"recording/{name}", data) for name, data in files]
    return archived("revirt.pack", index) + b"".join(parts) + bytes(1024)


def assert_refused(
    data: bytes, scene: Path, error: type[Exception] = CorruptError, match: str = ".", **options: Any
) -> None:
    """Make sure that a stream of *data* is refused, also by force, and that nothing is left behind."""
    for force in (False, True):
        with pytest.raises(error, match=match):
            unpack_stream(io.BytesIO(data), scene / "x", force=force, **options)
        assert list(scene.iterdir()) == []


def unpack_stream(stream: Any, target: Path, **options: Any) -> PackReport:
    return unpack_from(stream, target, source=Path("a.revirt"), **options)


def test_what_these_tests_make_is_a_pack(whole: bytes, tmp_path: Path) -> None:
    assert pack_of(list(files_of(whole).items())) == whole


# -- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", range(4))
def test_every_truncation_is_refused(rest: int, whole: bytes, scene: Path) -> None:
    for size in range(rest, len(whole), 4):
        with pytest.raises(CorruptError, match=r"cut short|not a pack|header of the index"):
            unpack_stream(io.BytesIO(whole[:size]), scene / "x")
    assert list(scene.iterdir()) == []


@settings(max_examples=400)
@given(data=st.data())
def test_every_change_of_a_byte_is_refused(data: st.DataObject, whole: bytes, scene: Path) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.integers(1, 255))

    assert_refused(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :], scene)


@settings(max_examples=400)
@given(data=st.data())
def test_bytes_that_are_put_in_or_taken_out_are_refused(
    data: st.DataObject, whole: bytes, scene: Path
) -> None:
    place = data.draw(st.integers(0, len(whole)))
    more = data.draw(st.binary(max_size=600))
    less = data.draw(st.integers(0, 600))
    changed = whole[:place] + more + whole[place + less :]

    if changed != whole:
        assert_refused(changed, scene)


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(512), bytes(10240)])
def test_bytes_behind_the_end_are_refused(more: bytes, whole: bytes, scene: Path, tmp_path: Path) -> None:
    assert_refused(whole + more, scene, match=f"at byte {len(whole)}: there is more behind the end")

    (tmp_path / "a.revirt").write_bytes(whole + more)
    with pytest.raises(CorruptError, match=f"{len(whole + more)} bytes where {len(whole)} belong"):
        unpack(tmp_path / "a.revirt", scene / "x")


def test_a_file_that_is_cut_short_is_refused_before_anything_is_written(
    whole: bytes, scene: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.revirt").write_bytes(whole[:-1])

    with pytest.raises(CorruptError, match=f"at byte {len(whole) - 1}"):
        unpack(tmp_path / "a.revirt", scene / "x" / "y")

    assert list(scene.iterdir()) == []


@given(data=st.binary(max_size=2000))
def test_any_bytes_at_all_are_refused(data: bytes, scene: Path) -> None:
    assert_refused(data, scene)


@pytest.mark.parametrize("data", [b"", b"x", b"\x1f\x8b\x08" + bytes(1000), bytes(2048), header("a", 1)])
def test_what_is_no_pack_is_called_that(data: bytes, scene: Path) -> None:
    assert_refused(data, scene, match="this is not a pack")


def test_a_change_in_a_file_names_it_and_where_it_begins(whole: bytes, scene: Path) -> None:
    segment = files_of(whole)[SEGMENT]
    start = whole.index(segment)
    changed = whole[: start + 7] + b"?" + whole[start + 8 :]

    assert_refused(changed, scene, match=f"at byte {start}: {SEGMENT} does not have its digest")


# -- tricks -----------------------------------------------------------------------------------------------------

TRICKS = [
    *(
        "../x",
        "../../x",
        "log/../../x",
        "/tmp/x",
        "//x",
        "log/../manifest.json",
        ".",
        "..",
        "./manifest.json",
    ),
    *("log", "log/", "log//00000000.seg", "log/./00000000.seg", "log/00000000.seg/", "log/00000000.seg/x"),
    *("log/0.seg", "log/000000000.seg", "log/00000000.SEG", "log/00000000.ckpt", "log/00000000.seg.tmp"),
    *(
        "pages/00000000.ckpt",
        "checkpoints/00000000.pages",
        "00000000.seg",
        "manifest.json.tmp",
        "lock",
        "latest",
    ),
    *(
        "log\\00000000.seg",
        "log/00000000.seg\\0",
        "C:x",
        "~",
        "LOG/00000000.seg",
        "log/٠٠٠٠٠٠٠٠.seg",
        "n" * 300,
    ),
]


@pytest.mark.parametrize("name", TRICKS)
def test_names_that_no_recording_has_are_refused(name: str, whole: bytes, scene: Path) -> None:
    files = list(files_of(whole).items())
    data = index_of([(each, len(contents), contents) for each, contents in [*files, (name, b"x")]])

    assert_refused(archived("revirt.pack", data) + whole, scene, match="recording|index")


@pytest.mark.parametrize(
    "typeflag", [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"L", b"x", b"g", b"S", b"\0"]
)
def test_links_devices_and_extensions_are_refused(typeflag: bytes, whole: bytes, scene: Path) -> None:
    """The header is right, checksum and all, but for what it says the file is."""
    files = files_of(whole)
    start = whole.index(files[SEGMENT]) - HEADER
    info = tarfile.TarInfo.frombuf(whole[start : start + HEADER], "ascii", "strict")
    info.type, info.linkname = typeflag, "/etc/passwd"

    changed = whole[:start] + info.tobuf(tarfile.USTAR_FORMAT) + whole[start + HEADER :]

    assert_refused(changed, scene, match=f"at byte {start}: not the header of {SEGMENT}")


def test_a_file_that_is_there_twice_is_refused(whole: bytes, scene: Path) -> None:
    files = list(files_of(whole).items())

    assert_refused(pack_of([*files, files[-1]]), scene, match="not in its place")


def test_files_in_another_order_are_refused(whole: bytes, scene: Path) -> None:
    files = list(files_of(whole).items())

    assert_refused(pack_of([files[0], *reversed(files[1:])]), scene, match="not in its place")
    assert_refused(pack_of([*files[1:], files[0]]), scene, match="not in its place")


def test_a_pack_without_a_manifest_is_refused(whole: bytes, scene: Path) -> None:
    assert_refused(pack_of(list(files_of(whole).items())[1:]), scene, match="not in its place")
    assert_refused(pack_of([]), scene, match="not what an index says")


@pytest.mark.parametrize("size", [8**11, 10**10, 1 << 63, 1 << 200])
def test_sizes_that_no_file_in_a_pack_has_are_refused(size: int, whole: bytes, scene: Path) -> None:
    entries = [(NAME, 1, b"x"), (SEGMENT, size, b"x")]

    assert_refused(archived("revirt.pack", index_of(entries)), scene, match="index|no file of a recording")


@pytest.mark.parametrize("text", ["01", "+1", "-1", "1_0", " 1", "1 ", "0x1", "٣", "1e3", ""])
def test_a_size_has_one_form(text: str, whole: bytes, scene: Path) -> None:
    data = index_of([(NAME, 1, b"x")]).replace(b"# 1 bytes", f"# {text} bytes".encode())
    lines = data[: data.rindex(b"# check")]

    assert_refused(archived("revirt.pack", checked(lines)), scene, match="not what an index says")


@contextmanager
def peak_under(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_what_is_only_claimed_takes_no_memory(whole: bytes, scene: Path) -> None:
    manifest = files_of(whole)[NAME]
    entries = [(NAME, len(manifest), manifest), (SEGMENT, 8**11 - 1, b"")]
    start = archived("revirt.pack", index_of(entries)) + archived(f"recording/{NAME}", manifest)

    with peak_under(4 << 20):
        assert_refused(header("revirt.pack", 64 << 20) + b"# revirt pack 1\n", scene, match="cut short")
        assert_refused(
            start + header(f"recording/{SEGMENT}", 8**11 - 1) + bytes(9999), scene, match="cut short"
        )


def test_an_index_of_many_files_takes_no_more_memory_than_itself(scene: Path) -> None:
    entries = ((f"log/{number:08}.seg", 0, b"") for number in range(100_000))
    data = index_of([(NAME, 0, b""), *entries])
    source = io.BytesIO(archived("revirt.pack", data))

    with peak_under(4 * len(data)), pytest.raises(CorruptError, match="cut short"):
        unpack_stream(source, scene / "x")


def test_an_index_over_the_limit_is_not_read(scene: Path) -> None:
    size = (64 << 20) + 1

    assert_refused(header("revirt.pack", size), scene, match=f"an index of {size} bytes")


def test_a_checksum_in_another_form_is_refused(whole: bytes, scene: Path) -> None:
    """Tar takes it with spaces for zeros, too; but then there would be two packs of one recording."""
    changed = whole[:148] + whole[148:156].replace(b"0", b" ", 1) + whole[156:]
    with tarfile.open(fileobj=io.BytesIO(changed)) as archive:
        assert archive.getnames()

    assert_refused(changed, scene, match="header of the index")


@pytest.mark.parametrize(
    "lines", [b"", b"#", b"# revirt pack\n", b"# revirt pack 01\n", b"# revirt pack x\n"]
)
def test_an_index_without_a_version_is_refused(lines: bytes, scene: Path) -> None:
    assert_refused(archived("revirt.pack", checked(lines)), scene, match="no format version")


def test_a_newer_version_is_named_before_anything_else_is_read(scene: Path) -> None:
    data = archived("revirt.pack", checked(b"# revirt pack 3\nwith lines that nobody knows yet\n"))

    assert_refused(data, scene, FormatVersionError, "has format version 3; this revirt reads up to 2")


def test_a_version_that_does_not_have_its_check_is_damage(whole: bytes, scene: Path) -> None:
    assert_refused(whole.replace(b"pack 1\n", b"pack 2\n"), scene, match="does not match its check")


def test_a_recording_of_a_newer_format_is_named_by_its_pack(whole: bytes, scene: Path) -> None:
    files = files_of(whole)
    files[NAME] = files[NAME].replace(b'"format": 1', b'"format": 9')

    assert_refused(pack_of(list(files.items())), scene, FormatVersionError, "a.revirt has format version 9")


@pytest.mark.parametrize("name", [SEGMENT, "checkpoints/00000000.ckpt", "pages/00000000.pages"])
def test_a_pack_with_a_recording_that_misses_a_file_is_refused(name: str, whole: bytes, scene: Path) -> None:
    files = [each for each in files_of(whole).items() if each[0] != name]

    with pytest.raises(CorruptError, match=r"a\.revirt: the recording is damaged"):
        unpack_stream(io.BytesIO(pack_of(files)), scene / "x")
    assert list(scene.iterdir()) == []


# -- where it goes ----------------------------------------------------------------------------------------------


def fill(path: Path) -> None:
    path.mkdir()
    (path / "mine").touch()


@pytest.mark.parametrize(
    "make", [Path.touch, Path.mkdir, fill, lambda path: path.symlink_to("nowhere")], ids=range(4)
)
def test_nothing_is_overwritten(make: Callable[[Path], None], whole: bytes, tmp_path: Path) -> None:
    make(tmp_path / "x")
    before = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}

    with pytest.raises(RecordingExistsError):
        unpack_stream(io.BytesIO(whole), tmp_path / "x")

    assert {path: path.lstat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("make", "is_seen"),
    [(Path.touch, True), (Path.touch, False), (Path.mkdir, True), (fill, True), (fill, False)],
)
def test_what_appears_meanwhile_is_not_overwritten(
    make: Callable[[Path], None],
    is_seen: bool,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it looks the last time, or between that and the renaming."""

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "checking":
            make(tmp_path / "x")
            if not is_seen:
                monkeypatch.setattr("os.path.lexists", lambda path: False)

    with pytest.raises(RecordingExistsError):
        unpack_stream(io.BytesIO(whole), tmp_path / "x", progress=progress)

    assert not (tmp_path / "x" / NAME).exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_missing_directories_are_made_and_go_again_if_it_fails(whole: bytes, scene: Path) -> None:
    with pytest.raises(CorruptError):
        unpack_stream(io.BytesIO(whole[:-1]), scene / "a" / "b" / "x")
    assert list(scene.iterdir()) == []

    unpack_stream(io.BytesIO(whole), scene / "a" / "b" / "x")
    assert list(Recording.open(scene / "a" / "b" / "x").verify()) == []
    shutil.rmtree(scene / "a")


def test_nobody_else_sees_what_is_not_yet_a_recording(whole: bytes, tmp_path: Path) -> None:
    seen: list[tuple[int, list[str]]] = []

    def progress(what: str, done: int, total: int | None) -> None:
        (scratch,) = (path for path in tmp_path.iterdir())
        seen.append((stat.S_IMODE(scratch.stat().st_mode), os.listdir(scratch)))

    unpack_stream(io.BytesIO(whole), tmp_path / "x", progress=progress)

    assert set(map(str, seen)) == {str((0o700, ["recording"]))}
    assert os.listdir(tmp_path) == ["x"]


def test_files_get_the_rights_that_new_files_get(whole: bytes, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        unpack_stream(io.BytesIO(whole), tmp_path / "x")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").rglob("*.*")} == {0o640}


def test_the_first_recording_in_its_directory_becomes_the_latest(whole: bytes, home: Path) -> None:
    unpack_stream(io.BytesIO(whole), home / "a")
    unpack_stream(io.BytesIO(whole), home / "b")

    assert os.readlink(home / "latest") == "a"


def test_a_directory_or_nothing_in_place_of_a_pack_is_named(tmp_path: Path, scene: Path) -> None:
    with pytest.raises(RecordingError, match="is a directory, not a pack"):
        unpack(tmp_path, scene / "x")
    with pytest.raises(RecordingError, match="there is no file"):
        unpack(tmp_path / "nowhere.revirt", scene / "x")


def test_a_pipe_by_name_is_not_waited_for(tmp_path: Path, scene: Path) -> None:
    os.mkfifo(tmp_path / "a.revirt")

    with pytest.raises(CorruptError, match="not a regular file"):
        unpack(tmp_path / "a.revirt", scene / "x")


# -- what may happen on the way ---------------------------------------------------------------------------------


class Trickle(io.RawIOBase):
    """Gives what is in *data* a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._sizes = itertools.cycle((1, 700, 3, 64))

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, next(self._sizes)))


def test_a_stream_that_gives_a_few_bytes_at_a_time_is_read_to_its_end(whole: bytes, tmp_path: Path) -> None:
    report = unpack_stream(Trickle(whole), tmp_path / "x")

    assert report.size == len(whole)
    assert report.digest == hashlib.blake2b(whole, digest_size=32).digest()


class Silent(io.RawIOBase):
    """A stream that does not wait, and has nothing."""

    def read(self, size: int = -1) -> None:
        return None


class Broken(io.RawIOBase):
    """A stream that fails."""

    def read(self, size: int = -1) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("stream", "match"), [(Silent(), "nothing has come yet"), (Broken(), "Input/output error")]
)
def test_a_stream_that_fails_is_an_error_that_names_it(stream: BinaryIO, match: str, scene: Path) -> None:
    with pytest.raises(RecordingError, match=f"cannot read a.revirt: {match}"):
        unpack_stream(stream, scene / "x")


def test_an_interrupt_at_any_moment_leaves_nothing(whole: bytes, scene: Path) -> None:
    for allowed in itertools.count():
        try:
            unpack_stream(
                io.BytesIO(whole), scene / "a" / "x", progress=Countdown(allowed, KeyboardInterrupt())
            )
            break
        except KeyboardInterrupt:
            assert list(scene.iterdir()) == []

    assert allowed >= len(files_of(whole))
    shutil.rmtree(scene / "a")


@pytest.mark.parametrize(
    "name", ["os.mkdir", "os.fsync", "os.rename", "revirt.recording.unpacking.write_all"]
)
def test_a_disk_that_is_full_from_any_call_on_leaves_nothing(
    name: str, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, attribute = name.rpartition(".")
    real = getattr(import_module(module), attribute)
    for allowed in itertools.count():
        full = Countdown(allowed, OSError(28, "No space left on device"), real)
        with monkeypatch.context() as patches:
            patches.setattr(name, full)
            problem = problem_of_unpacking(whole, tmp_path / "a" / "x")
        if problem is None:
            break
        assert "a/x: No space left on device" in problem
        # What comes last is the directory around it: then the recording is there, all of it.
        if (tmp_path / "a" / "x").exists():
            assert list(Recording.open(tmp_path / "a" / "x").verify()) == []
            shutil.rmtree(tmp_path / "a")
        assert list(tmp_path.iterdir()) == []

    assert allowed > 0


def problem_of_unpacking(whole: bytes, target: Path) -> str | None:
    """Return what the host cannot do, None if all went well."""
    try:
        unpack_stream(io.BytesIO(whole), target)
    except HostError as error:
        return str(error)
    return None
