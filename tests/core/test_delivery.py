"""Exceptions and interrupts as the guest sees them: frames, error codes, stacks, and what happens when they fail.

Expectations come from the Intel SDM, volume 3, chapter 6 (interrupt and exception handling)."""

from __future__ import annotations

import pytest
from small_guests import (
    CODE,
    FOREVER,
    GDT_LIMIT,
    IST_STACK,
    KERNEL_CODE,
    KERNEL_DATA,
    LOAD_TABLES,
    RAM_SIZE,
    STACK,
    USER_CODE,
    USER_CODE64,
    USER_DATA,
    long,
    protected,
    put,
    real,
    set_gate,
    set_vector,
    to_user,
    word,
)

from revirt.core import MODE_REAL, STOP_HALT, STOP_INTERRUPTIBLE, STOP_LIMIT, STOP_SHUTDOWN, Core

HANDLER = 0x8000
PAGE_TABLE_ENTRY = 0x4000
"""Of the only 2 MiB page."""


def catch(core: Core, vector: int, *, is_long: bool, bits: int, dpl: int = 0, ist: int = 0) -> None:
    put(core, HANDLER, "hlt", bits)
    set_gate(core, vector, HANDLER, is_long=is_long, dpl=dpl, ist=ist)


def frame(core: Core, count: int, size: int) -> list[int]:
    """Return the topmost *count* words of *size* bytes on the stack."""
    at = core.registers()["rsp"]
    return [word(core, at + size * i, size) for i in range(count)]


def test_real_mode_pushes_flags_cs_and_ip() -> None:
    core = real("stc\n int 0x40\n nop")
    put(core, HANDLER, "hlt", 16)
    set_vector(core, 0x40, HANDLER)

    assert core.run(FOREVER) == STOP_HALT

    ip, cs, flags = frame(core, 3, 2)
    assert (ip, cs) == (CODE + 3, 0)
    assert flags & 1
    assert core.registers()["rsp"] == STACK - 6


def test_real_mode_exceptions_have_no_error_code() -> None:
    core = real("xor cx, cx\n div cx")
    put(core, HANDLER, "hlt", 16)
    set_vector(core, 0, HANDLER)

    core.run(FOREVER)

    assert frame(core, 1, 2) == [CODE + 2]
    assert core.registers()["rsp"] == STACK - 6


def test_page_fault_pushes_its_error_code_and_sets_cr2() -> None:
    core = long(f"{LOAD_TABLES} mov rax, 0x12345678\n fault: mov [rax], rbx")
    catch(core, 14, is_long=True, bits=64)

    assert core.run(FOREVER) == STOP_HALT

    error, rip, cs, _, rsp, ss = frame(core, 6, 8)
    assert error == 2  # a write, by the supervisor, to a page that is not present
    assert core.registers()["cr2"] == 0x12345678
    assert core.ram[rip : rip + 3] == bytes.fromhex("488918")
    assert (cs, rsp, ss) == (KERNEL_CODE, STACK, KERNEL_DATA)


def test_second_page_fault_is_a_page_fault_again() -> None:
    """Unicorn never forgets the exception in flight: the second #PF used to arrive as #DF."""
    core = long(
        f"{LOAD_TABLES} mov rax, 0x12345678\n mov [rax], rbx\n add rax, 0x1000\n mov [rax], rbx\n hlt"
    )
    put(core, HANDLER, "inc rsi\n add rsp, 8\n add qword ptr [rsp], 3\n iretq", 64)
    set_gate(core, 14, HANDLER, is_long=True)

    assert core.run(FOREVER) == STOP_HALT

    assert core.registers()["rsi"] == 2
    assert core.registers()["cr2"] == 0x12346678
    assert core.pc < HANDLER


def test_undefined_instruction_has_no_error_code() -> None:
    core = protected(f"{LOAD_TABLES} ud2")
    catch(core, 6, is_long=False, bits=32)

    core.run(FOREVER)

    assert core.registers()["rsp"] == STACK - 12
    assert bytes(core.ram[frame(core, 1, 4)[0] :][:2]) == b"\x0f\x0b"


