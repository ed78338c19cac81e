"""The full screen, driven through a real terminal."""

from __future__ import annotations

import asyncio
import re
import signal
import termios
import threading
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from xml.etree import ElementTree

import pytest
from library import RecordingOf
from terminal import TIMEOUT_S, USUAL_MODES, Terminal
from textual.pilot import Pilot

from revirt.cli import main
from revirt.debugger import Session
from revirt.debugger.commands import Table
from revirt.debugger.screen.app import Debugger, run_screen
from revirt.debugger.screen.keys import KEYS
from revirt.debugger.table import TABLE
from revirt.recording import Recording

SMALL, LARGE = (80, 24), (160, 48)
UP, ESCAPE, CTRL_C, CTRL_R = "\x1b[A", "\x1b", "\x03", "\x12"


@pytest.fixture
def terminal(attack: Recording) -> Iterator[Terminal]:
    with Terminal(attack, *SMALL) as terminal:
        yield terminal


def at_grant(terminal: Terminal) -> None:
    """Bring it to where the attacker has what he wants."""
    terminal.type("/execute grant\r")
    terminal.wait_for(lambda screen: "grant" in screen.status and "=> 0010012e" in screen.text)
    terminal.wait_for("eip 0010012e*")


def test_a_small_terminal_shows_code_registers_and_one_other_pane(terminal: Terminal) -> None:
    at_grant(terminal)

    assert "=> 0010012e push ebp" in terminal.text
    assert "memory: sp" in terminal.text
    assert "─ console" not in terminal.text
    # What was executed before stands above, what will be below: the code came here by a jump.
    assert re.search(r"\n.*\+1 0010012f mov ebp, esp", terminal.text)


def test_a_large_terminal_shows_all_panes(attack: Recording) -> None:
    with Terminal(attack, *LARGE) as terminal:
        terminal.type("G")
        terminal.wait_for("pwnd# halt")

        for pane in ("code", "registers", "memory: sp", "console", "stack", "events"):
            assert f"╭─ {pane}" in terminal.text
        assert "the guest ended" in terminal.text
        assert "efer" in terminal.text


def test_a_terminal_may_change_its_size(terminal: Terminal) -> None:
    terminal.resize(*LARGE)
    terminal.wait_for("╭─ events")

    terminal.resize(*SMALL)
    terminal.wait_for(lambda screen: "╭─ events" not in screen.text and "╭─ memory" in screen.text)


def test_steps_go_there_and_back(terminal: Terminal) -> None:
    at_grant(terminal)
    there = terminal.position

    terminal.type("s")
    terminal.wait_for("=> 0010012f")
    terminal.type("S")
    terminal.wait_for("=> 0010012e")

    assert terminal.position == there


def test_who_overwrote_the_return_address_is_found_by_keys_alone(terminal: Terminal) -> None:
    terminal.type("/execute &line+0xd\r")
    terminal.wait_for("<line+0xd>")
    terminal.type("S")
    terminal.wait_for(lambda screen: "ret" in screen.status)
    terminal.type("\\write sp 4\r")

    terminal.wait_for("code: 0x100107 <greet+0xb>")
    terminal.wait_for(lambda screen: "is written" in screen.status)


def test_keys_go_through_history_events_and_ends(terminal: Terminal) -> None:
    terminal.type("G")
    terminal.wait_for(lambda screen: screen.position == "2408:3")
    terminal.type("g")
    terminal.wait_for(lambda screen: screen.position == "0:0")
    terminal.type("]")
    terminal.wait_for(lambda screen: screen.position not in ("0:0", "2408:3"))
    there = terminal.position
    terminal.type("u")
    terminal.wait_for(lambda screen: screen.position == "0:0")
    terminal.type(CTRL_R)
    terminal.wait_for(lambda screen: screen.position == there)


def test_a_bookmark_is_on_the_bar_and_leads_back(terminal: Terminal) -> None:
    at_grant(terminal)
    terminal.type("mtakeover by the typed code\r")
    terminal.wait_for("bookmark takeover at")
    terminal.type("g")
    terminal.wait_for("◆")
    terminal.type("'take\t\r")

    terminal.wait_for("code: 0x10012e <grant>")
    terminal.wait_for(lambda screen: "by the typed code" in screen.status)


