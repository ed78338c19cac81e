"""A PC's keyboard with a US layout: what text, names of keys and X11 keysyms send, in scan code set 2.

A key sends its code when it is pressed, and 0xF0 and its code when it is let go; those that the first PC had not send
0xE0 before that (IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)", "Scan Code Set 2").
Keysyms, by which X11 and RFB name keys, are those of the X Window System Protocol, appendix A.

Rules:
- Whatever is pressed is let go: `Keysyms.release_all` does so when whoever typed goes away.
- Caps Lock and Num Lock are the typist's affair: a capital comes with Shift, a digit from the upper row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_BREAK = b"\xf0"
_EXTENDED = 0xE0

_PLAIN = "`1234567890-=qwertyuiop[]\\asdfghjkl;'zxcvbnm,./ "
_SHIFTED = '~!@#$%^&*()_+QWERTYUIOP{}|ASDFGHJKL:"ZXCVBNM<>? '
_PLAIN_CODES = bytes.fromhex(
    "0e 16 1e 26 25 2e 36 3d 3e 46 45 4e 55 15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5d"
    "1c 1b 23 2b 34 33 3b 42 4b 4c 52 1a 22 21 2a 32 31 3a 41 49 4a 29"
)

_NAMED = {
    "esc": "76", "tab": "0d", "enter": "5a", "backspace": "66", "space": "29",
    "shift": "12", "ctrl": "14", "alt": "11", "super": "e01f", "menu": "e02f",
    "right-shift": "59", "right-ctrl": "e014", "right-alt": "e011", "right-super": "e027",
    "caps-lock": "58", "num-lock": "77", "scroll-lock": "7e", "pause": "e11477e1f014f077", "print": "e012e07c",
    "insert": "e070", "home": "e06c", "page-up": "e07d", "delete": "e071", "end": "e069", "page-down": "e07a",
    "up": "e075", "left": "e06b", "down": "e072", "right": "e074",
    "f1": "05", "f2": "06", "f3": "04", "f4": "0c", "f5": "03", "f6": "0b",
    "f7": "83", "f8": "0a", "f9": "01", "f10": "09", "f11": "78", "f12": "07",
    "keypad-enter": "e05a", "keypad-divide": "e04a", "keypad-multiply": "7c", "keypad-subtract": "7b",
    "keypad-add": "79",
}  # fmt: skip
_ALIASES = {
    "del": "delete",
    "return": "enter",
    "escape": "esc",
    "ins": "insert",
    "pgup": "page-up",
    "pgdn": "page-down",
}

KEYS = {
    **{key: bytes((code,)) for key, code in zip(_PLAIN, _PLAIN_CODES, strict=True)},
    **{name: bytes.fromhex(code) for name, code in _NAMED.items()},
}
"""What each key sends when it is pressed, by its name: what is printed on it, unshifted, or a word."""

_OF_CHARACTER = {
    **{char: (char, False) for char in _PLAIN},
    **{char: (key, True) for key, char in zip(_PLAIN, _SHIFTED, strict=True) if key != " "},
    "\n": ("enter", False), "\r": ("enter", False), "\t": ("tab", False), "\b": ("backspace", False),
    "\x7f": ("backspace", False), "\x1b": ("esc", False),
}  # fmt: skip
"""The key of each character, and whether it takes Shift."""

_SHIFTS = ("shift", "right-shift")
_LONGEST_CHORD = 8

_KEYSYMS = {
    0xFF08: "backspace", 0xFF09: "tab", 0xFE20: "tab", 0xFF0D: "enter", 0xFF1B: "esc", 0xFFFF: "delete",
    0xFF13: "pause", 0xFF6B: "pause", 0xFF14: "scroll-lock", 0xFF61: "print", 0xFF67: "menu",
    0xFF50: "home", 0xFF51: "left", 0xFF52: "up", 0xFF53: "right", 0xFF54: "down", 0xFF55: "page-up",
    0xFF56: "page-down", 0xFF57: "end", 0xFF63: "insert",
    0xFFE1: "shift", 0xFFE2: "right-shift", 0xFFE3: "ctrl", 0xFFE4: "right-ctrl", 0xFFE7: "alt", 0xFFE8: "right-alt",
    0xFFE9: "alt", 0xFFEA: "right-alt", 0xFFEB: "super", 0xFFEC: "right-super",
    0xFF8D: "keypad-enter", 0xFF95: "home", 0xFF96: "left", 0xFF97: "up", 0xFF98: "right", 0xFF99: "down",
    0xFF9A: "page-up", 0xFF9B: "page-down", 0xFF9C: "end", 0xFF9E: "insert", 0xFF9F: "delete",
    0xFFAA: "keypad-multiply", 0xFFAB: "keypad-add", 0xFFAD: "keypad-subtract", 0xFFAE: ".", 0xFFAF: "keypad-divide",
    **{0xFFB0 + digit: str(digit) for digit in range(10)},
    **{0xFFBD + number: f"f{number}" for number in range(1, 13)},
}  # fmt: skip
_UNICODE = 0x0100_0000


def make(key: str) -> bytes:
    """Return what *key* sends when it is pressed; raises KeyError for no key."""
    return KEYS[key]


def release(key: str) -> bytes:
    """Return what *key* sends when it is let go: nothing for Pause, which does so when it is pressed."""
    if key == "pause":
        return b""
    if key == "print":
        return bytes.fromhex("e0f07ce0f012")
    code = KEYS[key]
    return code[:-1] + _BREAK + code[-1:]


def tap(keys: Sequence[str]) -> bytes:
    """Return what it sends to press *keys* one after the other, and let them go in the opposite order."""
    return b"".join(map(make, keys)) + b"".join(map(release, reversed(keys)))


def chord(text: str) -> bytes:
    """Return what it sends to press the keys that *text* names together: ``a``, ``enter``, ``ctrl-alt-delete``.

    Raises ValueError, saying why, if it names none.
    """
    names: list[str] = []
    rest = text.lower()
    while rest and len(names) < _LONGEST_CHORD:
        # The longest name first: there is page-up, and there are up and the minus sign.
        name = next((each for each in _CHORD_NAMES if _begins(rest, each)), None)
        if name is None:
            raise ValueError(f"{text!r}: no key is called {rest!r}")
        names.append(_ALIASES.get(name, name))
        rest = rest[len(name) + 1 :]
    if rest or not names:
        raise ValueError(f"{text!r} is not up to {_LONGEST_CHORD} keys, as in ctrl-alt-delete")
    return tap(names)


def _begins(rest: str, name: str) -> bool:
    """Return whether *rest* is *name*, or that and more keys."""
    return rest == name or (rest.startswith(name + "-") and len(rest) > len(name) + 1)


_CHORD_NAMES = sorted({*KEYS, *_ALIASES} - {" "}, key=len, reverse=True)


def typed(text: str) -> bytes:
    """Return what typing *text* sends; raises ValueError naming a character that a US keyboard does not have."""
    codes = []
    for char in text:
        if char not in _OF_CHARACTER:
            raise ValueError(f"a US keyboard has no {char!r}")
        key, is_shifted = _OF_CHARACTER[char]
        codes.append(tap(("shift", key) if is_shifted else (key,)))
    return b"".join(codes)


class Keysyms:
    """A keyboard whose keys somebody presses and lets go, each by its keysym."""

    def __init__(self) -> None:
        self._held: dict[str, None] = {}

    def press(self, keysym: int, is_down: bool) -> bytes:
        """Return what is sent when the key of *keysym* goes down or up; nothing for one that is not here."""
        key, is_shifted = self._key(keysym)
        if key is None:
            return b""
        if not is_down:
            return release(key) if self._held.pop(key, key) is None else b""
        self._held[key] = None
        held = [each for each in _SHIFTS if each in self._held]
        if is_shifted is None or is_shifted == bool(held):
            return make(key)
        # The typist's layout has the character elsewhere: Shift is as this one needs it, for this key alone.
        if is_shifted:
            return make("shift") + make(key) + release("shift")
        return b"".join(map(release, held)) + make(key) + b"".join(map(make, held))

    def release_all(self) -> bytes:
        """Return what is sent when all keys that are down are let go."""
        codes = b"".join(map(release, self._held))
        self._held.clear()
        return codes

    @staticmethod
    def _key(keysym: int) -> tuple[str | None, bool | None]:
        """Return the key of *keysym*, and whether it takes Shift; None if that does not matter."""
        if keysym in _KEYSYMS:
            return _KEYSYMS[keysym], None
        point = keysym - _UNICODE if keysym > _UNICODE else keysym
        return _OF_CHARACTER.get(chr(point), (None, None)) if 0x20 <= point < 0x7F else (None, None)


_SEQUENCE = re.compile(rb"\x1b(?:\[([0-9;]{0,8})([A-Za-z~])|O([A-Za-z])|([\x20-\x7e]))|(.)", re.DOTALL)
_FINALS = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end",
    "P": "f1", "Q": "f2", "R": "f3", "S": "f4",
}  # fmt: skip
_NUMBERS = {
    "1": "home", "2": "insert", "3": "delete", "4": "end", "5": "page-up", "6": "page-down", "7": "home", "8": "end",
    "11": "f1", "12": "f2", "13": "f3", "14": "f4", "15": "f5", "17": "f6", "18": "f7", "19": "f8", "20": "f9",
    "21": "f10", "23": "f11", "24": "f12",
}  # fmt: skip
_MODIFIERS = ((1, "shift"), (2, "alt"), (4, "ctrl"))


def typed_in_terminal(data: bytes) -> bytes:
    """Return what the keys send that made a terminal (xterm, ECMA-48) send *data*; nothing for what is no key.

    A control character is its letter with Ctrl, an escape before a character is Alt with it.
    """
    return b"".join(map(_codes, _SEQUENCE.finditer(data)))


def _codes(match: re.Match[bytes]) -> bytes:
    parameters, final, single, alted, plain = match.groups()
    if plain is not None:
        return _character(plain)
    if alted is not None:
        return make("alt") + _character(alted) + release("alt")
    number, _, modifier = (parameters or b"").decode().partition(";")
    name = (final or single).decode()
    key = _NUMBERS.get(number) if name == "~" else _FINALS.get(name)
    if name == "Z":
        return tap(("shift", "tab"))
    if key is None:
        return b""
    bits = int(modifier) - 1 if modifier.isdigit() else 0
    return tap([*(held for bit, held in _MODIFIERS if bits & bit), key])


def _character(char: bytes) -> bytes:
    text = char.decode("latin-1")
    if text in _OF_CHARACTER:
        return typed(text)
    if text < " ":
        letter = chr(ord(text) | 0x40).lower()
        return tap(("ctrl", "space" if letter == "@" else letter)) if letter in "@" + _PLAIN else b""
    return b""
