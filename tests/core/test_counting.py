"""Counting instructions: by blocks, what an instruction hook counts one by one, and without its traces."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from small_guests import (
    FOREVER,
    LOAD_TABLES,
    long,
    protected,
    put,
    real,
    set_gate,
    set_vector,
    to_user,
)
from test_clock import MIXED

from revirt.core import STOP_LIMIT, STOP_REQUEST, STOP_STEPS, Core

HANDLER = 0x8000
Guest = Callable[[], Core]


def in_real(source: str, *, vector: int = 0, handler: str = "hlt") -> Guest:
    """Return how to make a guest in real mode whose interrupt *vector* leads to *handler*."""

    def make() -> Core:
        core = real(source)
        put(core, HANDLER, handler, 16)
        set_vector(core, vector, HANDLER)
        return core

    return make


def in_protected(source: str, *, vector: int = 0, handler: str = "hlt") -> Guest:
    """Return the same in 32-bit mode."""
    return with_gate(source, vector, handler, is_long=False)


def in_long(source: str, *, vector: int = 0, handler: str = "hlt") -> Guest:
    """Return the same in 64-bit mode."""
    return with_gate(source, vector, handler, is_long=True)


def with_gate(source: str, vector: int, handler: str, *, is_long: bool) -> Guest:
    def make() -> Core:
        core = (long if is_long else protected)(LOAD_TABLES + source)
        put(core, HANDLER, handler, 64 if is_long else 32)
        set_gate(core, vector, HANDLER, is_long=is_long, dpl=3)
        return core

    return make


def loop(body: str, count: int = 5) -> str:
    """Return 16- or 32-bit source that executes *body* repeatedly."""
    return f"mov cx, {count}\n again: {body}\n dec cx\n jnz again\n hlt"


SYSTEM_CALLS = """
    mov ecx, 0xc0000080 ; rdmsr ; or eax, 1 ; wrmsr
    mov ecx, 0xc0000081 ; xor eax, eax ; mov edx, 0x00230010 ; wrmsr
    mov ecx, 0xc0000082 ; mov eax, offset kernel ; xor edx, edx ; wrmsr
    mov ebx, 4 ; mov ecx, offset user ; mov r11d, 0x3002 ; sysretq
    user: inc eax ; syscall ; inc eax ; syscall
    kernel: dec ebx ; jz over ; sysretq ; over: hlt
""".replace(";", "\n")
TO_BREAKPOINT = """
    mov eax, offset spot ; mov dr0, eax ; mov eax, 0x401 ; mov dr7, eax ; mov ecx, 3
    again: inc ebx ; inc ebx ; spot: inc edx ; loop again ; hlt
""".replace(";", "\n")
TRAP_FLAG = """
    pushf ; pop ax ; or ax, 0x100 ; push ax ; popf ; inc bx ; nop
    mov cx, 3 ; here: loop here ; mov di, 0x2000 ; mov cl, 3 ; rep stosb
    push ax ; and ax, 0xfeff ; push ax ; popf ; nop ; hlt
