"""The versions that a recording names: of revirt, and of what may make a replay elsewhere come out differently."""

from __future__ import annotations

import platform

from revirt import __version__
from revirt.core import UNICORN_VERSION


def current_versions() -> dict[str, str]:
    """Return what runs here, name to version."""
    return {
        "revirt": __version__,
        "unicorn": UNICORN_VERSION,
        "python": platform.python_version(),
        # x87 transcendental functions go through the host's C library.
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
    }