def test_the_command_line_completes_and_remembers(terminal: Terminal) -> None:
    terminal.type(":break gra\t")
    terminal.wait_for("break grant")
    terminal.type("\r")
    terminal.wait_for("breakpoint 1: execute")
    terminal.type(":" + UP)
    terminal.wait_for(lambda screen: screen.status == "break grant")
    terminal.type(ESCAPE)
    terminal.wait_for(lambda screen: "break grant" not in screen.status)
    terminal.type("c")
    terminal.wait_for("breakpoint 1 ")

    assert "●" in terminal.text


def test_the_panes_below_take_turns(terminal: Terminal) -> None:
    terminal.type("G")
    for key, title in (("3", "╭─ console"), ("4", "╭─ events"), ("2", "╭─ stack"), ("1", "╭─ memory")):
        terminal.type(key)
        terminal.wait_for(title)
    terminal.type("\t")
    terminal.wait_for("╭─ stack")


def test_memory_follows_an_expression_and_scrolls(terminal: Terminal) -> None:
    terminal.type("G")
    terminal.type("x&line\r")
    terminal.wait_for("╭─ memory: &line")
    terminal.wait_for("00101020  68 61 6c 74 00")
    terminal.type("\x1b[B")

    terminal.wait_for("╭─ memory: &line")
    terminal.wait_for(lambda screen: "00101020 " not in screen.text)


def test_a_long_answer_lies_over_the_panes_until_it_is_closed(terminal: Terminal) -> None:
    terminal.type(":bookmarks\r")
    terminal.wait_for("no bookmarks")
    terminal.type(":registers\r")
    terminal.wait_for("Esc closes")

    terminal.type("q")

    terminal.wait_for(lambda screen: "Esc closes" not in screen.text and "╭─ code" in screen.text)


def test_help_lists_keys_and_commands(attack: Recording) -> None:
    with Terminal(attack, 120, 120) as terminal:
        terminal.type("?")
        terminal.wait_for("Esc closes")

        assert [key.label for key in KEYS if f"{key.label:<7} {key.summary}" not in terminal.text] == []
        assert [each.name for each in TABLE.commands if each.title not in terminal.text] == []


def test_what_is_wrong_is_said_and_nothing_else_happens(terminal: Terminal) -> None:
    terminal.type(":seek nowhere\r")
    terminal.wait_for("names no point of a recording")

    assert terminal.position == "0:0"


def test_without_colour_all_is_said_by_marks(attack: Recording) -> None:
    with Terminal(attack, *SMALL, colour=False) as terminal:
        at_grant(terminal)

        assert "*" in terminal.text
        assert "=> 0010012e" in terminal.text