def test_selector_error_code_names_the_selector() -> None:
    core = protected(f"{LOAD_TABLES} mov ax, 0x78\n mov ds, ax")
    catch(core, 13, is_long=False, bits=32)

    core.run(FOREVER)

    assert frame(core, 1, 4) == [0x78]


def test_software_interrupt_from_user_mode_needs_the_gates_permission() -> None:
    core = protected(LOAD_TABLES + to_user("user", bits=32) + "user: int 0x80")
    put(core, HANDLER, "hlt", 32)
    set_gate(core, 0x80, 0x8100, is_long=False)
    catch(core, 13, is_long=False, bits=32)

    core.run(FOREVER)

    error, eip = frame(core, 2, 4)
    assert error == 0x80 * 8 + 2
    assert bytes(core.ram[eip : eip + 2]) == b"\xcd\x80"


@pytest.mark.parametrize(("instruction", "vector"), [("int3", 3), (".byte 0xcd, 3", 3), ("int 0xcc", 0xCC)])
def test_refused_software_interrupt_points_at_its_instruction(instruction: str, vector: int) -> None:
    core = protected(LOAD_TABLES + to_user("user", bits=32) + f"nop\n user: {instruction}")
    set_gate(core, vector, 0x8100, is_long=False)
    catch(core, 13, is_long=False, bits=32)

    core.run(FOREVER)

    assert bytes(core.ram[frame(core, 2, 4)[1] - 1 :][:1]) == b"\x90"


@pytest.mark.parametrize("bits", [32, 64])
def test_entry_from_user_mode_switches_to_the_stack_of_the_tss(bits: int) -> None:
    is_long, size = bits == 64, bits // 8
    core = (long if is_long else protected)(LOAD_TABLES + to_user("user", bits=bits) + "user: int 0x80")
    catch(core, 0x80, is_long=is_long, bits=bits, dpl=3)

    core.run(FOREVER)

    _, cs, flags, sp, ss = frame(core, 5, size)
    assert (cs, sp, ss) == (USER_CODE64 if is_long else USER_CODE, 0xB000, USER_DATA)
    assert flags & 2
    assert core.registers()["rsp"] == STACK - 5 * size
    assert core.registers()["cs"] == KERNEL_CODE


def test_interrupt_stack_table_overrides_the_stack() -> None:
    core = long(f"{LOAD_TABLES} mov rsp, 0x8f0b\n int 0x40")
    catch(core, 0x40, is_long=True, bits=64, ist=1)

    core.run(FOREVER)

    assert core.registers()["rsp"] == IST_STACK - 40
    assert frame(core, 4, 8)[3] == 0x8F0B


def test_long_mode_aligns_the_frame() -> None:
    core = long(f"{LOAD_TABLES} mov rsp, 0x8f0b\n int 0x40")
    catch(core, 0x40, is_long=True, bits=64)

    core.run(FOREVER)

    assert core.registers()["rsp"] == 0x8F00 - 40


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_interrupts_arrive_at_a_boundary_with_if_set(mode: str) -> None:
    bits = {"real": 16, "protected": 32, "long": 64}[mode]
    tables = "" if mode == "real" else LOAD_TABLES
    source = f"{tables} cli\n mov ecx, 5\n closed: loop closed\n sti\n again: inc ebx\n jmp again"
    core = {"real": real, "protected": protected, "long": long}[mode](source)
    put(core, HANDLER, "hlt", bits)
    if mode == "real":
        set_vector(core, 0x21, HANDLER)
    else:
        set_gate(core, 0x21, HANDLER, is_long=mode == "long")
    core.run(1)
    core.intr = True

    assert core.run(FOREVER) == STOP_INTERRUPTIBLE
    assert core.interruptible
    assert core.registers()["rbx"] == 1
    core.interrupt(0x21)
    assert not core.interruptible
    assert core.run(FOREVER) == STOP_HALT
    assert core.pc == HANDLER + 1


def test_interrupt_from_user_mode_changes_the_privilege() -> None:
    core = long(LOAD_TABLES + to_user("user", bits=64) + "user: jmp user")
    catch(core, 0x21, is_long=True, bits=64, ist=1)
    core.run(5)

    core.interrupt(0x21)
    core.run(FOREVER)

    assert core.registers()["rsp"] == IST_STACK - 40
    assert frame(core, 5, 8)[1] == USER_CODE64


