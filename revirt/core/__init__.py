"""The CPU core: a C extension around the libunicorn that the ``unicorn`` package ships.

`_core.pyi` documents every operation.  This module finds the library and makes sure that it is the one release whose
CPU state the core knows.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from revirt.errors import HostError

try:
    from revirt.core import _core
except ImportError as error:
    raise HostError(
        f"the C core cannot be loaded: {error}",
        hint="in a checkout: pip install . and run revirt elsewhere, or python setup.py build_ext --inplace",
    ) from error
from revirt.core._core import (
    MODE_LONG,
    MODE_PROTECTED,
    MODE_REAL,
    PAGE_SIZE,
    STOP_HALT,
    STOP_INTERRUPTIBLE,
    STOP_LIMIT,
    STOP_REQUEST,
    STOP_SHUTDOWN,
    STOP_STEPS,
    STOP_WATCH,
    UNICORN_VERSION,
    WATCH_ADDRESS_SPACE,
    WATCH_BLOCK,
    WATCH_CALL,
    WATCH_EXECUTE,
    WATCH_INTERRUPT,
    WATCH_MAYBE,
    WATCH_PRIVILEGE,
    WATCH_READ,
    WATCH_RETURN,
    WATCH_SYSTEM_CALL,
    WATCH_WRITE,
    Core,
    encode_columns,
    hash_pages,
    trim_heap,
)

__all__ = [
    "MODE_LONG",
    "MODE_PROTECTED",
    "MODE_REAL",
    "PAGE_SIZE",
    "STOP_HALT",
    "STOP_INTERRUPTIBLE",
    "STOP_LIMIT",
    "STOP_REQUEST",
    "STOP_SHUTDOWN",
    "STOP_STEPS",
    "STOP_WATCH",
    "UNICORN_VERSION",
    "WATCH_ADDRESS_SPACE",
    "WATCH_BLOCK",
    "WATCH_CALL",
    "WATCH_EXECUTE",
    "WATCH_INTERRUPT",
    "WATCH_MAYBE",
    "WATCH_PRIVILEGE",
    "WATCH_READ",
    "WATCH_RETURN",
    "WATCH_SYSTEM_CALL",
    "WATCH_WRITE",
    "Core",
    "create_core",
    "encode_columns",
    "hash_pages",
    "load_unicorn",
    "trim_heap",
]

_HINT = f"install it with: pip install unicorn=={UNICORN_VERSION}"


def create_core(
    ram_size: int, *, store_size: int = 0, translation_buffer: int = 0, track_writes: bool = True
) -> Core:
    """Return a CPU with *ram_size* bytes of zeroed memory, and a store of *store_size*.

    Raises HostError if this host's Unicorn is missing or not the release the core knows.
    """
    load_unicorn()
    try:
        return Core(
            ram_size, store_size=store_size, translation_buffer=translation_buffer, track_writes=track_writes
        )
    except RuntimeError as error:
        raise HostError(str(error), hint=_HINT) from error
    except MemoryError as error:
        raise HostError(f"{error}", hint="give the guest less memory") from error


@cache
def load_unicorn() -> None:
    """Load the library, once; raises HostError if it is missing or not the release the core knows."""
    # Looked up, not imported: the Python binding takes 60 ms to load and is not used.
    spec = importlib.util.find_spec("unicorn")
    if spec is None or spec.origin is None:
        raise HostError("the unicorn package is not installed", hint=_HINT)
    library = Path(spec.origin).parent / "lib" / "libunicorn.so.2"
    try:
        _core.load(str(library))
    except (OSError, ImportError) as error:
        raise HostError(f"Unicorn cannot be loaded: {error}", hint=_HINT) from error
