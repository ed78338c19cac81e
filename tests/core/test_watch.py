"""Watches: everything that touches what is watched is noted, once, where it happened, and nothing else changes."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from small_guests import (
    CODE,
    FOREVER,
    GDT,
    IDT,
    LOAD_TABLES,
    STACK,
    TSS,
    long,
    new_core,
    protected,
    put,
    real,
    set_gate,
    set_vector,
    to_user,
    word,
)
from test_clock import MIXED
from test_counting import GUESTS, Guest

from revirt.core import (
    STOP_HALT,
    STOP_LIMIT,
    STOP_STEPS,
    STOP_WATCH,
    WATCH_BLOCK,
    WATCH_EXECUTE,
    WATCH_MAYBE,
    WATCH_READ,
    WATCH_WRITE,
    Core,
)

DATA = 0x5000
EVERYTHING = (0, 1 << 16)
"""All memory that the guests of a few instructions use."""
CODE_BYTES = [*range(CODE, CODE + 0x200), *range(0x8000, 0x8100)]
SSE = "mov eax, cr4\n or eax, 0x600\n mov cr4, eax\n"
guests = pytest.mark.parametrize("make", GUESTS.values(), ids=GUESTS.keys())


class Hit(NamedTuple):
    kind: int
    branches: int
    instructions: int
    pc: int
    address: int
    size: int
    value: int


def hits(core: Core) -> list[Hit]:
    return [Hit(*hit) for hit in core.take_hits()]


def watch_all(core: Core) -> Core:
    """Watch everything, and let nothing stop the guest."""
    core.set_watches(CODE_BYTES, [EVERYTHING], [EVERYTHING])
    return core


# ---- every kind of store and load ------------------------------------------------------------------------------------

W, R = WATCH_WRITE, WATCH_READ
ACCESSES: dict[str, tuple[str, list[tuple[int, int, int]]]] = {
    # what the last instruction of the guest notes: kind, offset, size
    "mov": ("mov [0x5004], eax", [(W, 4, 4)]),
    "mov from": ("mov ax, [0x5006]", [(R, 6, 2)]),
    "add to memory": ("add byte ptr [0x5003], 2", [(R, 3, 1), (W, 3, 1)]),
    "lock cmpxchg that fails": ("lock cmpxchg [0x5004], ebx", [(R, 4, 4), (W, 4, 4)]),
    "cmpxchg8b": ("cmpxchg8b [0x5008]", [(R, 8, 8), (W, 8, 8)]),
    "lock cmpxchg8b": ("lock cmpxchg8b [0x5008]", [(R, 8, 8), (W, 8, 8)]),
    "xadd": ("xadd [0x5000], ebx", [(R, 0, 4), (W, 0, 4)]),
    "lock xadd": ("lock xadd [0x5000], ebx", [(R, 0, 4), (W, 0, 4)]),
    "xchg": ("xchg [0x5000], ebx", [(R, 0, 4), (W, 0, 4)]),
    "lock inc": ("lock inc dword ptr [0x5000]", [(R, 0, 4), (W, 0, 4)]),
    "lock not": ("lock not word ptr [0x5000]", [(R, 0, 2), (W, 0, 2)]),
    "lock neg": ("lock neg word ptr [0x5000]", [(R, 0, 2), (R, 0, 2), (W, 0, 2)]),
    "bts": ("bts dword ptr [0x5000], 9", [(R, 0, 4), (W, 0, 4)]),
    "lock btc": ("lock btc dword ptr [0x5000], 9", [(R, 0, 4), (W, 0, 4)]),
    "bts beyond its operand": (
        "mov ebx, 40\n mov edx, 0x5000\n bts [edx], ebx",
        [(R, 4, 4), (W, 4, 4)],
    ),
    "bt": ("bt dword ptr [0x5000], 9", [(R, 0, 4)]),
    "setz": ("setz [0x5001]", [(W, 1, 1)]),
    "shld": ("shld [0x5000], ebx, 3", [(R, 0, 4), (W, 0, 4)]),
    "push": ("mov esp, 0x5008\n push 1", [(W, 4, 4)]),
    "pop to memory": ("push 7\n pop dword ptr [0x5000]", [(W, 0, 4)]),
    "pushf": ("mov esp, 0x5008\n pushf", [(W, 4, 4)]),
    "call": ("mov esp, 0x5008\n call next\n next:", [(W, 4, 4)]),
    "enter": (
        "mov esp, 0x5010\n mov ebp, esp\n enter 0, 2",
        [(W, 12, 4), (R, 12, 4), (W, 8, 4), (W, 4, 4)],
    ),
    "pusha": ("mov esp, 0x5010\n pusha", [(W, offset, 4) for offset in (0, 4, 8, 12)]),
    "stosb": ("mov edi, 0x5002\n stosb", [(W, 2, 1)]),
    "movsd": ("mov esi, 0x6000\n mov edi, 0x5004\n movsd", [(W, 4, 4)]),
    "cmpsb": ("mov esi, 0x5000\n mov edi, 0x5001\n cmpsb", [(R, 1, 1), (R, 0, 1)]),
    "movaps": (SSE + "movaps [0x5000], xmm0", [(W, 0, 8), (W, 8, 8)]),
    "movups": (SSE + "movups [0x5003], xmm0", [(W, 3, 8), (W, 11, 8)]),
    "movups from": (SSE + "movups xmm0, [0x5003]", [(R, 3, 8), (R, 11, 8)]),
    "movntdq": (SSE + "movntdq [0x5000], xmm0", [(W, 0, 8), (W, 8, 8)]),
    "movnti": (SSE + "movnti [0x5000], eax", [(W, 0, 4)]),
    "movss": (SSE + "movss [0x5000], xmm0", [(W, 0, 4)]),
    "stmxcsr": (SSE + "stmxcsr [0x5000]", [(W, 0, 4)]),
    "maskmovdqu": (
        SSE + "mov edi, 0x5000\n pcmpeqd xmm1, xmm1\n psrldq xmm1, 14\n maskmovdqu xmm0, xmm1",
        [(W, 0, 1), (W, 1, 1)],
    ),
    "fstp": ("fninit\n fldpi\n fstp qword ptr [0x5000]", [(W, 0, 8)]),
    "fstp of ten bytes": ("fninit\n fldpi\n fstp tbyte ptr [0x5000]", [(W, 0, 8), (W, 8, 2)]),
    "fnstcw": ("fninit\n fnstcw [0x5000]", [(W, 0, 2)]),
    "sgdt": ("sgdt [0x5000]", [(W, 0, 2), (W, 2, 4)]),
    "lgdt": ("lgdt [0x5000]", [(R, 0, 2), (R, 2, 4)]),
    "str": ("str [0x5000]", [(W, 0, 2)]),
    # Unicorn stores 0 first, to see whether it may.
    "insb": ("mov edi, 0x5001\n mov dx, 0x60\n insb", [(W, 1, 1), (W, 1, 1)]),
    "outsb": ("mov esi, 0x5001\n mov dx, 0x60\n outsb", [(R, 1, 1)]),
}


@pytest.mark.parametrize("name", ACCESSES)
def test_an_access_is_noted_at_its_instruction(name: str) -> None:
    source, expected = ACCESSES[name]
    before, _, last = source.rpartition("\n") if not source.endswith(":") else source.rpartition("\n call")
    core = protected(source + "\n hlt")
    setup = protected(before + "\n hlt") if before else core
    pc = next(at for at in range(CODE, CODE + 64) if core.ram[at] != setup.ram[at]) if before else CODE

    core.set_watches([], [(DATA, 16)], [(DATA, 16)])

    assert core.run(FOREVER) == STOP_HALT
    seen = hits(core)
    assert [(hit.kind, hit.address - DATA, hit.size) for hit in seen] == expected, last
    assert {(hit.branches, hit.pc) for hit in seen} == {(1, pc)}


def test_a_written_value_is_what_stands_there_afterwards_and_a_read_one_before() -> None:
    core = protected("mov dword ptr [0x5000], 0x11223344\n add word ptr [0x5001], 0x1010\n hlt")
    core.set_watches([], [(DATA, 4)], [(DATA, 4)])

    core.run(FOREVER)

    assert [(hit.kind, hit.value) for hit in hits(core)] == [(W, 0x11223344), (R, 0x2233), (W, 0x3243)]


def test_every_repetition_is_an_access_at_its_own_branch() -> None:
    core = protected("mov edi, 0x5000\n mov ecx, 4\n spot: rep stosd\n hlt")
    core.set_watches([CODE + 10], [(DATA + 4, 8)], [])

    core.run(FOREVER)

    noted = [(hit.kind, hit.branches, hit.pc) for hit in hits(core)]
    assert [at for at in noted if at[0] == W] == [(W, 2, CODE + 10), (W, 3, CODE + 10)]
    assert [at[1] for at in noted if at[0] == WATCH_EXECUTE] == [1, 2, 3, 4, 5]


def test_fxsave_is_many_stores_and_all_of_them_are_noted() -> None:
    core = protected(SSE + "fxsave [0x5000]\n hlt")
    core.ram[DATA : DATA + 512] = b"\xee" * 512
    core.set_watches([], [(DATA, 512)], [])

    core.run(FOREVER)

    touched = {
        offset for hit in hits(core) for offset in range(hit.address - DATA, hit.address - DATA + hit.size)
    }
    changed = {offset for offset in range(512) if core.ram[DATA + offset] != 0xEE}
    assert changed
    assert changed <= touched


def test_cmpxchg16b_writes_both_halves() -> None:
    core = long("mov rbx, 7\n mov rcx, 9\n lock cmpxchg16b [0x5000]\n hlt")
    core.set_watches([], [(DATA + 8, 8)], [])

    core.run(FOREVER)

    assert [(hit.address, hit.size, hit.value) for hit in hits(core)] == [(DATA + 8, 8, 9)]


@pytest.mark.parametrize(("offset", "size"), [(-3, 4), (-7, 8), (3, 4), (0, 8), (1, 1)])
def test_an_access_that_overlaps_is_noted_however_little(offset: int, size: int) -> None:
    address = DATA + 0x100 + offset
    store = {1: "byte", 4: "dword", 8: "qword"}[size]
    core = long(f"mov {store} ptr [{address}], 5\n hlt")
    core.set_watches([], [(DATA + 0x100, 4)], [])

    core.run(FOREVER)

    assert [(hit.address, hit.size) for hit in hits(core)] == [(address, size)]


@pytest.mark.parametrize("offset", [-4, 4])
def test_an_access_beside_is_not_noted(offset: int) -> None:
    core = protected(f"mov dword ptr [{DATA + 0x100 + offset}], 5\n mov eax, [{DATA + 0x100}]\n hlt")
    core.set_watches([], [(DATA + 0x100, 4)], [])

    core.run(FOREVER)

    assert core.hits_noted == 0


# ---- what Unicorn's hooks do not show --------------------------------------------------------------------------------


def test_a_pushed_frame_is_noted_in_real_mode() -> None:
    core = real("nop\n int 0x40\n hlt")
    put(core, 0x8000, "hlt", 16)
    set_vector(core, 0x40, 0x8000)
    core.set_watches([], [(STACK - 6, 6)], [(0x100, 4)])

    core.run(FOREVER)

    frame = [(hit.kind, hit.branches, hit.address, hit.size) for hit in hits(core)]
    assert frame == [(R, 1, 0x100, 4)] + [(W, 1, STACK - 2 * i, 2) for i in (1, 2, 3)]


@pytest.mark.parametrize("is_long", [False, True])
def test_exception_delivery_is_noted_with_what_it_reads(is_long: bool) -> None:
    bits, width = (64, 8) if is_long else (32, 4)
    core = (long if is_long else protected)(LOAD_TABLES + to_user("user", bits=bits) + "user: ud2")
    put(core, 0x8000, "hlt", bits)
    set_gate(core, 6, 0x8000, is_long=is_long)
    gate = 6 * (16 if is_long else 8)
    bottom = STACK - 5 * width
    core.set_watches([], [(bottom, 5 * width)], [(IDT + gate, 8), (TSS + 4, width), (GDT + 0x10, 8)])

    core.run(FOREVER)

    seen = [hit for hit in hits(core) if core.ram[hit.pc : hit.pc + 2] == b"\x0f\x0b"]
    assert {hit.branches for hit in seen} == {1}
    assert {hit.address for hit in seen if hit.kind == R} == {IDT + gate, TSS + 4, GDT + 0x10}
    written = {hit.address: hit.value for hit in seen if hit.kind == W}
    assert written == {at: word(core, at, width) for at in range(bottom, STACK, width)}


def test_an_interrupt_from_outside_is_noted() -> None:
    core = real("sti\n hlt\n hlt")
    put(core, 0x8000, "iret", 16)
    set_vector(core, 0x20, 0x8000)
    core.set_watches([], [(STACK - 6, 2)], [])
    core.run(FOREVER)

    core.interrupt(0x20)

    assert [(hit.kind, hit.pc, hit.value) for hit in hits(core)] == [(W, CODE + 2, CODE + 2)]


def test_accessed_and_dirty_bits_are_noted() -> None:
    """The MMU sets them: no hook is called."""
    core = long("mov ebx, [0x5000]\n jmp on\n nop\n on: mov [0x5000], ebx\n jmp last\n nop\n last: hlt")
    core.set_watches([], [(0x2000, 8), (0x3000, 8), (0x4000, 8)], [])

    core.run(FOREVER)

    seen = hits(core)
    assert {hit.kind for hit in seen} == {WATCH_WRITE | WATCH_BLOCK}
    assert [(hit.address, hit.value) for hit in seen] == [
        (0x2000, 0x27),
        (0x3000, 0x27),
        (0x4000, 0xA7),
        (0x4000, 0xE7),
    ]
    assert [hit.branches for hit in seen][-1] == 2


def test_an_accessed_bit_between_two_stores_to_its_entry_is_noted() -> None:
    core = two_pages(
        "and byte ptr [0x10000], 0xdf\n mov eax, [0x400000]\n and byte ptr [0x10000], 0xdf\n hlt"
    )
    core.set_watches([], [(0x10000, 8)], [])

    core.run(FOREVER)

    kinds = [hit.kind for hit in hits(core)]
    assert kinds == [W, W | WATCH_BLOCK, W]


def test_what_a_device_writes_is_noted() -> None:
    core = protected("mov al, 1\n out 0x60, al\n hlt")

    def dma(*_: int) -> None:
        core.ram[0x4800:0x5800] = b"\x77" * 0x1000
        core.written(0x4800, 0x1000)

    core.set_callbacks(lambda *_: 0, dma, lambda *_: 0, lambda *_: None)
    core.set_watches([], [(DATA + 0x10, 4)], [])

    core.run(FOREVER)

    assert [(hit.kind, hit.address, hit.size, hit.value) for hit in hits(core)] == [
        (W, DATA + 16, 4, 0x77777777)
    ]


def test_what_the_caller_writes_between_two_runs_is_not() -> None:
    core = protected("inc eax\n jmp on\n nop\n on: hlt")
    core.set_watches([], [(DATA, 4), (0x6000, 4)], [])
    core.run(2)

    core.write_pages(struct.pack("<I", DATA >> 12), b"\xff" * 4096)
    core.ram[0x6000:0x6004] = b"\xff" * 4
    core.run(FOREVER)

    assert core.hits_noted == 0


# ---- accesses that go on into the next page --------------------------------------------------------------------------


def two_pages(source: str) -> Core:
    """Return a guest with 0x400000 mapped to 0x20000 and 0x402000 to 0x38000; 0x401000 is not mapped.

    The page table is at 0x10000.  A page fault maps it, to 0x30000.
    """
    core = long(LOAD_TABLES + source)
    core.ram[0x4010:0x4018] = struct.pack("<Q", 0x10007)
    core.ram[0x10000:0x10018] = struct.pack("<3Q", 0x20007, 0, 0x38007)
    put(core, 0x8000, "mov dword ptr [0x10008], 0x30007\n add rsp, 8\n iretq", 64)
    set_gate(core, 14, 0x8000, is_long=True)
    return core


def test_an_access_whose_second_page_faults_is_noted_when_it_is_made() -> None:
    core = two_pages("mov rbx, [0x400ffb]\n hlt")
    core.set_watches([], [], [(0x20FF0, 16)])

    assert core.run(FOREVER) == STOP_HALT

    assert [(hit.kind, hit.branches, hit.address, hit.size) for hit in hits(core)] == [(R, 3, 0x20FFB, 8)]


def test_a_store_whose_second_page_faults_is_noted_when_it_is_made() -> None:
    core = two_pages("mov qword ptr [0x400ffb], -1\n hlt")
    core.set_watches([], [(0x20FF0, 16)], [])

    assert core.run(FOREVER) == STOP_HALT

    assert [(hit.kind, hit.branches, hit.address, hit.size) for hit in hits(core)] == [(W, 3, 0x20FFB, 8)]


@pytest.mark.parametrize("instruction", ["mov rbx, [0x400ffb]", "mov [0x400ffb], rbx", "add [0x400ffb], rbx"])
def test_nothing_is_missed_after_a_fault_on_the_second_page(instruction: str) -> None:
    """Unicorn calls no hooks while it takes an access apart, and a fault in its middle used to leave it at that."""
    core = two_pages(f"{instruction}\n mov dword ptr [0x5000], 7\n hlt")
    put(
        core,
        0x8000,
        f"mov dword ptr [0x10008], 0x30007\n mov byte ptr [{DATA + 8}], 1\n add rsp, 8\n iretq",
        64,
    )
    core.set_watches([], [(DATA, 16)], [])

    assert core.run(FOREVER) == STOP_HALT

    written = [(hit.address, hit.value) for hit in hits(core) if hit.kind == W]
    assert written == [(DATA + 8, 1), (DATA, 7)]


@pytest.mark.parametrize("start", [0x30000, 0x30002])
def test_bytes_in_the_second_page_of_an_access_are_not_missed(start: int) -> None:
    core = two_pages("mov rbx, -1\n mov [0x400ffb], rbx\n mov [0x400ffb], rbx\n mov rax, [0x400ffb]\n hlt")
    core.set_watches([], [(start, 1)], [(start, 1)])

    core.run(FOREVER)

    seen = [(hit.kind, hit.branches, hit.address) for hit in hits(core)]
    assert (W | WATCH_BLOCK, 3, start) in seen
    assert [hit for hit in seen if hit[0] == W | WATCH_MAYBE] == [(W | WATCH_MAYBE, 3, 0x20FFB)] * 2
    assert seen[-1] == (R | WATCH_MAYBE, 3, 0x20FFB)


def test_bytes_further_into_a_page_need_no_guess() -> None:
    core = two_pages("mov qword ptr [0x400ffb], -1\n mov qword ptr [0x401006], -1\n hlt")
    core.set_watches([], [(0x30007, 4)], [])

    core.run(FOREVER)

    assert [(hit.kind, hit.address) for hit in hits(core)] == [(W, 0x30006)]


def test_a_store_across_pages_into_its_own_block_hides_nothing() -> None:
    """Unicorn restarts the store from its middle, with its hooks off."""
    source = (
        "mov ecx, 3\n jmp again\n .org 0x3e0\n again: mov eax, 0x90909090\n mov [patch], eax\n mov [0x5010], ecx\n"
        ".org 0x3fe, 0x90\n patch: nop\n nop\n nop\n nop\n mov [0x5014], ecx\n dec ecx\n jnz again\n hlt"
    )
    core, plain = protected(source), protected(source)
    core.set_watches([], [(DATA + 16, 8)], [])

    assert core.run(FOREVER) == plain.run(FOREVER) == STOP_HALT

    expected = [(0, 3), (4, 3), (0, 2), (4, 2), (0, 1), (4, 1)]
    assert [(hit.address - DATA - 16, hit.value) for hit in hits(core)] == expected
    assert core.digest_input() == plain.digest_input()


@pytest.mark.parametrize("value", [0x90909090, 0x41414141])
def test_a_store_into_its_own_block_is_made_where_it_begins_once_more(value: int) -> None:
    """Also if it changes nothing, and however the guest gets there."""
    source = f"mov eax, {value}\n xchg [patch], eax\n patch: nop\n nop\n nop\n nop\n hlt"
    whole, stopped, stepped = protected(source), protected(source), protected(source)
    for core in (whole, stopped, stepped):
        core.set_watches([], [(CODE + 11, 4)], [(CODE + 11, 4)])
    plain = protected(source)
    plain.run(FOREVER)
    patch = bytes(plain.ram[CODE : CODE + 32]).index(value.to_bytes(4, "little"), 5)
    assert patch == 11

    whole.run(FOREVER)
    stopped.stop_at_hits = True
    while stopped.run(stopped.branches + 1) in (STOP_LIMIT, STOP_WATCH):
        pass
    stepped.step(FOREVER)

    for core in (whole, stopped, stepped):
        assert [(hit.kind & (R | W), hit.branches, hit.value) for hit in hits(core)] == [
            (R, 2, 0x90909090),
            (W, 2, value),
        ]
        assert core.digest_input() == plain.digest_input()


# ---- execution -------------------------------------------------------------------------------------------------------


@guests
def test_what_blocks_execute_is_what_an_instruction_hook_sees(make: Guest) -> None:
    stepped, run = make(), make()
    for core in (stepped, run):
        core.counting = True
        core.set_watches(CODE_BYTES, [], [])

    assert stepped.step(FOREVER) == run.run(FOREVER)

    executed = hits(run)
    assert executed == hits(stepped)
    assert executed
    assert {hit.kind for hit in executed} == {WATCH_EXECUTE}


def test_the_middle_of_an_instruction_is_not_executed() -> None:
    core = protected("mov eax, 0x90909090\n inc ebx\n hlt")
    core.set_watches([CODE + 1, CODE + 5, CODE + 6], [], [])

    core.run(FOREVER)

    assert [(hit.pc, hit.address) for hit in hits(core)] == [(CODE + 5, CODE + 5), (CODE + 6, CODE + 6)]


def test_code_is_watched_by_linear_address_and_noted_by_pc() -> None:
    core = real("jmp 0x700: 0xd00")
    put(core, 0x7D00, "inc bx\n inc cx\n hlt", 16)
    core.set_watches([0x7D01, 0xD01], [], [])

    core.run(FOREVER)

    assert [(hit.pc, hit.address, hit.branches) for hit in hits(core)] == [(0xD01, 0x7D01, 2)]


def test_hits_of_one_straight_line_are_in_order() -> None:
    core = protected("inc eax\n mov [0x5000], eax\n inc eax\n mov [0x5000], eax\n hlt")
    core.set_watches([CODE, CODE + 6, CODE + 12], [(DATA, 4)], [])

    core.run(FOREVER)

    assert [hit.pc - CODE for hit in hits(core)] == [0, 1, 6, 7, 12]


# ---- nothing else changes --------------------------------------------------------------------------------------------


@guests
def test_watching_everything_changes_nothing(make: Guest) -> None:
    plain, core = make(), watch_all(make())

    assert core.run(FOREVER) == plain.run(FOREVER)

    assert core.hits_noted > 0
    assert core.fault == plain.fault
    assert core.digest_input() == plain.digest_input()
    assert bytes(core.ram) == bytes(plain.ram)


@guests
def test_the_noted_writes_make_memory_what_it_has_become(make: Guest) -> None:
    core = make()
    memory = bytearray(core.ram)
    core.set_watches([], [EVERYTHING], [])

    core.run(FOREVER)

    for hit in hits(core):
        memory[hit.address : hit.address + hit.size] = hit.value.to_bytes(8, "little")[: hit.size]
    assert memory == core.ram


def test_stops_between_change_neither_hits_nor_the_guest() -> None:
    whole, stopped = watch_all(real(MIXED)), watch_all(real(MIXED))
    put(whole, 0x8000, "hlt", 16)
    put(stopped, 0x8000, "hlt", 16)
    whole.take_hits()
    stopped.take_hits()

    whole.run(FOREVER)
    while stopped.run(stopped.branches + 1) == STOP_LIMIT:
        pass

    assert hits(stopped) == hits(whole)
    assert stopped.digest_input() == whole.digest_input()


STOPS = 3_000
"""More branches than any of the small guests takes, but for those that do not end."""
WATCHES: list[tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]] = [
    (CODE_BYTES, [EVERYTHING], [EVERYTHING]),
    ([], [], []),
    ([], [(0x2593, 8)], []),
    ([], [], [(0x1000, 8)]),
]


@guests
@pytest.mark.parametrize("changes", [False, True], ids=["same watches", "other watches"])
def test_stops_at_every_branch_leave_the_guest_as_it_is_and_it_gets_on(make: Guest, changes: bool) -> None:
    """In a guest that changes its own code a flag outlived a stop, and the same block was begun for ever."""
    plain, core = make(), watch_all(make())

    for number in range(STOPS):
        if changes:
            core.set_watches(*WATCHES[number % len(WATCHES)])
        limit = core.branches + 1
        stop = core.run(limit)
        assert stop == plain.run(limit)
        assert core.digest_input() == plain.digest_input()
        if stop != STOP_LIMIT:
            break

    assert bytes(core.ram) == bytes(plain.ram)


def test_counted_instructions_are_those_that_stepping_counts() -> None:
    stepped, run = real(MIXED), real(MIXED)
    run.counting = True
    for core in (stepped, run):
        core.set_watches([], [(0x3000, 4)], [])

    stepped.step(FOREVER)
    run.run(FOREVER)

    writes = [hit for hit in hits(run) if hit.kind == W]
    assert len(writes) == 12
    assert writes == [hit for hit in hits(stepped) if hit.kind == W]


@pytest.mark.parametrize("watched", ["code", "writes", "reads"])
def test_watching_leaves_undefined_flags_as_they_are(watched: str) -> None:
    """BT leaves OF, SF, AF and PF undefined: a code hook there changes what Unicorn leaves in them."""
    cores = [
        protected("mov al, 0x7f\n add al, 1\n spot: bt ebx, 3\n pushf\n pop ecx\n hlt") for _ in range(2)
    ]
    core, plain = cores
    core.set_watches(
        [CODE + 4] * (watched == "code"),
        [(STACK - 4, 4)] * (watched == "writes"),
        [(STACK - 4, 4)] * (watched == "reads"),
    )

    core.run(FOREVER)
    plain.run(FOREVER)

    assert core.hits_noted == 1
    assert core.registers() == plain.registers()


def test_setting_watches_leaves_the_state_alone() -> None:
    core = two_pages("mov rbx, [0x400ffb]\n jmp on\n nop\n on: hlt")
    core.run(4)
    before = core.save()

    for writes in ([(DATA, 4)], [(0x20000, 8)], []):
        core.set_watches([CODE], writes, [])
        assert core.save() == before

    assert core.run(FOREVER) == STOP_HALT


# ---- what the caller does --------------------------------------------------------------------------------------------

LOOP = "mov ecx, 10\n again: mov [0x5000], ecx\n dec ecx\n jnz again\n mov [0x5004], ecx\n hlt"


def test_a_hit_ends_a_run_at_the_next_branch_if_it_is_to() -> None:
    core = protected(LOOP)
    core.set_watches([], [(DATA, 4)], [])
    core.stop_at_hits = True

    stops = [core.run(FOREVER) for _ in range(3)]

    assert stops == [STOP_WATCH] * 3
    assert core.branches == 4
    assert [hit.branches for hit in hits(core)] == [1, 2, 3]


def test_a_hit_before_a_halt_is_there_to_be_taken() -> None:
    core = protected(LOOP)
    core.set_watches([], [(DATA + 4, 4)], [])
    core.stop_at_hits = True

    assert core.run(FOREVER) == STOP_HALT

    assert [hit.branches for hit in hits(core)] == [10]


def test_stopping_at_hits_changes_nothing() -> None:
    plain, core = real(MIXED), real(MIXED)
    core.set_watches(CODE_BYTES, [EVERYTHING], [])
    core.stop_at_hits = True
    plain.run(FOREVER)

    stops = 0
    while core.run(FOREVER) == STOP_WATCH:
        stops += 1

    assert stops == plain.branches - 1
    assert core.digest_input() == plain.digest_input()
    assert bytes(core.ram) == bytes(plain.ram)


def test_steps_note_and_do_not_stop() -> None:
    core = protected(LOOP)
    core.set_watches([CODE + 5], [(DATA, 4)], [])
    core.stop_at_hits = True

    assert core.step(2) == STOP_STEPS

    assert [(hit.kind, hit.instructions) for hit in hits(core)] == [(WATCH_EXECUTE, 2), (W, 2)]


def test_new_watches_replace_the_old_and_their_hits() -> None:
    core = protected(LOOP)
    core.set_watches([], [(DATA, 4)], [])
    core.run(3)

    core.set_watches([], [(DATA + 4, 4)], [])
    assert core.hits_noted == 0
    core.run(FOREVER)

    assert [hit.address for hit in hits(core)] == [DATA + 4]


def test_no_watches_note_nothing() -> None:
    core = protected(LOOP)
    core.set_watches([CODE + 5], [(DATA, 4)], [(DATA, 4)])
    core.run(3)

    core.set_watches([], [], [])
    core.run(FOREVER)

    assert (core.hits_noted, core.take_hits()) == (0, [])


def test_hits_are_taken_once_and_the_last_65536_are_kept() -> None:
    core = protected("mov ecx, 70000\n again: mov [0x5000], ecx\n dec ecx\n jnz again\n hlt")
    core.set_watches([], [(DATA, 4)], [])

    core.run(FOREVER)

    assert core.hits_noted == 70_000
    assert [hit.value for hit in hits(core)] == list(range(65_536, 0, -1))
    assert core.take_hits() == []
    assert core.hits_noted == 70_000


def test_a_restored_state_is_watched_as_before() -> None:
    core = protected(LOOP)
    core.set_watches([], [(DATA, 4)], [])
    core.run(5)
    state, ram = core.save(), bytes(core.ram)
    core.run(FOREVER)
    first = hits(core)

    core.ram[:] = ram
    core.restore(state)
    core.run(FOREVER)

    assert [hit for hit in first if hit.branches >= 5] == hits(core)


@pytest.mark.parametrize(
    ("code", "writes", "reads", "problem"),
    [
        ([-1], [], [], "64 bits"),
        ([1 << 64], [], [], "64 bits"),
        (range(1025), [], [], "at most 1024"),
        ([], [(0, 0)], [], "1 to 65536 bytes"),
        ([], [], [(0, 65_537)], "1 to 65536 bytes"),
        ([], [(1 << 52, 1)], [], "1 to 65536 bytes"),
        ([], [(-1, 1)], [], "64 bits"),
        ([], [(page << 12, 1) for page in range(65)], [], "at most 64 ranges"),
        ([], [(0, 40_000), (40_000, 40_000)], [], "65536 bytes"),
        ([], [], [(1, 2, 3)], r"\(start, size\)"),
        ([], [], [7], r"\(start, size\)"),
    ],
)
def test_what_cannot_be_watched_is_refused_and_changes_nothing(
    code: list[int], writes: list[tuple[int, int]], reads: list[tuple[int, int]], problem: str
) -> None:
    core = protected(LOOP)
    core.set_watches([], [(DATA, 4)], [])

    with pytest.raises(ValueError, match=problem):
        core.set_watches(code, writes, reads)

    core.run(FOREVER)
    assert core.hits_noted == 10


def test_what_is_no_sequence_is_refused() -> None:
    core = new_core()

    with pytest.raises(TypeError):
        core.set_watches(1, [], [])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        core.set_watches([], [("a", 1)], [])  # type: ignore[list-item]


def test_memory_beyond_ram_is_watched_as_well() -> None:
    core = protected("mov eax, [0x80000010]\n mov word ptr [0x90000002], ax\n hlt")
    core.set_watches([], [(0x90000000, 4)], [(0x80000010, 4)])

    core.run(FOREVER)

    assert [(hit.kind, hit.address) for hit in hits(core)] == [(R, 0x80000010), (W, 0x90000002)]


def test_as_much_as_can_be_watched_is() -> None:
    core = protected(LOOP)
    ranges = [(0x10000 + 0x1100 * number, 8) for number in range(63)]

    core.set_watches(range(CODE - 512, CODE + 512), [*ranges, (DATA, 4)], [*ranges, (DATA, 4)])
    core.run(FOREVER)

    assert sum(hit.kind == W for hit in hits(core)) == 10
