"""The clock: which transfers of control count, and that stops, hooks and buffers do not disturb it."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest
from small_guests import (
    CODE,
    FOREVER,
    LOAD_TABLES,
    STACK,
    long,
    new_core,
    protected,
    put,
    real,
    set_gate,
    set_vector,
    word,
)

from revirt.core import STOP_HALT, STOP_LIMIT, STOP_REQUEST, STOP_STEPS, Core
from revirt.timeline.line import LONGEST_BLOCK

START = 1
"""Entering the guest's first instruction counts: no straight line led there."""

# A REP instruction comes back to itself after every iteration, the last included, to find that RCX is 0.
TRANSFERS = [
    ("straight line", "mov ax, 1\n inc ax\n hlt", 0),
    ("jump", "jmp over\n nop\n over: hlt", 1),
    ("jump to the next instruction", "jmp next\n next: hlt", 0),
    ("branch not taken", "xor ax, ax\n jnz away\n hlt\n away: hlt", 0),
    ("branch taken", "xor ax, ax\n jz away\n hlt\n away: hlt", 1),
    ("call and return", "call f\n hlt\n f: ret", 2),
    ("loop", "mov cx, 10\n again: inc ax\n loop again\n hlt", 9),
    ("far jump", "jmp 0: offset away\n nop\n away: hlt", 1),
    ("rep of one", "mov cx, 1\n mov di, 0x500\n rep stosb\n hlt", 1),
    ("rep of none", "xor cx, cx\n rep stosb\n hlt", 0),
    ("rep", "mov cx, 8\n mov di, 0x500\n rep stosb\n hlt", 8),
    ("repe that ends early", "mov cx, 8\n mov di, 0x500\n mov al, 1\n repe scasb\n hlt", 0),
]


@pytest.mark.parametrize(
    ("source", "expected"), [row[1:] for row in TRANSFERS], ids=[row[0] for row in TRANSFERS]
)
def test_taken_transfers_count_and_nothing_else(source: str, expected: int) -> None:
    core = real(source)

    assert core.run(FOREVER) == STOP_HALT
    assert core.branches == START + expected


def test_delivery_and_iret_count_one_each() -> None:
    core = real("int 0x40\n hlt")
    put(core, 0x8000, "iret", 16)
    set_vector(core, 0x40, 0x8000)

    core.run(FOREVER)

    assert core.branches == START + 2


def test_a_handler_right_behind_the_faulting_instruction_counts() -> None:
    core = real("xor cx, cx\n mov word ptr [0], offset handler\n mov word ptr [2], 0\n div cx\n handler: hlt")

    core.run(FOREVER)

    assert core.branches == START + 1


def test_syscall_and_sysret_count_one_each() -> None:
    source = """
        mov ecx, 0xc0000080 ; rdmsr ; or eax, 1 ; wrmsr
        mov ecx, 0xc0000081 ; xor eax, eax ; mov edx, 0x00230010 ; wrmsr
        mov ecx, 0xc0000082 ; mov eax, offset kernel ; xor edx, edx ; wrmsr
        mov ecx, offset user ; mov r11d, 0x3002 ; sysretq
        nop ; user: syscall
        nop ; kernel: hlt
    """
    core = long(source.replace(";", "\n"))

    core.run(FOREVER)

    assert core.branches == START + 2
    assert core.registers()["cs"] == 0x10


def test_an_interrupt_counts_its_delivery() -> None:
    core = real("sti\n hlt\n hlt")
    put(core, 0x8000, "iret", 16)
    set_vector(core, 0x20, 0x8000)

    core.run(FOREVER)
    core.interrupt(0x20)
    core.run(FOREVER)

    assert core.branches == START + 2


MIXED = """
    mov word ptr [0x104], offset handler
    mov word ptr [0x106], 0
    mov cx, 12
again:
    push cx
    call work
    int 0x41
    mov cx, 5
    mov di, 0x2000
    mov al, bl
    rep stosb
    mov byte ptr [patch + 2], bl
patch:
    add bx, 1
    lock inc dword ptr [0x3000]
    pop cx
    loop again
    hlt
work:
    imul bx, bx, 7
    add bx, cx
    test bl, 1
    jz even
    xor bx, 0x55
even:
    ret
handler:
    inc si
    iret
"""
"""Every kind of transfer, and an instruction that is rewritten in its own block."""


def whole_state(core: Core) -> tuple[bytes, bytes]:
    return core.digest_input(), bytes(core.ram)


