from __future__ import annotations

import io
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import GuestError, ScriptError
from revirt.monitor.script import Expect, Quit, Script, ScriptedConsole, Send, Timeout
from revirt.render import escape

GUESTS = Path(__file__).parents[2] / "guests"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def console(text: str, clock: Clock | None = None) -> ScriptedConsole:
    return ScriptedConsole(Script.parse(text, "s.txt"), now=clock or Clock())


def test_a_script_is_parsed_line_by_line() -> None:
    script = Script.parse('# log in\n\n  timeout 2.5\nexpect "login: "  # wait\nsend "root\\n"\r\nquit\n')

    assert script.commands == (
        Timeout(3, 2.5),
        Expect(4, b"login: "),
        Send(5, b"root\n"),
        Quit(6),
    )


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (r"\a\b\f\n\r\t\v\e", b"\a\b\f\n\r\t\v\x1b"),
        (r"\\ \" \' \?", b"\\ \" ' ?"),
        (r"\0\7\101\x41f\xff", b"\x00\x07AAf\xff"),
        ("# not a comment", b"# not a comment"),
        ("é", "é".encode()),
    ],
)
def test_texts_take_the_escapes_of_c(text: str, data: bytes) -> None:
    assert Script.parse(f'send "{text}"').commands == (Send(1, data),)


@given(data=st.binary(min_size=1, max_size=60))
def test_what_is_shown_of_bytes_can_be_put_into_a_script(data: bytes) -> None:
    assert Script.parse(f'send "{escape(data)}"').commands == (Send(1, data),)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('expect "a"\nsned "b"', 2, "no command is called 'sned'"),
        ("expect prompt", 1, "double quotes"),
        ("\n\nsend", 3, "double quotes"),
        ('expect ""', 1, "not empty"),
        ('send "open', 1, "malformed"),
        ('send "a" "b"', 1, "malformed"),
        (r'send "\q"', 1, r"unknown escape \q"),
        (r'send "\x1"', 1, r"unknown escape \x"),
        (r'send "\777"', 1, "more than a byte"),
        ("timeout soon", 1, "number of seconds"),
        ("timeout nan", 1, "number of seconds"),
        ("timeout -1", 1, "number of seconds"),
        ("quit now", 1, "quit takes nothing"),
        ('quit\nsend "x"', 2, "nothing can follow quit"),
        ("# nothing\n", 1, "does nothing"),
    ],
)
def test_a_wrong_line_is_named(text: str, line: int, problem: str) -> None:
    with pytest.raises(ScriptError, match=r"s\.txt") as caught:
        Script.parse(text, "s.txt")

    assert caught.value.line == line
    assert problem in str(caught.value)


@given(text=st.text(alphabet='expectsndquit "\\#\n\t09a', max_size=80))
def test_any_text_is_a_script_or_a_script_error(text: str) -> None:
    with suppress(ScriptError):
        Script.parse(text)


def test_a_script_that_is_not_there_is_a_guest_error(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"none\.txt: cannot read the script"):
        Script.load(tmp_path / "none.txt")


def test_a_script_that_is_not_text_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b'expect "a"\nsend "\xff"\n')

    with pytest.raises(ScriptError, match="not UTF-8") as caught:
        Script.load(path)

    assert caught.value.line == 2


@pytest.mark.parametrize("path", sorted(GUESTS.glob("*/*script*")), ids=lambda path: path.parent.name)
def test_the_scripts_of_the_bundled_guests_parse(path: Path) -> None:
    assert Script.load(path).commands


def test_a_match_makes_the_answer_pending_at_once() -> None:
    typist = console('expect "login: "\nsend "root\\n"\nsend "x"\nexpect "# "')

    typist.transmitted(b"debian log")
    assert not typist.pending
    assert typist.take() == b""

    typist.transmitted(b"in: ")
    assert typist.pending
    assert typist.take() == b"root\nx"
    assert not typist.pending


@given(cuts=st.lists(st.integers(0, 26), max_size=8))
def test_how_output_is_cut_does_not_matter(cuts: list[int]) -> None:
    output = b"aab aaab login: ababab end"
    typist = console('expect "aaab"\nsend "1"\nexpect "abab"\nsend "2"\nexpect "b end"\nquit')
    edges = [0, *sorted(cuts), len(output)]

    for start, end in pairwise(edges):
        typist.transmitted(output[start:end])

    assert typist.take() == b"12"
    assert typist.finished == "script ended"


def test_an_expect_matches_only_after_the_previous_match() -> None:
    typist = console('expect "ok"\nexpect "ok"\nsend "x"')

    typist.transmitted(b"ok\n")
    assert not typist.pending

    typist.transmitted(b"ok\n")
    assert typist.pending


def test_quit_ends_the_run_once_everything_is_typed() -> None:
    typist = console('expect "> "\nsend "bye\\n"\nquit')

    typist.transmitted(b"> ")
    assert typist.finished is None

    typist.take()
    assert typist.finished == "script ended"


def test_after_a_last_expect_the_guest_may_finish_until_it_idles() -> None:
    typist = console('expect "done"')

    typist.transmitted(b"done, exit code follows")
    assert typist.finished is None

    typist.wait(0)
    assert typist.finished == "script ended"


def test_after_a_last_expect_a_guest_that_stays_busy_is_ended() -> None:
    clock = Clock()
    typist = console('expect "done"', clock)
    typist.transmitted(b"done")

    clock.now += 2

    assert typist.finished == "script ended"
    assert not typist.pending


def test_after_a_last_send_the_guest_has_to_end_by_itself() -> None:
    clock = Clock()
    typist = console('expect "# "\nsend "poweroff\\n"', clock)
    typist.transmitted(b"# ")
    typist.take()
    typist.wait(0)
    assert typist.finished is None

    clock.now += 60

    with pytest.raises(ScriptError, match=r"s\.txt:2: the guest runs on 60 s after the last line") as caught:
        typist.take()
    assert "quit" in caught.value.hint


def test_a_time_out_names_the_line_and_what_the_guest_said_last() -> None:
    clock = Clock()
    typist = console('timeout 5\nexpect "login: "', clock)
    typist.transmitted(b"Booting\r\nKernel panic\x1b[0m\r\n\r\n")

    clock.now += 5

    assert typist.pending
    with pytest.raises(
        ScriptError, match=r's\.txt:2: timed out: "login: " did not come within 5 s'
    ) as caught:
        typist.take()
    assert caught.value.hint == r'the guest said last: "Kernel panic\x1b[0m"'


def test_each_match_starts_the_time_out_again() -> None:
    clock = Clock()
    typist = console('timeout 5\nexpect "a"\nexpect "b"', clock)

    clock.now += 4
    typist.transmitted(b"a")
    clock.now += 4

    assert not typist.pending


def test_waiting_ends_when_the_time_out_is_due() -> None:
    clock = Clock()
    typist = console('timeout 0.01\nexpect "a"', clock)

    typist.wait(None)
    clock.now += 0.01

    assert typist.pending


def test_what_the_guest_sends_reaches_the_output() -> None:
    out = io.BytesIO()
    typist = ScriptedConsole(Script.parse('expect "x"'), out)

    typist.transmitted(b"abc\x00")

    assert out.getvalue() == b"abc\x00"


def test_a_guest_that_floods_the_line_is_not_kept_in_memory() -> None:
    typist = console('expect "never"')

    for _ in range(100):
        typist.transmitted(b"neve" * 10_000)

    assert len(typist._unmatched) < len(b"never")
    assert len(typist._recent) <= 1024