@pytest.mark.parametrize("size", [SMALL, (131, 30), LARGE], ids=str)
def test_a_click_at_the_bar_goes_to_that_column(attack: Recording, size: tuple[int, int]) -> None:
    with Terminal(attack, *size) as terminal:
        # The bar has a column less on either side.
        for column in (size[0] // 2, 2, size[0] - 3, size[0] // 3, 1):
            terminal.click(column, 2)
            terminal.wait_for(lambda screen, column=column: screen.line(2).find("▲") == column)

        assert terminal.position == "0:0"
        terminal.click(size[0] - 2, 1)
        terminal.wait_for("2408:3")


def test_a_click_at_a_bookmark_in_the_bar_goes_to_it(terminal: Terminal) -> None:
    at_grant(terminal)
    there = terminal.position
    terminal.type("mtakeover\r")
    terminal.wait_for("bookmark takeover at")
    terminal.type("g")
    terminal.wait_for("◆")

    terminal.click(terminal.line(2).index("◆"), 2)

    terminal.wait_for(lambda screen: screen.position == there)


def test_a_click_at_an_event_goes_to_it(attack: Recording) -> None:
    with Terminal(attack, *LARGE) as terminal:
        for kind in ("received", "transmitted"):
            line = next(number for number in range(LARGE[1]) if f" {kind} " in terminal.line(number))
            terminal.click(LARGE[0] - 20, line)
            # What is sent has come behind the event, which stands in the line above that of the next one.
            terminal.wait_for(lambda screen, kind=kind: re.search(rf" {kind} .*\n.*│ > ", screen.text))
            terminal.type("g")
            terminal.wait_for(lambda screen: screen.position == "0:0" and "code: 0x100284" in screen.text)


def test_a_click_at_what_lies_below_or_at_nothing_does_nothing(terminal: Terminal) -> None:
    terminal.type("3?")
    terminal.wait_for("Esc closes")
    terminal.click(40, 2)
    terminal.type(ESCAPE)
    terminal.wait_for(lambda screen: "Esc closes" not in screen.text)
    terminal.click(40, 20)
    terminal.click(40, 23)
    terminal.type("s")
    terminal.wait_for(lambda screen: screen.position != "0:0")

    assert terminal.position == "1:1"


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_left_as_it_was(terminal: Terminal, number: signal.Signals | None) -> None:
    assert terminal.modes != USUAL_MODES
    if number is None:
        terminal.type("q")
    else:
        terminal.kill(number)

    assert terminal.end() == (128 + number if number else 0)
    assert terminal.modes == USUAL_MODES
    assert terminal.attributes[0] & termios.ICRNL
    assert terminal.attributes[3] & (cooked := termios.ICANON | termios.ECHO | termios.ISIG) == cooked


@pytest.mark.debian
def test_debian_searches_go_on_while_the_screen_answers_and_end_by_ctrl_c(recording_of: RecordingOf) -> None:
    with Terminal(recording_of("debian"), *SMALL) as terminal:
        # Nobody does that, and to look out for it takes seconds.
        terminal.type("/access 0x10 8\r")
        terminal.wait_for("Ctrl-C ends a search")
        terminal.type("4")
        terminal.wait_for("╭─ events")
        terminal.type("?")
        # All of it: an escape with something right behind it is another key.
        terminal.wait_for("Esc closes")
        terminal.type(ESCAPE)
        terminal.wait_for(lambda screen: "Esc closes" not in screen.text and "╭─ events" in screen.text)
        terminal.type(CTRL_C)
        terminal.wait_for(lambda screen: "interrupted" in screen.status)
        there = terminal.position
        assert there != "0:0"

        terminal.type("s")
        terminal.wait_for(lambda screen: screen.position != there)
        terminal.type("S")
        terminal.wait_for(lambda screen: screen.position == there)
        terminal.type("q")
        assert terminal.end() == 0


@pytest.mark.debian
def test_debian_can_be_left_while_a_search_is_on(recording_of: RecordingOf) -> None:
    with Terminal(recording_of("debian"), *LARGE) as terminal:
        terminal.type("/access 0x10 8\r")
        terminal.wait_for("Ctrl-C ends a search")
        terminal.type("q")

        assert terminal.end() == 0


def test_what_nothing_expected_is_shown_and_no_success(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> str:
        raise ZeroDivisionError("a mistake of ours")

    async def press(pilot: Pilot[int]) -> None:
        await pilot.press("G")

    monkeypatch.setattr(Table, "run", fail)
    monkeypatch.setattr(Debugger, "run", partialmethod(Debugger.run, headless=True, auto_pilot=press))

    assert run_screen(session) == 1
    assert "a mistake of ours" in capsys.readouterr().err


def test_leaving_ends_a_search_that_is_only_about_to_begin(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    begins, heard = threading.Event(), threading.Event()

    def interrupt() -> None:
        told.append(True)
        if len(told) == 5:
            heard.set()

    def search(*_: object) -> str:
        begins.set()
        # What came before it has begun is not for it.
        return "interrupted" if heard.wait(TIMEOUT_S / 10) else "to the end of the recording"

    async def leave() -> None:
        app = Debugger(session)
        async with app.run_test() as pilot:
            app.execute("continue")
            while not begins.is_set():
                await pilot.pause(0.01)
            await pilot.press("q")

    monkeypatch.setattr(session, "interrupt", interrupt)
    monkeypatch.setattr(Table, "run", search)
    asyncio.run(leave())

    assert heard.is_set()


def test_a_screenshot_is_a_picture_that_fetches_nothing(attack: Recording, tmp_path: Path) -> None:
    picture = tmp_path / "screen.svg"

    status = main(
        [
            "debug",
            str(attack.path),
            "--screenshot",
            str(picture),
            "--size",
            "100x30",
            "-e",
            "search execute grant",
        ]
    )

    assert status == 0
    text = picture.read_text()
    assert "".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ").count("push ebp") == 2
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    # Most of it has one background.
    assert text.count(re.findall(r'<rect fill="(#\w+)" width="100%"', text)[0]) < 30
    assert len(text) < 30_000


def test_a_screenshot_of_no_size_is_refused(attack: Recording, tmp_path: Path) -> None:
    for size in ("0x0", "80", "axb", "9999x10"):
        assert main(["debug", str(attack.path), "--screenshot", str(tmp_path / "a.svg"), "--size", size]) == 2
    assert main(["debug", str(attack.path), "--plain", "--size", "80x24"]) == 2