def test_stopping_at_every_branch_changes_nothing() -> None:
    unstopped = real(MIXED)
    unstopped.run(FOREVER)
    total = unstopped.branches

    stopped = real(MIXED)
    while stopped.run(stopped.branches + 1) == STOP_LIMIT:
        direct = real(MIXED)
        assert direct.run(stopped.branches) == STOP_LIMIT
        assert whole_state(direct) == whole_state(stopped)

    assert stopped.branches == total
    assert whole_state(stopped) == whole_state(unstopped)


@pytest.mark.parametrize("seed", range(5))
def test_random_stops_saves_and_restores_change_nothing(seed: int) -> None:
    unstopped = real(MIXED)
    unstopped.run(FOREVER)
    chance = random.Random(seed)

    core = real(MIXED)
    while core.run(core.branches + chance.randrange(1, 20)) == STOP_LIMIT:
        if chance.random() < 0.5:
            core.restore(core.save())

    assert whole_state(core) == whole_state(unstopped)


def test_counting_instructions_changes_nothing() -> None:
    plain = real(MIXED)
    counted = real(MIXED)
    counted.counting = True

    while plain.run(plain.branches + 3) == counted.run(counted.branches + 3) == STOP_LIMIT:
        assert whole_state(plain) == whole_state(counted)

    assert whole_state(plain) == whole_state(counted)
    assert counted.instructions > plain.branches
    assert plain.instructions == 0


def test_a_small_translation_buffer_changes_nothing() -> None:
    many_blocks = "\n".join(f"b{i}: add eax, {i}\n jmp b{i + 1}\n nop" for i in range(3000)) + "\nb3000:"
    source = f"mov ecx, 20\n again: {many_blocks}\n dec ecx\n jnz again\n hlt"
    ample = protected(source)
    tight = protected(source, new_core(translation_buffer=1 << 20))

    ample.run(FOREVER)
    tight.run(FOREVER)

    assert whole_state(ample) == whole_state(tight)


def test_requests_from_a_thread_stop_at_branches_and_execute_nothing_twice() -> None:
    core = protected(
        f"{LOAD_TABLES} mov ecx, 3000000\n again: lock inc dword ptr [0x5000]\n add dword ptr [0x5004], 3\n"
        " dec ecx\n jnz again\n hlt"
    )
    core.run(1)
    core.run(2)
    again = core.pc
    is_over = threading.Event()

    def nag() -> None:
        while not is_over.wait(0.0005):
            core.request_stop()

    thread = threading.Thread(target=nag)
    thread.start()
    stops = 0
    while core.run(FOREVER) == STOP_REQUEST:
        stops += 1
        assert core.pc == again
    is_over.set()
    thread.join()

    assert stops > 0
    assert word(core, 0x5000) == 3_000_000
    assert word(core, 0x5004) == 9_000_000


def test_a_request_before_a_run_stops_it_at_its_first_branch() -> None:
    core = real("again: inc ax\n jmp again")
    core.run(5)

    core.request_stop()

    assert core.run(FOREVER) == STOP_REQUEST
    assert core.branches == 6


def test_a_limit_that_is_reached_already_runs_nothing() -> None:
    core = real("again: inc ax\n jmp again")
    core.run(5)

    assert core.run(5) == STOP_LIMIT
    assert core.run(0) == STOP_LIMIT
    assert core.branches == 5


def test_stepping_executes_single_instructions_and_leaves_the_clock_alone() -> None:
    stepped, plain = real(MIXED), real(MIXED)

    addresses = []
    for _ in range(4):
        addresses.append(stepped.pc)
        stepped.step(1)
    stepped.run(FOREVER)
    plain.run(FOREVER)

    assert addresses == [CODE, CODE + 6, CODE + 12, CODE + 15]
    assert whole_state(stepped) == whole_state(plain)


def test_stepping_from_a_branch_reaches_what_a_run_reaches() -> None:
    """As the debugger steps: to the last taken branch at full speed, then by instructions in one go."""
    reference = real(MIXED)
    reference.counting = True
    reference.run(40)
    executed = reference.instructions

    core = real(MIXED)
    core.run(30)
    before = core.branches
    probe = real(MIXED)
    probe.counting = True
    probe.run(before)
    core.step(executed - probe.instructions)

    assert core.branches in (39, 40)
    core.run(40)
    assert whole_state(core) == whole_state(reference)


