"""Watches of the system, and of calls: what happens is noted once, where it happens, and nothing else changes."""

from __future__ import annotations

import pytest
from small_guests import (
    CODE,
    FOREVER,
    LOAD_TABLES,
    STACK,
    long,
    protected,
    put,
    real,
    set_gate,
    set_vector,
    to_user,
)
from test_clock import MIXED
from test_counting import GUESTS, Guest

from revirt.core import (
    STOP_HALT,
    STOP_LIMIT,
    STOP_WATCH,
    WATCH_ADDRESS_SPACE,
    WATCH_CALL,
    WATCH_INTERRUPT,
    WATCH_PRIVILEGE,
    WATCH_RETURN,
    WATCH_SYSTEM_CALL,
    Core,
)

SYSTEM = WATCH_INTERRUPT | WATCH_SYSTEM_CALL | WATCH_ADDRESS_SPACE | WATCH_PRIVILEGE
MASKS = {16: 0xFFFF, 32: 0xFFFF_FFFF, 64: (1 << 64) - 1}
WHOLE_STACK = {bits: (0x400, STACK - 0x400, mask, 0, 0, 0) for bits, mask in MASKS.items()}
guests = pytest.mark.parametrize("make", GUESTS.values(), ids=GUESTS.keys())


def noted(core: Core) -> list[tuple[int, int, int]]:
    """Return (kind, branches, value) of what was noted."""
    return [(hit[0], hit[1], hit[6]) for hit in core.take_hits()]


def watched(core: Core, system: int = SYSTEM, vectors: list[int] | None = None) -> Core:
    core.set_watches([], [], [], system=system, vectors=vectors)
    return core


# ---- interrupts and exceptions ---------------------------------------------------------------------------------------


def test_exceptions_software_interrupts_and_those_from_outside_are_noted() -> None:
    core = real("sti\n xor cx, cx\n div cx\n int 0x40\n hlt\n hlt")
    put(core, 0x8000, "mov bp, sp\n add word ptr [bp], 2\n iret", 16)
    put(core, 0x8100, "iret", 16)
    for vector, handler in ((0, 0x8000), (0x40, 0x8100), (0x20, 0x8100)):
        set_vector(core, vector, handler)
    watched(core, WATCH_INTERRUPT)

    assert core.run(FOREVER) == STOP_HALT
    core.interrupt(0x20)

    seen = core.take_hits()
    assert [(hit[0], hit[6], hit[1]) for hit in seen] == [
        (WATCH_INTERRUPT, 0, 1),
        (WATCH_INTERRUPT, 0x40, 3),
        (WATCH_INTERRUPT, 0x20, 5),
    ]
    assert [hit[3] for hit in seen] == [CODE + 3, CODE + 7, CODE + 8]


def test_only_the_vectors_asked_for_are_noted() -> None:
    core = real("int 0x40\n int 0x41\n int 0x40\n hlt")
    put(core, 0x8000, "iret", 16)
    for vector in (0x40, 0x41):
        set_vector(core, vector, 0x8000)
    watched(core, WATCH_INTERRUPT, [0x41, 0xFF])

    core.run(FOREVER)

    assert [value for _, _, value in noted(core)] == [0x41]


def test_where_delivery_faults_the_handler_that_is_entered_is_noted() -> None:
    core = protected(LOAD_TABLES + "int 0x40\n hlt")
    put(core, 0x8000, "hlt", 32)
    set_gate(core, 11, 0x8000, is_long=False)
    core.ram[0x1000 + 8 * 0x40 + 5] = 0x0E  # an interrupt gate that is not present
    watched(core, WATCH_INTERRUPT)

    core.run(FOREVER)

    assert [value for _, _, value in noted(core)] == [11]


def test_an_interrupt_ends_a_run_behind_its_delivery() -> None:
    core = watched(real("int 0x40\n hlt"), WATCH_INTERRUPT)
    put(core, 0x8000, "hlt", 16)
    set_vector(core, 0x40, 0x8000)
    core.stop_at_hits = True

    assert core.run(FOREVER) == STOP_WATCH

    assert core.pc == 0x8000


# ---- system calls, privilege, address space --------------------------------------------------------------------------

SET_SYSCALL = (
    "mov ecx, 0xc0000080\n rdmsr\n or eax, 1\n wrmsr\n mov ecx, 0xc0000081\n xor eax, eax\n"
    "mov edx, 0x00230010\n wrmsr\n"
    "mov ecx, 0xc0000082\n mov eax, 0x8000\n xor edx, edx\n wrmsr\n"
)