def test_virtual_8086_mode_is_left_with_all_segments_on_the_stack() -> None:
    source = f"{LOAD_TABLES} " + "\n".join(
        f"push {value:#x}" for value in (0x55, 0x44, 0x33, 0x22, 0x66, 0x1000, 0x20002, 0x800, 0)
    )
    core = protected(source + "\n iretd")
    core.ram[0x8000:0x8002] = b"\x0f\x0b"
    put(core, 0x8100, "hlt", 32)
    set_gate(core, 6, 0x8100, is_long=False)

    assert core.run(FOREVER) == STOP_HALT

    eip, cs, flags, esp, ss, es, ds, fs, gs = frame(core, 9, 4)
    assert (eip, cs, esp, ss) == (0, 0x800, 0x1000, 0x66)
    assert flags & 0x20000
    assert (es, ds, fs, gs) == (0x22, 0x33, 0x44, 0x55)


def test_missing_gate_escalates_to_a_double_fault() -> None:
    core = protected(f"{LOAD_TABLES} xor ecx, ecx\n div ecx")
    catch(core, 8, is_long=False, bits=32)

    assert core.run(FOREVER) == STOP_HALT

    assert frame(core, 1, 4) == [0]


def test_missing_gate_of_an_interrupt_is_a_protection_fault() -> None:
    core = protected(f"{LOAD_TABLES} again: jmp again")
    catch(core, 13, is_long=False, bits=32)
    core.run(3)

    core.interrupt(0x55)
    core.run(FOREVER)

    assert frame(core, 1, 4) == [0x55 * 8 + 3]


def test_triple_fault_shuts_down_and_says_why() -> None:
    core = protected("lidt [zero]\n ud2\n zero: .quad 0")

    assert core.run(FOREVER) == STOP_SHUTDOWN

    assert "triple fault" in core.fault
    assert "exception 6" in core.fault
    assert core.run(FOREVER) == STOP_SHUTDOWN


def test_restoring_after_a_shutdown_runs_again() -> None:
    core = protected("nop\n jmp on\n nop\n on: lidt [zero]\n ud2\n zero: .quad 0")
    core.run(1)
    state = core.save()
    core.run(FOREVER)

    core.restore(state)

    assert core.fault == ""
    assert core.run(2) == STOP_LIMIT


def test_stack_that_is_not_mapped_is_a_double_fault_on_its_own_stack() -> None:
    core = long(f"{LOAD_TABLES} mov rsp, 0x7fff0000\n ud2")
    catch(core, 8, is_long=True, bits=64, ist=1)
    set_gate(core, 6, HANDLER, is_long=True)
    set_gate(core, 14, HANDLER, is_long=True)

    assert core.run(FOREVER) == STOP_HALT

    assert core.registers()["rsp"] == IST_STACK - 48
    assert core.registers()["cr2"] == 0x7FFF0000 - 48  # of the #PF's frame, which could not be pushed either


def test_handler_that_cannot_be_fetched_shuts_down() -> None:
    core = long(f"{LOAD_TABLES} ud2")
    set_gate(core, 6, 0x70000000, is_long=True)
    set_gate(core, 14, 0x70000000, is_long=True, ist=1)

    assert core.run(FOREVER) == STOP_SHUTDOWN

    assert "cannot be fetched" in core.fault


def test_call_gate_without_a_tss_ends_the_guest_and_not_the_process() -> None:
    """Unicorn calls abort() here."""
    gate = (HANDLER | KERNEL_CODE << 16) | (0xEC00 << 32)
    core = protected("xor ax, ax\n ltr ax\n" + to_user("user", bits=32) + f"user: call {GDT_LIMIT + 1 | 3}:0")
    core.ram[0x800 + GDT_LIMIT + 1 : 0x800 + GDT_LIMIT + 9] = gate.to_bytes(8, "little")
    registers = {"rsp": STACK}
    core.start(1, CODE, registers, 0x800, GDT_LIMIT + 8, 0)

    assert core.run(FOREVER) == STOP_SHUTDOWN

    assert "gave up" in core.fault
    core.start(MODE_REAL, HANDLER, registers, 0, 0, 0)
    put(core, HANDLER, "hlt", 16)
    assert core.run(FOREVER) == STOP_HALT


