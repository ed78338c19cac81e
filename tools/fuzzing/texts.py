"""Forged manifests and other JSON: any value put for any other, in ways that Python's own writer does not know."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

from fuzzing.changes import Change
from fuzzing.forgery import NotForgedError, replaced
from revirt.log.frame import check_of

_CHECK = re.compile(rb"\"check\": *\"[^\"]*\"")
_MARK = "\N{SNOWMAN}%d\N{SNOWMAN}"
_TEXTS = (
    *("1e999", "-1e999", "-0", "1E400", "0.1e-5000", "123456789012345678901234567890", "9" * 5000, "NaN"),
    *("[" * 300 + "]" * 300, "[" * 900 + "]" * 900, "[" * 5000 + "]" * 5000, '{"":' * 400 + "0" + "}" * 400),
    *(
        '"\\ud800"',
        '"\\udfff\\ud800"',
        '"\\u0000"',
        '"\\u202e"',
        "[[[[]]]]",
        '{"a":1,"a":2}',
        "[" + "[]," * 9999 + "[]]",
    ),
)
"""Values that can be written, but not by whom one would expect."""


def forge_manifest(data: bytes, rng: Random, change: Change) -> bytes:
    """Change a manifest, and make its check right again."""
    plain = _parse(data)
    plain.pop("check", None)
    changed, texts = _changed(plain, rng, change)
    try:
        text = _filled(json.dumps(changed, indent=rng.choice((None, 2))), texts)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotForgedError(str(error)) from error
    return f'{text.rstrip()[:-1]}, "check": "{_check(text)}"}}'.encode()


def _check(text: str) -> str:
    """Return the check of the manifest *text*, as far as there is one."""
    try:
        canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return ""
    return check_of(canonical.encode()).hex()


def forge_json(data: bytes, rng: Random, change: Change) -> bytes:
    """Change a JSON object that has no check."""
    changed, texts = _changed(_parse(data), rng, change)
    try:
        text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
        return _filled(text, texts).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotForgedError(str(error)) from error


def _parse(data: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotForgedError(str(error)) from error
    if not isinstance(plain, dict):
        raise NotForgedError("not an object")
    return plain


def _changed(plain: dict[str, Any], rng: Random, change: Change) -> tuple[dict[str, Any], list[str]]:
    """Return *plain*, changed, with marks in it where the texts that are returned with it belong."""
    texts: list[str] = []
    for _ in range(rng.choice((1, 1, 2))):
        plain = _with_mark(plain, rng, texts) if rng.random() < 0.2 else replaced(plain, rng, change)
        if not isinstance(plain, dict):
            raise NotForgedError("not an object any more")
    return plain, texts


def _with_mark(plain: Any, rng: Random, texts: list[str]) -> Any:
    if isinstance(plain, dict) and plain and rng.random() < 0.9:
        key = rng.choice(sorted(plain))
        return {**plain, key: _with_mark(plain[key], rng, texts)}
    texts.append(rng.choice(_TEXTS))
    return _MARK % (len(texts) - 1)


def _filled(text: str, texts: list[str]) -> str:
    for place, value in enumerate(texts):
        text = text.replace(json.dumps(_MARK % place), value)
    return text


def reseal_manifest(data: bytes) -> bytes:
    """Return the manifest *data*, changed blindly, with its check made right if it is still JSON."""
    try:
        plain = _parse(data)
        plain.pop("check", None)
        check = _check(json.dumps(plain))
    except (NotForgedError, ValueError, RecursionError):
        return data
    return _CHECK.sub(b'"check": "%s"' % check.encode(), data)
