"""Record a whole x86 virtual machine, replay it bit for bit, look at any moment of its past."""

from __future__ import annotations

from revirt.errors import DivergenceError, RevirtError
from revirt.position import Position

__version__ = "0.1.0"

__all__ = [
    "DivergenceError",
    "Position",
    "RevirtError",
    "__version__",
]