def test_a_system_call_is_noted_with_its_number_and_what_it_changes() -> None:
    core = long(LOAD_TABLES + SET_SYSCALL + to_user("user", bits=64) + "nop\n user: mov eax, 60\n syscall")
    put(core, 0x8000, "hlt", 64)
    watched(core)

    assert core.run(FOREVER) == STOP_HALT

    assert noted(core) == [
        (WATCH_PRIVILEGE, 1, 3),
        (WATCH_SYSTEM_CALL, 2, 60),
        (WATCH_PRIVILEGE, 2, 0),
    ]


@pytest.mark.parametrize("bits", [32, 64])
def test_the_interrupt_that_linux_is_called_with_is_a_system_call(bits: int) -> None:
    make = long if bits == 64 else protected
    core = make(LOAD_TABLES + to_user("user", bits=bits) + "nop\n user: mov eax, 4\n int 0x80")
    put(core, 0x8000, "hlt", bits)
    set_gate(core, 0x80, 0x8000, is_long=bits == 64, dpl=3)
    watched(core)

    assert core.run(FOREVER) == STOP_HALT

    assert noted(core) == [
        (WATCH_PRIVILEGE, 1, 3),
        (WATCH_SYSTEM_CALL, 2, 4),
        (WATCH_INTERRUPT, 2, 0x80),
        (WATCH_PRIVILEGE, 2, 0),
    ]


def test_sysenter_is_a_system_call() -> None:
    source = (
        "mov ecx, 0x174\n mov eax, 0x10\n xor edx, edx\n wrmsr\n inc ecx\n mov eax, 0x9000\n wrmsr\n inc ecx\n"
        "mov eax, 0x8000\n wrmsr\n mov eax, 20\n sysenter"
    )
    core = protected(LOAD_TABLES + source)
    put(core, 0x8000, "hlt", 32)
    watched(core, WATCH_SYSTEM_CALL)

    assert core.run(FOREVER) == STOP_HALT

    assert noted(core) == [(WATCH_SYSTEM_CALL, 1, 20)]


def test_a_selector_that_looks_like_a_user_s_is_none_in_real_mode() -> None:
    core = watched(real("jmp 0x3:0x7d00 - 0x30"), WATCH_PRIVILEGE)
    put(core, 0x7D00, "hlt", 16)

    assert core.run(FOREVER) == STOP_HALT

    assert noted(core) == []


def test_virtual_8086_mode_is_entered_and_left_with_a_change_of_privilege() -> None:
    frame = "push 0\n push 0\n push 0\n push 0\n push 0\n push 0x6000\n push 0x20002\n push 0\n push 0x7f00\n iretd"
    core = protected(LOAD_TABLES + frame)
    put(core, 0x7F00, "ud2", 16)
    put(core, 0x8000, "hlt", 32)
    set_gate(core, 6, 0x8000, is_long=False)
    watched(core, WATCH_PRIVILEGE)

    assert core.run(FOREVER) == STOP_HALT

    assert noted(core) == [(WATCH_PRIVILEGE, 1, 3), (WATCH_PRIVILEGE, 2, 0)]


def test_page_tables_that_are_turned_to_are_noted_and_the_same_ones_are_not() -> None:
    core = long("mov rax, cr3\n mov cr3, rax\n or eax, 8\n mov cr3, rax\n jmp on\n nop\n on: hlt")
    watched(core, WATCH_ADDRESS_SPACE)

    assert core.run(FOREVER) == STOP_HALT

    assert noted(core) == [(WATCH_ADDRESS_SPACE, 1, core.registers()["cr3"])]


def test_steps_tell_which_instruction_it_was() -> None:
    core = long("nop\n mov rax, cr3\n or eax, 8\n mov cr3, rax\n nop\n hlt")
    watched(core, WATCH_ADDRESS_SPACE)

    core.step(FOREVER)

    assert [hit[2] for hit in core.take_hits()] == [4]


def test_another_state_is_no_change() -> None:
    core = long(LOAD_TABLES + to_user("user", bits=64) + "nop\n user: jmp on\n nop\n on: nop\n jmp user")
    before, memory = core.save(), bytes(core.ram)
    watched(core, WATCH_PRIVILEGE | WATCH_ADDRESS_SPACE)
    core.run(5)
    assert noted(core) == [(WATCH_PRIVILEGE, 1, 3)]

    core.ram[:] = memory
    core.restore(before)
    core.run(5)

    assert noted(core) == [(WATCH_PRIVILEGE, 1, 3)]


# ---- calls and returns -----------------------------------------------------------------------------------------------

NESTED = {
    16: "call one\n hlt\n one: call two\n ret\n two: push 7\n push 9\n call three\n ret\n three: ret 4\n",
    32: "call one\n hlt\n one: mov eax, offset two\n call eax\n ret\n two: push 7\n call three\n ret\n three: ret 4\n",
    64: "call one\n hlt\n one: lea rax, two[rip]\n call rax\n ret\n two: push 7\n call three\n ret\n three: ret 8\n",
}
MAKE = {16: real, 32: protected, 64: long}