def test_syscall_without_permission_is_undefined() -> None:
    core = long(f"{LOAD_TABLES} syscall")
    catch(core, 6, is_long=True, bits=64)

    assert core.run(FOREVER) == STOP_HALT
    assert core.pc == HANDLER + 1


# ---- IN and OUT ----------------------------------------------------------------------------------------------------


def refused(instruction: str, *, bits: int, setup: str = "") -> tuple[Core, list[object]]:
    """Run *instruction* at ring 3 with IOPL 0, followed by a store; return the core and what devices saw."""
    seen: list[object] = []
    store = "mov dword ptr [0x6000], 0x5a5a5a5a\n mov dword ptr [0x300000], 1\n"
    source = (
        LOAD_TABLES
        + to_user("user", bits=bits)
        + f"user: {setup}\n spot: {instruction}\n {store} again: jmp again"
    )
    core = (long if bits == 64 else protected)(source)
    core.set_callbacks(
        lambda port, size: seen.append(port) or 0,  # type: ignore[func-returns-value]
        lambda port, size, value: seen.append(port),
        lambda address, size: seen.append(address) or 0,  # type: ignore[func-returns-value]
        lambda address, size, value: seen.append(address),
    )
    catch(core, 13, is_long=bits == 64, bits=bits)
    return core, seen


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("is_counting", [False, True])
@pytest.mark.parametrize("instruction", ["in al, 0x60", "out 0x60, al", "in eax, dx", "outsb", "insb"])
def test_refused_port_faults_and_leaves_no_trace(instruction: str, is_counting: bool, bits: int) -> None:
    core, seen = refused(
        instruction, bits=bits, setup="mov edi, 0x6100\n mov esi, 0x6100\n mov eax, 0x77\n stc"
    )
    core.counting = is_counting

    assert core.run(FOREVER) == STOP_HALT

    registers = core.registers()
    error, ip, _, flags = frame(core, 4, bits // 8)
    assert core.pc == HANDLER + 1
    assert error == 0
    assert bytes(core.ram[ip - 1 : ip]) == b"\xf9"  # right behind the STC: at the instruction itself
    assert flags & 1
    assert registers["rax"] == 0x77
    assert word(core, 0x6000) == 0
    assert seen == []


def test_counting_leaves_out_what_a_refused_port_cut_off() -> None:
    counts = []
    for tail in ("", "nop\n nop\n nop\n"):
        core, _ = refused("in al, 0x60\n " + tail, bits=32)
        core.counting = True
        core.run(FOREVER)
        counts.append(core.instructions)

    assert counts[0] == counts[1]


def test_io_permission_bitmap_allows_single_ports() -> None:
    seen: list[int] = []
    core = protected(
        LOAD_TABLES + to_user("user", bits=32) + "user: in al, 0x60\n in al, 0x61\n again: jmp again"
    )
    core.set_callbacks(
        lambda port, size: seen.append(port) or 1, lambda *_: None, lambda *_: 0, lambda *_: None
    )
    core.ram[0x800 + 0x40] = 0x8F  # limit of the TSS
    core.ram[0x668 : 0x668 + 0x20] = b"\xff" * 0x20
    core.ram[0x668 + 0x60 // 8] = 0xFE
    catch(core, 13, is_long=False, bits=32)

    assert core.run(FOREVER) == STOP_HALT

    assert seen == [0x60]
    assert core.registers()["rax"] & 0xFF == 1


def test_iopl_3_allows_all_ports() -> None:
    seen: list[int] = []
    core = protected(LOAD_TABLES + to_user("user", bits=32, iopl=3) + "user: out 0x80, al\n again: jmp again")
    core.set_callbacks(
        lambda *_: 0, lambda port, size, value: seen.append(port), lambda *_: 0, lambda *_: None
    )

    core.run(4)

    assert seen == [0x80]


def test_jump_above_the_memory_of_the_guest_shuts_down() -> None:
    core = protected(f"mov eax, {RAM_SIZE + 0x1000}\n jmp eax")

    assert core.run(FOREVER) == STOP_SHUTDOWN

    assert f"{RAM_SIZE + 0x1000:#x}" in core.fault
