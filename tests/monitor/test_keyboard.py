"""Keys to scan codes of set 2; what they mean to a guest is checked through the i8042's translation to set 1."""

from __future__ import annotations

import pytest

from revirt.machine.i8042 import DATA, I8042
from revirt.monitor.keyboard import KEYS, Keysyms, chord, make, release, typed, typed_in_terminal

SHIFT_L, CONTROL_L, CAPS_LOCK, ALT_GR = 0xFFE1, 0xFFE3, 0xFFE5, 0xFE03
CHARACTERS = "".join(map(chr, range(0x20, 0x7F)))


def set_1(codes: bytes) -> bytes:
    """Return what a guest reads from the controller when the keyboard sends *codes*."""
    controller = I8042(lambda level: None, lambda level: None, lambda: None)
    assert controller.press(codes) == len(codes)
    read = bytearray()
    while controller.read(1, 1) & 0x01:
        read.append(controller.read(DATA, 1))
    return bytes(read)


def test_a_letter_is_pressed_and_let_go() -> None:
    assert typed("a") == b"\x1c\xf0\x1c"
    assert set_1(typed("a")) == b"\x1e\x9e"


def test_a_capital_comes_with_shift() -> None:
    assert set_1(typed("A")) == b"\x2a\x1e\x9e\xaa"


def test_a_line_ends_with_enter() -> None:
    assert set_1(typed("\n")) == b"\x1c\x9c"


def test_keys_are_where_linux_has_them() -> None:
    # Set 1 codes of the keys up to 0x53 are Linux's key codes (include/uapi/linux/input-event-codes.h).
    expected = {
        "esc": 1, "1": 2, "0": 11, "-": 12, "=": 13, "backspace": 14, "tab": 15, "q": 16, "p": 25, "[": 26, "]": 27,
        "enter": 28, "ctrl": 29, "a": 30, "l": 38, ";": 39, "'": 40, "`": 41, "shift": 42, "\\": 43, "z": 44, "m": 50,
        ",": 51, ".": 52, "/": 53, "right-shift": 54, "keypad-multiply": 55, "alt": 56, " ": 57, "caps-lock": 58,
        "f1": 59, "f10": 68, "num-lock": 69, "scroll-lock": 70, "keypad-subtract": 74, "keypad-add": 78,
        "f11": 87, "f12": 88,
    }  # fmt: skip

    assert {key: set_1(make(key))[0] for key in expected} == expected
    assert set_1(make("up")) == b"\xe0\x48"
    assert set_1(make("delete")) == b"\xe0\x53"


@pytest.mark.parametrize("key", sorted(KEYS))
def test_what_is_pressed_is_let_go(key: str) -> None:
    pressed, let_go = set_1(make(key)), set_1(release(key))

    if key == "pause":
        assert pressed == bytes.fromhex("e11d45e19dc5")
        assert let_go == b""
    elif key == "print":
        assert (pressed, let_go) == (bytes.fromhex("e02ae037"), bytes.fromhex("e0b7e0aa"))
    else:
        assert let_go == pressed[:-1] + bytes((pressed[-1] | 0x80,))


def test_every_ascii_character_has_a_key_of_its_own() -> None:
    assert len({typed(char) for char in CHARACTERS}) == len(CHARACTERS)


def test_what_a_us_keyboard_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="a US keyboard has no 'ü'"):
        typed("für")


def test_keys_are_pressed_together_and_let_go_in_the_opposite_order() -> None:
    assert set_1(chord("ctrl-alt-delete")) == bytes.fromhex("1d 38 e053 e0d3 b8 9d")


@pytest.mark.parametrize(
    ("text", "first"),
    [("page-up", "e049"), ("ctrl--", "1d0c"), ("-", "0c"), ("Ctrl-C", "1d2e"), ("del", "e053")],
)
def test_names_may_have_the_sign_that_joins_them(text: str, first: str) -> None:
    assert set_1(chord(text)).hex().startswith(first)


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-nope", "-".join("a" * 9), "nope", "ü", " "])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="key"):
        chord(text)


def test_a_keysym_goes_down_and_up() -> None:
    keys = Keysyms()

    assert set_1(keys.press(ord("a"), True)) == b"\x1e"
    assert set_1(keys.press(ord("a"), True)) == b"\x1e"  # it repeats
    assert set_1(keys.press(ord("a"), False)) == b"\x9e"
    assert keys.press(ord("a"), False) == b""


def test_a_capital_with_shift_held_is_its_key_alone() -> None:
    keys = Keysyms()

    pressed = keys.press(SHIFT_L, True) + keys.press(ord("A"), True)
    # Shift was let go first, so that the key goes up under its other name.
    let_go = keys.press(SHIFT_L, False) + keys.press(ord("a"), False)

    assert set_1(pressed) == b"\x2a\x1e"
    assert set_1(let_go) == b"\xaa\x9e"


def test_a_character_that_is_elsewhere_on_the_typists_keyboard_is_still_that_character() -> None:
    keys = Keysyms()

    # A slash is Shift and 7 in Germany; an @ is AltGr and q.
    slash = keys.press(SHIFT_L, True) + keys.press(ord("/"), True)
    keys.release_all()
    at = keys.press(ALT_GR, True) + keys.press(ord("@"), True)

    assert set_1(slash) == bytes.fromhex("2a aa 35 2a")
    assert set_1(at) == bytes.fromhex("2a 03 aa")


def test_capitals_of_a_typist_with_caps_lock_are_capitals() -> None:
    keys = Keysyms()

    assert keys.press(CAPS_LOCK, True) == b""
    assert set_1(keys.press(ord("A"), True)) == bytes.fromhex("2a 1e aa")


def test_who_goes_away_leaves_no_key_pressed() -> None:
    keys = Keysyms()
    keys.press(CONTROL_L, True)
    keys.press(ord("c"), True)

    assert set_1(keys.release_all()) == bytes.fromhex("9d ae")
    assert keys.release_all() == b""


@pytest.mark.parametrize("keysym", [0, 7, 0x7F, 0xFF, 0x100020AC, 0x0100FFFF, 0xFFFFFFFF, 0xFE00])
def test_keysyms_that_no_key_has_send_nothing(keysym: int) -> None:
    keys = Keysyms()

    assert keys.press(keysym, True) == b""
    assert keys.release_all() == b""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a", typed("a")),
        (b"\r", chord("enter")),
        (b"\x7f", chord("backspace")),
        (b"\x1b", chord("esc")),
        (b"\x03", chord("ctrl-c")),
        (b"\x00", chord("ctrl-space")),
        (b"\x1c", chord("ctrl-\\")),
        (b"\x1b[A", chord("up")),
        (b"\x1bOA", chord("up")),
        (b"\x1b[3~", chord("delete")),
        (b"\x1b[24~", chord("f12")),
        (b"\x1bOP", chord("f1")),
        (b"\x1b[1;5C", chord("ctrl-right")),
        (b"\x1b[Z", chord("shift-tab")),
        (b"\x1bx", chord("alt-x")),
        (b"\x1b[A\x1b[B", chord("up") + chord("down")),
        (b"\xc3\xbc", b""),
        (b"\x1b[99~", b""),
    ],
)
def test_what_a_terminal_sends_becomes_the_keys_that_made_it(data: bytes, expected: bytes) -> None:
    codes = typed_in_terminal(data)

    assert codes == expected
