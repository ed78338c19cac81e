"""Building the guests that are not bundled, once, into the cache.

A build appears whole, by a rename, or not at all; beside its files lies a ``build.json`` with what it was
made from and their digests.  One build runs at a time; a second one waits for it, and finds its work done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from revirt.errors import BuildError
from revirt.image import cpio, debian, programs
from revirt.image.cache import (
    BUILD_FILE,
    INITRD_FILE,
    built_directory,
    cache_directory,
    is_complete_build,
    recorded_digests,
)
from revirt.image.guest import Guest
from revirt.image.initrd import EXTRA
from revirt.image.source import read_file

_KEY_LENGTH = 16
_HOLE = 4096


def build(
    guest: Guest,
    *,
    progress: Callable[[str], None],
    force: bool = False,
    extra: Mapping[str, Path] | None = None,
) -> Path:
    """Build *guest* unless it is built already, and return the directory with its files.

    *extra* adds executables, by their path in the guest, to the initrd, from where a guest with a disk copies them to
    that; this is another build, kept on its own.  *force* builds anew what is there.

    Raises BuildError if the guest has no recipe or cannot be built, ImageError if an extra file cannot be
    read.
    """
    recipe = debian.RECIPES.get(guest.recipe or "") or programs.RECIPES.get(guest.recipe or "")
    if recipe is None:
        raise BuildError(
            f"{guest.name} has no recipe revirt knows; there is nothing to build",
            hint="'revirt guest list' shows the guests that are built",
        )
    if guest.daemon is not None and recipe is not debian.RECIPES["debian-disk"]:
        raise BuildError(f"recipe {guest.recipe!r} has no place for a daemon", hint="'debian-disk' has")
    directory = built_directory(guest.name)
    files = _read_extra(extra or {}, EXTRA if guest.disks else "")
    try:
        with _locked(progress):
            if force or not is_complete_build(directory, guest.built_files):
                apt_root = cache_directory() / "apt" / recipe.architecture
                if isinstance(recipe, programs.Recipe):
                    made = programs.fetch(recipe, apt_root, progress)
                else:
                    made = debian.fetch(recipe, apt_root, progress, guest.daemon)
                if missing := set(guest.built_files) - made.files.keys():
                    raise BuildError(f"recipe {guest.recipe!r} makes no {', '.join(sorted(missing))}")
                _store(directory, made.files, {"packages": made.packages})
            return _with_extra(directory, files) if files else directory
    except OSError as error:
        raise BuildError(
            f"cannot build {guest.name}: {error.strerror or error}: {error.filename or cache_directory()}",
            hint="REVIRT_CACHE chooses another place for built guests",
        ) from error


def _read_extra(extra: Mapping[str, Path], prefix: str) -> dict[str, bytes]:
    """Return the contents of the files *extra*, by their names in the directory *prefix* of an archive."""
    files = {}
    for name, path in sorted(extra.items()):
        if not name.startswith("/") or name.endswith("/") or ".." in Path(name).parts:
            raise BuildError(f"{name!r} is not the absolute path of a file in the guest")
        files[prefix + name if prefix else name.lstrip("/")] = read_file(path, "the extra file")
    return files


def _with_extra(base: Path, files: Mapping[str, bytes]) -> Path:
    """Return the directory of the build *base* with *files* in its initrd too, making it if need be."""
    contents = {name: (base / name).read_bytes() for name in recorded_digests(base)}
    if INITRD_FILE not in contents:
        raise BuildError(f"{base.name} has no initial RAM file system that files could be added to")
    parents = {str(parent) for name in files for parent in Path(name).parents if parent != Path(".")}
    # The kernel unpacks archives that follow one another; making a directory again changes nothing.
    contents[INITRD_FILE] += cpio.archive(
        [
            *(cpio.directory(name) for name in sorted(parents)),
            *(cpio.executable(name, data) for name, data in files.items()),
        ]
    )
    others = (hashlib.sha256(data).digest() for name, data in sorted(contents.items()) if name != INITRD_FILE)
    key = hashlib.sha256(b"".join((*others, contents[INITRD_FILE]))).hexdigest()[:_KEY_LENGTH]
    directory = base.with_name(f"{base.name}+{key}")
    if not is_complete_build(directory, contents):
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        _store(directory, contents, {"base": base.name, "extra": digests})
    return directory


def _store(directory: Path, contents: Mapping[str, bytes], origin: Mapping[str, object]) -> None:
    """Make *directory*, whole, with these files; what was there before is replaced."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        fresh, old = Path(scratch, "fresh"), Path(scratch, "old")
        fresh.mkdir()
        for name, data in contents.items():
            _write_sparse(fresh / name, data)
        (fresh / BUILD_FILE).write_text(
            json.dumps({**origin, "files": digests}, indent=2, sort_keys=True) + "\n"
        )
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)


def _write_sparse(path: Path, data: bytes) -> None:
    """Make the file *path* of *data*, with holes where blocks of it are zero: disks are mostly empty."""
    nothing = bytes(_HOLE)
    with path.open("wb") as file:
        for offset in range(0, len(data), _HOLE):
            block = data[offset : offset + _HOLE]
            if block != nothing:
                file.seek(offset)
                file.write(block)
        file.truncate(len(data))


@contextmanager
def _locked(progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the cache's lock; the kernel lets go of it when a builder dies."""
    root = cache_directory()
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