@pytest.mark.parametrize("bits", NESTED)
def test_calls_and_returns_are_noted_with_the_place_of_the_return_address(bits: int) -> None:
    core, width = MAKE[bits](NESTED[bits]), bits // 8
    core.set_watches([], [], [], stack=WHOLE_STACK[bits])

    assert core.run(FOREVER) == STOP_HALT

    argument = 4 if bits == 16 else width
    slots = [STACK - width, STACK - 2 * width, STACK - 3 * width - argument]
    seen = core.take_hits()
    assert [(hit[0], hit[4]) for hit in seen] == [
        *((WATCH_CALL, slot) for slot in slots),
        *((WATCH_RETURN, slot) for slot in reversed(slots)),
    ]
    assert [hit[1] for hit in seen] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("call", "back"),
    [("call 0x10: offset there", "retf"), ("push cs\n call there", "retf"), ("call there", "ret")],
)
def test_far_calls_are_calls(call: str, back: str) -> None:
    core = protected(f"{call}\n hlt\n there: {back}")
    core.set_watches([], [], [], stack=WHOLE_STACK[32])

    assert core.run(FOREVER) == STOP_HALT

    slot = STACK - (8 if back == "retf" else 4)
    assert [(hit[0], hit[4]) for hit in core.take_hits()] == [(WATCH_CALL, slot), (WATCH_RETURN, slot)]


def test_jumps_that_look_like_returns_are_none() -> None:
    """The last byte of this one is that of RET."""
    core = protected("jmp on\n .org 60, 0x90\n back: hlt\n .org 119, 0x90\n on: jmp back")
    assert core.ram[CODE + 119 + 1] == 0xC3
    core.set_watches([], [], [], stack=WHOLE_STACK[32])

    assert core.run(FOREVER) == STOP_HALT

    assert core.hits_noted == 0


def test_a_call_of_what_follows_is_none() -> None:
    """It is how code asks where it is, and nothing ever returns."""
    core = protected("call on\n on: pop eax\n hlt")
    core.set_watches([], [], [], stack=WHOLE_STACK[32])

    assert core.run(FOREVER) == STOP_HALT

    assert core.hits_noted == 0


def test_only_the_stretch_that_is_watched_counts() -> None:
    core = protected(NESTED[32])
    core.set_watches([], [], [], stack=(STACK - 8, 4, MASKS[32], 0, 0, 0))

    core.run(FOREVER)

    assert [(hit[0], hit[4]) for hit in core.take_hits()] == [
        (WATCH_CALL, STACK - 8),
        (WATCH_RETURN, STACK - 8),
    ]


@pytest.mark.parametrize("other", [(0, 3, 0), (8, 0, 0), (0, 0, 0x5000)], ids=["privilege", "base", "root"])
def test_another_stack_does_not_count(other: tuple[int, int, int]) -> None:
    core = protected(NESTED[32])
    core.set_watches([], [], [], stack=(*WHOLE_STACK[32][:3], *other))

    core.run(FOREVER)

    assert core.hits_noted == 0


# ---- nothing else changes --------------------------------------------------------------------------------------------


@guests
def test_watching_the_system_changes_nothing(make: Guest) -> None:
    plain, core = make(), make()
    core.set_watches([], [], [], system=SYSTEM, stack=WHOLE_STACK[32])

    assert core.run(FOREVER) == plain.run(FOREVER)

    assert core.fault == plain.fault
    assert core.digest_input() == plain.digest_input()
    assert bytes(core.ram) == bytes(plain.ram)


@guests
def test_steps_note_what_runs_do(make: Guest) -> None:
    run, stepped = make(), make()
    for core in (run, stepped):
        core.counting = True
        core.set_watches([], [], [], system=SYSTEM, stack=WHOLE_STACK[32])

    run.run(FOREVER)
    stepped.step(FOREVER)

    assert run.take_hits() == stepped.take_hits()


def test_stops_between_change_nothing_of_what_is_noted() -> None:
    whole, stopped = real(MIXED), real(MIXED)
    for core in (whole, stopped):
        put(core, 0x8000, "hlt", 16)
        core.set_watches([], [], [], system=SYSTEM, stack=WHOLE_STACK[16])

    whole.run(FOREVER)
    while stopped.run(stopped.branches + 1) == STOP_LIMIT:
        pass

    seen = noted(whole)
    assert seen
    assert noted(stopped) == seen


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"system": 1}, "no part of the system"),
        ({"vectors": [256]}, "a vector is below 256"),
        ({"stack": (0, 0, 0, 0, 0, 0)}, "stretch of stack"),
    ],
)
def test_what_cannot_be_watched_is_refused(arguments: dict[str, object], problem: str) -> None:
    core = real("hlt")

    with pytest.raises(ValueError, match=problem):
        core.set_watches([], [], [], **arguments)  # type: ignore[arg-type]