def test_steps_end_with_the_straight_line_if_they_are_to() -> None:
    core = protected("inc eax\n inc eax\n jmp on\n nop\n on: inc eax\n hlt")

    stop = core.step(FOREVER, core.branches + 2)

    assert (stop, core.instructions, core.branches) == (STOP_LIMIT, 3, 2)
    assert core.run(FOREVER) == STOP_HALT
    assert core.registers()["rax"] == 3
    assert core.branches == 2


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    core = protected("inc eax\n inc eax\n jmp on\n nop\n on: inc eax\n hlt")

    assert core.step(1, 2) == STOP_STEPS
    assert core.step(1, None) == STOP_STEPS
    assert core.step(FOREVER, 3) == STOP_HALT
    assert core.registers()["rax"] == 3


FORGETFUL = """
again:
    nop
    nop
    mov byte ptr [again], 0x90
    nop
    mov byte ptr [later], 0x40
    nop
later:
    inc ax
    dec byte ptr [0x600]
    jnz again
    hlt
"""
"""Code that writes to the block that it is in, to what is behind it already and to what is to come."""


def test_whole_blocks_can_be_stepped_from_anywhere_that_that_ends() -> None:
    reference = real(FORGETFUL)
    reference.ram[0x600] = 5
    reference.counting = True
    assert reference.run(FOREVER) == STOP_HALT

    core = real(FORGETFUL)
    core.ram[0x600] = 5
    ends = 0
    while core.step(1, FOREVER, True) == STOP_STEPS:
        ends += 1
        state = core.save()
        core.restore(state)

    assert ends > 10
    assert (core.branches, core.instructions) == (reference.branches, reference.instructions)
    assert whole_state(core) == whole_state(reference)


def test_whole_blocks_are_not_long() -> None:
    core = real("mov dword ptr [0x600], 0\n" + "nop\n" * 5_000 + "hlt")

    ends = [core.instructions]
    while core.step(1, FOREVER, True) == STOP_STEPS:
        ends.append(core.instructions)

    assert max(after - before for before, after in pairwise(ends)) < LONGEST_BLOCK


@pytest.mark.parametrize("arguments", [(), (1, 2, 3), (1, 2, True, 4), ("1",), (1, "2")])
def test_steps_take_numbers(arguments: tuple[object, ...]) -> None:
    core = protected("hlt")

    with pytest.raises(TypeError):
        core.step(*arguments)  # type: ignore[arg-type]


def test_single_stepping_by_the_guest_is_exact() -> None:
    """The trap flag: a #DB behind every instruction, each of them a taken transfer."""
    source = "pushf\n pop ax\n or ax, 0x100\n push ax\n popf\n inc bx\n inc bx\n inc bx\n and byte ptr [0x4ff], 0\n hlt"

    def guest() -> Core:
        core = real(source)
        put(
            core,
            0x8000,
            "inc si\n cmp si, 4\n jb on\n mov bp, sp\n and word ptr [bp + 4], 0xfeff\n on: iret",
            16,
        )
        set_vector(core, 1, 0x8000)
        return core

    plain, counted = guest(), guest()
    counted.counting = True
    plain.run(FOREVER)
    while counted.run(counted.branches + 1) == STOP_LIMIT:
        pass

    assert plain.registers()["rsi"] == 4
    assert plain.registers()["rbx"] == 3
    assert whole_state(plain) == whole_state(counted)


def test_rdtsc_reads_the_clock() -> None:
    core = protected("mov ecx, 10\n again: loop again\n rdtsc\n mov ebx, eax\n rdtscp\n hlt")
    core.set_clock(1_000_000, 0, 7)

    core.run(FOREVER)

    registers = core.registers()
    assert registers["rbx"] == registers["rax"] == 1_000_000 + 7 * core.branches
    assert registers["clock_ns"] == registers["rax"]


def test_the_tsc_reads_all_64_bits_of_the_clock() -> None:
    core = protected("rdtsc\n hlt")
    core.set_clock(0x1_2345_6789, 0, 0)

    core.run(FOREVER)

    assert (core.registers()["rdx"], core.registers()["rax"]) == (1, 0x2345_6789)


def test_a_hardware_breakpoint_is_exact() -> None:
    core = protected(
        f"{LOAD_TABLES} mov eax, offset spot\n mov dr0, eax\n mov eax, 0x401\n mov dr7, eax\n mov ecx, 3\n"
        "again: inc ebx\n spot: inc edx\n loop again\n hlt"
    )
    put(core, 0x8000, "inc esi\n or dword ptr [esp + 8], 0x10000\n iretd", 32)
    set_gate(core, 1, 0x8000, is_long=False)

    assert core.run(FOREVER) == STOP_HALT

    registers = core.registers()
    assert (registers["rsi"], registers["rdx"], registers["dr6"] & 0xF) == (3, 3, 1)
    assert registers["rsp"] == STACK