""".replace(";", "\n")

GUESTS = {
    "every kind of transfer": lambda: real(MIXED),
    "a fault in the middle": in_protected(
        "mov eax, 1\n xor ecx, ecx\n inc ebx\n div ecx\n inc ebx\n inc ebx\n hlt",
        handler="inc ecx\n iretd",
    ),
    "faults in the middle, in real mode": in_real(
        loop("inc bx\n mov ax, 7\n xor dl, dl\n div dl\n inc bx"), handler="add word ptr [esp], 2\n iret"
    ),
    "page faults in the middle": in_long(
        "mov rax, 0x12345678\n mov ecx, 4\n again: inc ebx\n mov [rax], rbx\n inc ebx\n add rax, [rax]\n"
        "dec ecx\n jnz again\n hlt",
        vector=14,
        handler="add rsp, 8\n add qword ptr [rsp], 3\n iretq",
    ),
    "undefined instructions": in_long(
        "mov ecx, 3\n again: inc ebx\n ud2\n inc ebx\n dec ecx\n jnz again\n hlt",
        vector=6,
        handler="add qword ptr [rsp], 2\n iretq",
    ),
    "an instruction that is too long": in_protected(
        "inc ebx\n .fill 20, 1, 0x66\n nop\n hlt", vector=13, handler="inc eax\n hlt"
    ),
    "software interrupts": in_protected(
        "mov ecx, 3\n again: inc ebx\n int 0x40\n int3\n loop again\n hlt", vector=0x40, handler="iretd"
    ),
    "a software interrupt that the gate refuses": in_protected("inc ebx\n int 0x55\n hlt", vector=13),
    "overflow, trapped and not": in_protected(
        "xor eax, eax\n inc ebx\n into\n mov al, 0x7f\n add al, 1\n into\n inc ebx\n inc ebx\n hlt",
        vector=4,
        handler="inc edx\n iretd",
    ),
    "overflow in real mode": in_real(
        "mov al, 0x7f\n add al, 1\n into\n inc bx\n hlt", vector=4, handler="iret"
    ),
    "a port that is refused": in_protected(
        to_user("user", bits=32) + "user: inc ebx\n in al, 0x60\n inc ebx\n spin: jmp spin", vector=13
    ),
    "a port that is refused in 64-bit code": in_long(
        to_user("user", bits=64) + "user: inc ebx\n mov dx, 3\n out dx, eax\n inc ebx\n spin: jmp spin",
        vector=13,
    ),
    "system calls": in_long(SYSTEM_CALLS),
    "system calls that are not enabled": in_long("inc ebx\n syscall\n hlt", vector=6),
    "repeated instructions": in_protected(
        "mov edi, 0x6000\n mov ecx, 9\n rep stosb\n rep stosb\n mov ecx, 5\n mov esi, edi\n repe cmpsb\n hlt"
    ),
    "a jump into the middle of an instruction": in_real(
        "mov cx, 3\n again: mov ax, 0x01eb\n inc bx\n nop\n loop again\n dec dx\n jns once\n hlt\n"
        "once: jmp again + 1"
    ),
    "a jump into the middle of an instruction of its own block": in_real(
        "mov cx, 3\n again: mov ax, 0x01eb\n inc bx\n nop\n loop again + 1\n hlt"
    ),
    "code that writes to its next instruction": in_real(
        loop("mov byte ptr [patch + 2], cl\n inc dx\n patch: add bx, 1")
    ),
    "code that writes in its middle": in_real(
        loop("inc dx\n inc dx\n mov byte ptr [patch + 2], cl\n patch: add bx, 1")
    ),
    "code whose last instruction writes to it": in_real(
        "mov cx, 4\n mov sp, offset stack\n again: inc bx\n inc dx\n call f\n .word 0x9090\n stack: hlt\n"
        "f: mov sp, offset stack\n loop again\n hlt"
    ),
    "a repeated instruction that writes to itself": in_real(
        "mov cx, 6\n mov di, offset spot - 3\n mov al, 0x90\n cld\n spot: rep stosb\n hlt\n nop\n nop\n hlt"
    ),
    "repeated words that write to themselves": in_real(
        "mov si, offset words\n mov di, offset spot\n mov cx, 5\n jmp spot\n spot: rep movsw\n hlt\n hlt\n"
        "words: .byte 0x90, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4"
    ),
    "a single step into the instruction itself": in_real(
        "pushf\n pop ax\n or ax, 0x100\n push ax\n popf\n .byte 0xeb, 0xff, 0xc0\n hlt\n nop\n hlt",
        vector=1,
        handler="inc si\n iret",
    ),
    "single steps by the guest": in_real(TRAP_FLAG, vector=1, handler="inc si\n iret"),
    "a hardware breakpoint": in_protected(
        TO_BREAKPOINT, vector=1, handler="inc esi\n or dword ptr [esp + 8], 0x10000\n iretd"
    ),
    "a block on two pages": in_protected(
        "mov edx, 3\n jmp onward\n .fill 0x3d0, 1, 0x90\n onward:\n"
        + "inc ebx\n" * 60
        + "dec edx\n jnz onward\n hlt"
    ),
    "a fault on the second of two pages": in_protected(
        "xor ecx, ecx\n jmp onward\n .fill 0x3d0, 1, 0x90\n onward:\n"
        + "lea ebx, [ebx + 4]\n" * 30
        + "div ecx\n inc ebx\n hlt"
    ),
    "a triple fault": lambda: real("lidt [zero]\n inc bx\n ud2\n hlt\n zero: .long 0, 0"),
}
guests = pytest.mark.parametrize("make", GUESTS.values(), ids=GUESTS.keys())


def counted(make: Guest) -> Core:
    core = make()
    core.counting = True
    return core


@guests
def test_blocks_count_what_an_instruction_hook_counts(make: Guest) -> None:
    by_hook, by_blocks = make(), counted(make)

    assert by_hook.step(FOREVER) == by_blocks.run(FOREVER)

    assert by_blocks.instructions == by_hook.instructions
    assert by_blocks.branches == by_hook.branches


@guests
def test_counting_changes_nothing_else(make: Guest) -> None:
    plain, core = make(), counted(make)

    assert core.run(FOREVER) == plain.run(FOREVER)

    assert core.fault == plain.fault
    assert core.digest_input() == plain.digest_input()
    assert bytes(core.ram) == bytes(plain.ram)


def test_code_that_is_not_mapped_any_more_is_counted_as_well_as_it_can_be() -> None:
    """The guest takes away the page it runs on, without a flush, and faults: Unicorn runs on, and so does the count."""
    make = in_long("xor ecx, ecx\n jmp onward\n onward: mov dword ptr [0x4000], 0\n inc ebx\n div ecx\n hlt")
    plain, core = make(), counted(make)

    assert core.run(FOREVER) == plain.run(FOREVER)

    assert core.fault == plain.fault
    assert bytes(core.ram) == bytes(plain.ram)


def aliases() -> Core:
    """Return a guest that clears an accessed bit of its own code's page, which is cached no more, without a flush."""
    reads = "".join(f"mov al, [{(number << 21) + 0x7000:#x}]\n" for number in range(1, 60))
    core = long(
        f"mov ecx, 1000\n jmp first\n .balign 64\n first: {reads} and byte ptr [0x5038], 0xdf\n"
        "mov ebx, [0x5038]\n or edx, ebx\n dec ecx\n jmp second\n"
        # Two blocks that Unicorn caches in one place.
        ".org 0x28b\n second: inc eax\n jmp first\n"
    )
    pages = b"".join(struct.pack("<Q", page << 12 | 0x67) for page in range(512))
    core.ram[0x5000:0x7000] = pages * 2
    core.ram[0x4000:0x4008] = struct.pack("<Q", 0x5067)
    core.ram[0x4008 : 0x4000 + 8 * 60] = struct.pack("<Q", 0x6067) * 59
    return core


