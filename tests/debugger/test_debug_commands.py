"""What commands do and say, on the recorded attack on `vuln`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from library import Library, RecordingOf

from revirt.debugger import TABLE, QuitError, Session
from revirt.errors import InterruptedSeekError, RevirtError, UsageError
from revirt.position import Position
from revirt.timeline import Timeline

GRANT = 0x10012E


@pytest.fixture
def run(session: Session) -> Callable[[str], str]:
    """Return what runs a command and returns the answer."""
    return lambda line: TABLE.run(session, line)


Run = Callable[[str], str]


# -- moving --------------------------------------------------------------------------------------------------------


def test_steps_there_and_back_come_to_where_they_began(session: Session, run: Run) -> None:
    run("seek 40%")
    before, pc = session.position, session.pc

    run("step 50")
    assert session.position != before
    run("step-back 50")

    assert (session.position, session.pc) == (before, pc)


def test_the_first_step_executes_the_first_instruction(session: Session, run: Run) -> None:
    assert "cli" in run("where")

    assert "cld" in run("step")


def test_who_overwrote_the_return_address_is_found(session: Session, run: Run) -> None:
    run("break grant")
    assert "breakpoint 1\n" in run("continue")
    assert session.pc == GRANT
    run("delete")
    # The CPU came here by way of the typed code, and into that by a return.
    run("search-back execute &line+0xd")
    run("step-back")
    assert "ret" in run("where")

    answer = run("search-back write sp 4")

    assert "greet" in answer
    assert "mov" in answer
    # The copy's last byte but one is the third of the address that the attacker wants.
    run("step")
    assert session.timeline.read(session.evaluate("edx"), 1)


def test_a_watchpoint_tells_what_was_there_and_what_is_now(run: Run) -> None:
    assert run("watch admin 4") == "breakpoint 1: write 0x101120 <admin>, 4 bytes"

    there = run("continue")
    assert "was 0x00000000, becomes 0x00000001" in there
    run("seek end")
    assert "was 0x00000000, becomes 0x00000001" in run("reverse-continue")


def test_next_goes_over_what_is_called(session: Session, run: Run) -> None:
    run("search execute main")
    while "call" not in run("where"):
        run("step")
    coming = session.instruction()
    assert coming is not None
    top = session.evaluate("sp")

    run("next")

    assert (session.pc, session.evaluate("sp")) == (coming.end, top)
    run("next-back")
    assert (session.pc, session.evaluate("sp")) == (coming.address, top)


def test_next_stops_at_a_breakpoint_inside_of_what_is_called(session: Session, run: Run) -> None:
    run("search execute main")
    run("break print")
    while "<print>" not in run("where"):
        run("step")

    assert "breakpoint 1\n" in run("next")
    assert session.pc == session.evaluate("&print")


def test_next_goes_to_where_a_function_returns_that_returns_elsewhere(session: Session, run: Run) -> None:
    # The attack has the return address of the last greet() overwritten.
    run("seek end")
    run("search-back execute greet")
    run("back-out")
    call = session.position
    assert "call" in run("where")

    run("next")

    line = session.evaluate("&line")
    assert line <= session.pc < line + 100
    run("next-back")
    assert session.position == call


def test_a_breakpoint_on_the_way_out_of_a_function_stops(session: Session, run: Run) -> None:
    run("search execute print")
    run("break put_char")
    assert "breakpoint 1\n" in run("finish")
    run("delete")
    assert "called here" in run("back-out")
    run("break print")

    assert "breakpoint 2\n" in run("back-out")
    assert session.pc == session.evaluate("&print")


def test_a_search_for_text_goes_to_where_it_has_been_printed(session: Session, run: Run) -> None:
    run("search console access granted")
    printed = session.position
    assert session.timeline.console(1000).endswith(b"root: access granted")

    run("seek end")
    assert "the guest prints root: access granted\n" in run("search-back console access granted")
    run("step")
    assert session.position == printed
    run("step-back")
    assert "begins here" in run("again")


def test_text_may_have_been_printed_in_pieces(session: Session, run: Run) -> None:
    # The prompt and what was typed at it are two events.
    run("search console vuln> help")
    there = session.position

    run("seek end")
    run("search-back console vuln> help")
    run("step")

    assert session.position == there
    assert session.timeline.console(10) == b"vuln> help"


def test_a_function_is_left_on_and_back(session: Session, run: Run) -> None:
    run("search execute print")
    assert "has returned" in run("finish")
    behind = session.pc
    assert "called here" in run("back-out")  # of the function that called it

    run("search execute print")
    run("next")
    assert "called here" in run("back-out")
    call = session.instruction()

    assert call is not None
    assert call.is_call
    assert call.end == behind


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("interrupt 0x24", "interrupt 0x24"),
        ("interrupt", "interrupt 0x"),
        ("console root: access", "the guest prints root: access"),
        ("event received", ": received"),
    ],
)
def test_what_is_searched_for_can_be_stopped_at(session: Session, run: Run, words: str, told: str) -> None:
    found = run(f"search {words}")
    there = session.position
    run("seek start")

    assert words.split()[0] in run(f"catch {words}")
    assert told in found
    assert run("continue") == found
    assert session.position == there


def test_the_last_search_goes_on_in_both_directions(session: Session, run: Run) -> None:
    places = []
    run("search event received")
    for _ in range(3):
        places.append(session.position)
        run("again")
    run("again-back")

    assert session.position == places[-1]
    assert places == sorted(set(places))


def test_events_are_stepped_through(session: Session, run: Run) -> None:
    run("event 14")
    assert session.timeline.next_event == 15
    there = session.position

    run("event +1")
    assert session.position > there
    run("event -1")
    assert session.position <= there


def test_before_the_first_event_there_is_none(session: Session, run: Run) -> None:
    for place in ("seek start", "event 2", "event -1"):
        run(place)
        before = session.position

    with pytest.raises(UsageError, match="no event comes before"):
        run("event -1")

    assert session.position == before


def test_history_goes_back_and_forward(session: Session, run: Run) -> None:
    places = [session.position]
    for point in ("30%", "event:14", "end"):
        run(f"seek {point}")
        places.append(session.position)

    for place in reversed(places[:-1]):
        run("back")
        assert session.position == place
    with pytest.raises(UsageError, match="ends here"):
        run("back")
    for place in places[1:]:
        run("forward")
        assert session.position == place


def test_the_ends_are_named(run: Run) -> None:
    assert "the recording ends here" in run("continue")
    assert "the recording begins here" in run("reverse-continue")


def test_a_step_that_is_long_can_be_interrupted(session: Session) -> None:
    timer = threading.Timer(0.2, session.interrupt)
    timer.start()

    answer = TABLE.run(session, "step 10000000")

    timer.join()
    assert "interrupted" in answer or "ends here" in answer


# -- looking -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(library: Library) -> list[tuple[Position, int]]:
    """Positions and addresses of what the guest executes at first, by a timeline that only ever steps."""
    timeline = Timeline(library.get("vuln", "virtual", None, {}))
    places = []
    while timeline.position.branches < 700:
        places.append((timeline.position, timeline.machine.core.pc))
        timeline.forward()
    return places


@pytest.mark.parametrize("point", ["155", "event:9", "620", "501:1"])
def test_the_trail_is_what_a_straight_walk_executes(
    session: Session, run: Run, straight: list[tuple[Position, int]], point: str
) -> None:
    run(f"seek {point}")
    here = session.position

    trail = session.walk.trail()

    assert session.position == here
    place = next(number for number, (position, _) in enumerate(straight) if position == here)
    addresses = [address for _, address in straight]
    assert list(trail.before) == addresses[place - len(trail.before) : place]
    assert list(trail.after) == addresses[place : place + len(trail.after)]


def test_the_trail_begins_with_the_first_instruction(session: Session, run: Run) -> None:
    run("step 3")

    trail = session.walk.trail()

    assert len(trail.before) == 3
    assert session.named(trail.before[0]) == "0x100284 <_start>"


def test_a_listing_marks_the_past_and_the_future(run: Run) -> None:
    run("search execute grant")

    lines = run("disassemble").splitlines()

    here = next(line for line in lines if "=>" in line)
    assert "push ebp" in here
    assert any("+1 " in line and "mov ebp, esp" in line for line in lines)
    assert any("-18 " in line and line.endswith("ret") for line in lines)


def test_registers_tell_what_they_were(session: Session, run: Run) -> None:
    run("seek 0:0")
    run("step 3")
    before = session.evaluate("eip")
    run("step")

    assert f"was {before:#010x}" in run("registers eip")
    assert "was" not in run("registers esp")


def test_memory_is_shown_as_hexdump_shows_it(run: Run) -> None:
    run("seek end")

    assert run("x &banner 5").split(maxsplit=1)[1].split("  ")[0] == "70 77 6e 64 00"
    assert run("x &banner 5").endswith("pwnd.")


def test_the_stack_names_where_words_point_to(run: Run) -> None:
    run("search execute print")

    assert "main+" in run("stack 1")


def test_the_console_shows_a_line_that_is_not_complete(run: Run) -> None:
    run("seek 921")

    assert run("console 1").startswith("vuln> name ...")


def test_events_mark_the_one_to_come(run: Run) -> None:
    run("seek event:14")

    lines = run("events 4").splitlines()

    assert len(lines) == 4
    assert [line[0] for line in lines] == [" ", " ", ">", " "]


def test_info_tells_of_the_recording_and_of_breakpoints(run: Run, session: Session) -> None:
    run("watch admin 4")

    assert session.recording.manifest.uuid in run("info recording")
    assert "admin" in run("info breakpoints")


# -- bookmarks -----------------------------------------------------------------------------------------------------


def test_bookmarks_lead_back(session: Session, run: Run) -> None:
    run("seek event:14")
    there = session.position
    run("bookmark typed this is the attack")
    run("seek end")

    assert run("goto typed").startswith("typed: this is the attack\n")
    assert session.position == there
    run("note typed another note")
    assert "another note" in run("bookmarks")
    run("forget typed")
    assert run("bookmarks") == "no bookmarks"


# -- the table -----------------------------------------------------------------------------------------------------


def test_names_and_other_names_are_each_of_one_command() -> None:
    names = [name for each in TABLE.commands for name in (each.name, *each.aliases)]

    assert len(names) == len(set(names))


def test_a_command_may_be_shortened_as_long_as_it_is_clear(run: Run) -> None:
    assert run("wher") == run("where")
    with pytest.raises(UsageError, match="may be"):
        run("re")


def test_a_command_that_is_not_there_has_a_nearest_one(run: Run) -> None:
    with pytest.raises(UsageError) as caught:
        run("contineu")

    assert "continue" in caught.value.hint


def test_empty_lines_and_comments_do_nothing(run: Run) -> None:
    assert (run(""), run("   "), run("# where"), run("\n")) == ("", "", "", "")


def test_every_command_has_help(run: Run) -> None:
    for command in TABLE.commands:
        assert run(f"help {command.name}").startswith(command.title)


def test_quit_leaves(run: Run) -> None:
    with pytest.raises(QuitError):
        run("quit")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wh", ["where"]),
        ("break gra", ["break grant"]),
        ("x [es", ["x [es", "x [esi", "x [esp"]),
        ("goto t", ["goto typed"]),
        ("seek s", ["seek start"]),
        ("search wr", ["search write"]),
        ("search write adm", ["search write admin"]),
        ("catch rec", ["catch received"]),
        ("nothing at", []),
        ("step ", []),
    ],
)
def test_completion_knows_what_may_follow(session: Session, run: Run, text: str, expected: list[str]) -> None:
    run("bookmark typed")

    assert TABLE.completions(session, text) == expected


@pytest.mark.parametrize(
    "line",
    [
        "step x", "step 1 2", "step 99999999999", "seek", "seek nowhere", "seek 101%", "seek 99999999", "event 999",
        "break nowhere", "watch", "watch 0 0", "watch 0x100 99999999", "watch 0xfffffffffffffff8 9", "catch nothing",
        "delete 5", "search", "search nothing", "search console", "again", "goto nowhere", "forget nowhere",
        "note nowhere x", "x", "x 0x100 9999999", "print", "print 1+", "memory nowhere", "info", "info nothing",
        "registers xyz", "disassemble 0xffffffffffff", "x 0xffffffffffff", "trail 1 2", "help nothing", "x" * 5000,
        "bookmark", "x 0x100000 0", "disassemble 0x100000 0", "stack 0", "step 0",
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_and_moves_nothing(session: Session, run: Run, line: str) -> None:
    run("seek 50%")
    before = session.position

    with pytest.raises(UsageError):
        run(line)

    assert session.position == before


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([each.name for each in TABLE.commands if each.name not in ("quit", "bookmark", "note")]),
    st.lists(
        st.sampled_from(["-1", "0", "5", "end", "admin", "text", "write", "[0]", "sp", "\x1b"]), max_size=3
    ),
)
def test_any_command_answers_or_is_refused(session: Session, name: str, words: list[str]) -> None:
    try:
        answer = TABLE.run(session, " ".join([name, *words]))
    except RevirtError:
        return
    assert answer.replace("\n", " ").isprintable()


# -- other modes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guest", "bits"), [("hello", 16), ("vuln", 32), ("paging", 64)])
def test_every_mode_can_be_looked_at(recording_of: RecordingOf, guest: str, bits: int) -> None:
    session = Session(recording_of(guest))
    TABLE.run(session, "seek end")

    assert session.bits == bits
    for line in ("where", "registers", "disassemble", "stack", "trail", "x sp", "step-back", "next-back"):
        assert TABLE.run(session, line)


@pytest.mark.debian
def test_debian_goes_from_a_line_on_the_console_to_who_wrote_its_stack(recording_of: RecordingOf) -> None:
    session = Session(recording_of("debian"))

    TABLE.run(session, "search console Linux version")
    assert "Linux version" in TABLE.run(session, "console 3")
    there = session.position
    answer = TABLE.run(session, "search-back write sp 8")

    assert "becomes" in answer or "stays" in answer
    assert Position(0) < session.position < there
    TABLE.run(session, "back")
    assert session.position == there


@pytest.mark.debian
def test_a_seek_that_takes_long_can_be_interrupted_and_stays(recording_of: RecordingOf) -> None:
    session = Session(recording_of("debian"))
    TABLE.run(session, "step 3")
    before, digest = session.position, session.timeline.machine.digest()

    for line in ("seek end", "seek 99%", f"event {session.timeline.events.end - 1}"):
        timer = threading.Timer(0.05, session.interrupt)
        timer.start()
        with pytest.raises(InterruptedSeekError):
            TABLE.run(session, line)
        timer.join()

        assert (session.position, session.timeline.machine.digest()) == (before, digest)

    TABLE.run(session, "step-back")
    TABLE.run(session, "back")
    assert session.position == before
