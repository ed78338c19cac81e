"""JSON and base64 from somebody else: read strictly, and every complaint is a SealError.

Rules:
- The size is looked at before anything is parsed.
- No name twice in an object, no number that JSON has not, no more levels than a manifest may have, and no text that is
  not Unicode.
- Base64 is of the standard or the URL-safe alphabet (RFC 4648, sections 4 and 5), padded, without white space,
  and the one text that its bytes have: two texts never mean the same.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from revirt.errors import SealError
from revirt.log import strict_json
from revirt.log.strict_json import NESTING_LIMIT, is_flat

Value = TypeVar("Value", str, int, bool, list[Any], dict[str, Any])

_STANDARD = str.maketrans("-_", "+/")


def read_object(data: bytes, what: str, limit: int) -> dict[str, Any]:
    """Return the JSON object *data*, which is called *what*; raises SealError if it is none, or over *limit* bytes."""
    if len(data) > limit:
        raise SealError(f"{what} of {len(data)} bytes; none has more than {limit}")
    try:
        found = strict_json.read(data)
    except ValueError as error:
        raise SealError(f"{what} is not JSON: {error}") from error
    if type(found) is not dict:
        raise SealError(f"{what} is not a JSON object")
    if not is_flat(found):
        raise SealError(f"{what} has more than {NESTING_LIMIT} levels of objects and lists")
    return found


def get(values: Mapping[str, Any], name: str, kind: type[Value], what: str) -> Value:
    """Return the field *name* of *values*, of *what*; raises SealError if it is missing or not a *kind*."""
    value = values.get(name)
    if type(value) is not kind:
        raise SealError(f"{what}: {name!r} is missing or not {_NAMES[kind]}")
    if isinstance(value, str):
        _check_text(value, f"{what}: {name!r}")
    return value


def get_number(values: Mapping[str, Any], name: str, what: str, *, below: int) -> int:
    """Return the whole number *name* of *values*, of *what*; raises SealError unless it is 0 to under *below*."""
    number = get(values, name, int, what)
    if not 0 <= number < below:
        raise SealError(f"{what}: {name!r} is out of range")
    return number


def get_bytes(values: Mapping[str, Any], name: str, what: str, *, size: int | None = None) -> bytes:
    """Return the bytes whose base64 is the field *name* of *values*, of *what*.

    Raises SealError if they are not, or not *size* bytes where that is given.
    """
    data = decode_bytes(get(values, name, str, what), f"{what}: {name!r}")
    if size is not None and len(data) != size:
        raise SealError(f"{what}: {name!r} is {len(data)} bytes, not {size}")
    return data


def check_written(payload: bytes, again: bytes, time: str, what: str) -> None:
    """Raise SealError unless *payload* of *what* is *again*, what revirt writes of it, and *time* is ISO 8601."""
    if again != payload:
        raise SealError(f"{what}: not as revirt writes one")
    try:
        datetime.fromisoformat(time)
    except ValueError as error:
        raise SealError(f"{what}: {error}") from error


def encode_bytes(data: bytes) -> str:
    """Return *data* as base64."""
    return b64encode(data).decode()


def decode_bytes(text: str, what: str) -> bytes:
    """Return the bytes that *text*, which is called *what*, is the base64 of; raises SealError."""
    standard = text.translate(_STANDARD)
    try:
        data = b64decode(standard, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SealError(f"{what} is not base64: {error}") from error
    if b64encode(data) != standard.encode():
        raise SealError(f"{what} is not base64 as its bytes have it")
    return data


_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SealError(f"{what} is not Unicode") from error
