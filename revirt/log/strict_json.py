"""JSON that may come from anybody, and the one form in which it is hashed or signed.

Rules:
- What was read can be written again: no NaN, no number that is too large for that.
- No name stands in an object twice: readers would differ about which counts.
"""

from __future__ import annotations

import json
import math
from typing import Any

NESTING_LIMIT = 32
"""Most levels of objects and lists: whoever walks over them need not mind the interpreter's stack."""


def read(data: bytes) -> Any:
    """Return what the JSON *data* holds; raises ValueError if it is none: a JSONDecodeError, if the place is known."""
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_doubles,
        )
    except RecursionError as error:
        raise ValueError(str(error)) from error


def write_canonical(value: Any) -> bytes:
    """Return *value* as JSON: names sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def is_flat(plain: dict[str, Any]) -> bool:
    """Return whether *plain* has no more levels than ``NESTING_LIMIT``, itself being the first."""
    level: list[Any] = [plain]
    for _ in range(NESTING_LIMIT):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if not level:
            return True
    return False


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is too large a number")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in an object twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