def test_counting_leaves_accessed_bits_of_page_tables_alone() -> None:
    plain, core = aliases(), aliases()
    core.counting = True

    for branches in (50, 51, 60):
        plain.run(branches)
        core.run(branches)
        assert bytes(core.ram) == bytes(plain.ram)


# Not where the guest itself steps: steps do not end in its repeated instructions.
@pytest.mark.parametrize("make", [GUESTS[name] for name in GUESTS if "single step" not in name])
def test_the_count_is_exact_wherever_it_is_looked_at(make: Guest) -> None:
    """At a random instruction: the count at the branch before it and the steps from there add up to it."""
    chance = random.Random(1)
    total = make()
    total.step(FOREVER)

    for count in sorted(chance.randrange(1, total.instructions) for _ in range(15)):
        stepped, core = make(), counted(make)
        assert stepped.step(count) == STOP_STEPS
        core.run(stepped.branches)
        missing = count - core.instructions
        assert missing >= 0
        if missing > 0:
            assert core.step(missing) == STOP_STEPS
        assert core.instructions == count
        assert core.digest_input() == stepped.digest_input()


# Not where a single instruction writes to itself: run on from a stop there it does not get on, counting or not.
@pytest.mark.parametrize(
    "make",
    [
        GUESTS[name]
        for name in GUESTS
        if not name.endswith("to itself") and not name.endswith("to themselves")
    ],
)
def test_stops_and_restores_do_not_change_the_count(make: Guest) -> None:
    unstopped, stopped = counted(make), counted(make)
    chance = random.Random(2)
    end = unstopped.run(FOREVER)

    stop = STOP_LIMIT
    while stop in (STOP_LIMIT, STOP_REQUEST):
        if chance.random() < 0.3:
            stopped.request_stop()
        if chance.random() < 0.3:
            stopped.written(0, 1 << 20)
        if chance.random() < 0.3:
            stopped.restore(stopped.save())
        stop = stopped.run(stopped.branches + chance.randrange(1, 4))

    assert stop == end
    assert stopped.instructions == unstopped.instructions


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_counting_leaves_undefined_flags_as_they_are(bits: int) -> None:
    """BT leaves OF, SF, AF and PF undefined: an instruction hook changes what Unicorn leaves in them."""
    source = "mov al, 0x7f\n add al, 1\n bt bx, 3\n int 0x40"
    make = {16: in_real, 32: in_protected, 64: in_long}[bits](source, vector=0x40)
    plain, core = make(), counted(make)

    plain.run(FOREVER)
    core.run(FOREVER)

    assert core.digest_input() == plain.digest_input()
    assert bytes(core.ram) == bytes(plain.ram)


def test_a_device_finds_the_count_of_the_instruction_that_asks_it() -> None:
    seen = []
    core = real("inc bx\n in al, 0x60\n inc bx\n out 0x80, al\n inc bx\n hlt")
    core.counting = True
    core.set_callbacks(
        lambda port, size: seen.append(core.instructions) or 0,  # type: ignore[func-returns-value]
        lambda port, size, value: seen.append(core.instructions),
        lambda address, size: 0,
        lambda address, size, value: None,
    )

    core.run(FOREVER)

    assert seen == [2, 4]
    assert core.instructions == 6
