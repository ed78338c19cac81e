"""Kernel modules out of a kernel package, in the order in which they can be loaded.

A package has no ``modules.dep``, which depmod writes on the machine that it is installed on.  What depmod reads is in
the modules: section ``.modinfo`` of each, NUL-terminated ``key=value``, says its name and, separated by commas, what it
depends on (Linux, scripts/mod/modpost.c).
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from revirt.errors import BuildError

FILES = r"lib/modules/[^/]+/kernel/.*\.ko(\.xz)?"
"""What the paths of modules in a package look like, as a regular expression."""

_XZ_MAGIC = b"\xfd7zXZ\0"


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module, not compressed."""

    name: str
    data: bytes


def in_loading_order(files: Iterable[tuple[str, bytes]], wanted: Sequence[str]) -> list[Module]:
    """Return the modules *wanted*, by name, and all that they depend on, each behind what it depends on.

    *files* are path and contents of what a kernel package has.  What is built into the kernel is nobody's
    dependency.  Raises BuildError for a module that is not there, or that is none.
    """
    found = {
        path.rpartition("/")[2].partition(".")[0].replace("-", "_"): contents for path, contents in files
    }
    order: dict[str, Module] = {}
    for name in wanted:
        _add(order, name, found, ())
    return list(order.values())


def _add(order: dict[str, Module], name: str, found: Mapping[str, bytes], above: tuple[str, ...]) -> None:
    """Add the module *name* to *order*, behind what it depends on; those *above* depend on it."""
    if name in above:
        raise BuildError(f"the kernel's modules depend on one another: {' '.join((*above, name))}")
    if name in order:
        return
    if name not in found:
        raise BuildError(f"the kernel package has no module {name}")
    data = found[name]
    if data.startswith(_XZ_MAGIC):
        data = lzma.decompress(data)
    for dependency in _depends(name, data):
        _add(order, dependency, found, (*above, name))
    order[name] = Module(name, data)


def _depends(name: str, data: bytes) -> tuple[str, ...]:
    """Return the names of the modules that the module *name* depends on."""
    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
        pairs = section.data().split(b"\0") if section is not None else []
    except ELFError as error:
        raise BuildError(f"the kernel package's module {name} is not a valid ELF file: {error}") from error
    for pair in pairs:
        key, _, value = pair.partition(b"=")
        if key == b"depends":
            return tuple(value.decode("ascii", "replace").replace("-", "_").split(",")) if value else ()
    raise BuildError(f"the kernel package's {name} is not a module: it does not say what it depends on")
