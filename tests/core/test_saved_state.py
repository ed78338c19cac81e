"""Saved states: exact in another process, canonical, and harmless whatever is in them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_guests import (
    CODE,
    FOREVER,
    LOAD_TABLES,
    long,
    new_core,
    protected,
    put,
    real,
    set_gate,
    set_vector,
)

from revirt.core import MODE_REAL, STOP_HALT, STOP_LIMIT, STOP_SHUTDOWN, Core

FOLDERS = [str(each) for each in Path(__file__).parents[:2]]
"""Where children find what this imports."""

BUSY = """
    mov eax, cr4
    or eax, 0x600
    mov cr4, eax
    fninit
    fldpi
    fld1
    mov dword ptr [0x5100], 0x3f80
    ldmxcsr [0x5100]
    mov eax, 0x0c7f
    mov [0x5104], eax
    fldcw [0x5104]
    mov ecx, 0x201
    mov eax, 0x1806
    xor edx, edx
    wrmsr
    mov ecx, 0x404
    xor eax, eax
    wrmsr
    mov ecx, 0x401
    mov eax, 0x77
    wrmsr
    mov ecx, 0xc0000103
    wrmsr
    mov eax, offset spot
    mov dr0, eax
    mov eax, 0x401
    mov dr7, eax
    mov ecx, 200
again:
    imul ebx, ebx, 1103515245
    add ebx, 12345
    movd xmm0, ebx
    paddd xmm1, xmm0
    cvtsi2ss xmm2, ebx
    addss xmm3, xmm2
    fiadd dword ptr [0x5100]
    sar ebx, 3
    adc edi, ebx
spot:
    rcl edx, 1
    mov [0x5000 + ecx * 4], ebx
    pushfd
    pop dword ptr [0x5400 + ecx * 4]
    loop again
    hlt
"""
"""Integer, x87 and SSE arithmetic, machine registers, a hardware breakpoint, flags kept for later."""


def busy(core: Core | None = None) -> Core:
    core = protected(LOAD_TABLES + BUSY, core)
    put(core, 0x8000, "inc esi\n or dword ptr [esp + 8], 0x10000\n iretd", 32)
    set_gate(core, 1, 0x8000, is_long=False)
    return core


def test_restored_in_another_process_runs_on_exactly(tmp_path: Path) -> None:
    core = busy()
    assert core.run(123) == STOP_LIMIT
    (tmp_path / "state").write_bytes(core.save())
    (tmp_path / "ram").write_bytes(core.ram)
    program = """
import sys
from pathlib import Path
sys.path += sys.argv[2:]
from small_guests import FOREVER, new_core
here = Path(sys.argv[1])
core = new_core(track_writes=False)
core.ram[:] = (here / "ram").read_bytes()
core.restore((here / "state").read_bytes())
assert core.save() == (here / "state").read_bytes()
core.run(FOREVER)
(here / "digest").write_bytes(core.digest_input())
(here / "ram").write_bytes(core.ram)
"""
    subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path), *FOLDERS],
        check=True,
        cwd=Path.cwd(),
    )

    assert core.run(FOREVER) == STOP_HALT
    assert core.registers()["rsi"] == 200
    assert (tmp_path / "digest").read_bytes() == core.digest_input()
    assert (tmp_path / "ram").read_bytes() == bytes(core.ram)


def test_a_state_goes_into_a_core_that_ran_something_else() -> None:
    core = busy()
    core.run(123)
    state, ram = core.save(), bytes(core.ram)
    core.run(FOREVER)
    other = long(
        "mov rax, cr4\n or eax, 0x600\n mov cr4, rax\n movq xmm9, rax\n fld1\n mov ecx, 0x277\n wrmsr\n hlt"
    )
    other.run(FOREVER)

    other.ram[:] = ram
    other.restore(state)
    assert other.save() == state
    other.run(FOREVER)

    assert other.digest_input() == core.digest_input()


def test_start_forgets_everything_before_it() -> None:
    core = busy()
    core.run(FOREVER)
    clean = new_core()

    core.start(MODE_REAL, CODE, {}, 0, 0, 0)
    clean.start(MODE_REAL, CODE, {}, 0, 0, 0)

    used, fresh = core.registers(), clean.registers()
    for clock in ("branches", "clock_ns"):
        del used[clock], fresh[clock]
    assert used == fresh


def test_real_mode_starts_at_the_reset_vector_where_it_is_told_to() -> None:
    # Intel SDM volume 3, 10.1.4; CS as an 8086 has it, where the copy of a BIOS below 1 MiB is.
    core = new_core()
    put(core, 0xFFFF0, "hlt", 16)

    core.start(MODE_REAL, 0xFFFF0, {}, 0, 0, 0)
    stop = core.run(FOREVER)

    registers = core.registers()
    assert [registers[name] for name in ("cs", "cs.base", "rip", "ss")] == [0xF000, 0xF0000, 0xFFF1, 0]
    assert stop == STOP_HALT


def test_saving_restoring_and_looking_change_nothing() -> None:
    plain, watched = busy(), busy()
    while plain.run(plain.branches + 7) == watched.run(watched.branches + 7) == STOP_LIMIT:
        watched.registers()
        watched.check()
        watched.restore(watched.save())
        assert watched.digest_input() == plain.digest_input()
        assert watched.save() == plain.save()

    assert bytes(plain.ram) == bytes(watched.ram)


def test_a_digest_does_not_depend_on_how_flags_are_kept() -> None:
    """The same flags from an addition, a comparison and POPF."""
    digests = set()
    for source in ("mov ax, -1\n add ax, 1\n xor ax, ax\n cmp ax, ax", "xor ax, ax\n push 0x46\n popf"):
        core = real(source + "\n mov bx, 0\n jmp 0x7d00")
        put(core, 0x7D00, "hlt", 16)
        core.run(2)
        digests.add((core.registers()["rflags"], core.check()))

    assert digests == {(0x46, digests.copy().pop()[1])}


def test_registers_cover_what_a_guest_can_set() -> None:
    core = busy()
    core.run(FOREVER)

    registers = core.registers()

    assert registers["mxcsr"] == 0x3F80
    assert registers["fpcw"] == 0x0C7F
    assert registers["msr.201"] == 0x1806
    assert registers["tsc_aux"] == registers["msr.401"] == 0x77
    assert registers["fp6"] >> 64 != 0
    assert registers["xmm1"] != registers["xmm3"] != 0
    assert registers["dr7"] == 0x401
    assert {
        "rip",
        "rflags",
        "cs.base",
        "tr.limit",
        "gdtr.base",
        "idtr.limit",
        "cr4",
        "efer",
    } <= registers.keys()


@pytest.mark.parametrize("length", [0, 1, 8, 100, 2000, 5600, 10_000])
def test_what_is_no_state_is_refused(length: int) -> None:
    core = real("hlt")
    state = core.save()

    for garbage in (
        bytes(length),
        random.Random(length).randbytes(length),
        state[:length] * (length < len(state)),
    ):
        with pytest.raises(ValueError, match="not a CPU state"):
            core.restore(garbage)

    with pytest.raises(ValueError, match="not a CPU state"):
        core.restore(b"rvCPU213" + state[8:])
    assert core.save() == state


_victim = new_core(track_writes=False)
_pristine = busy().save()


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=len(_pristine) - 8, max_size=len(_pristine) - 8))
def test_a_state_of_random_bytes_does_no_harm(content: bytes) -> None:
    _victim.restore(_pristine[:8] + content)

    _victim.run(_victim.branches + 50 & (1 << 64) - 1)
    _victim.interrupt(0x21)
    _victim.run(_victim.branches + 50 & (1 << 64) - 1)
    _victim.restore(_victim.save())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(64, 8 * len(_pristine) - 1), min_size=1, max_size=20))
def test_a_state_with_flipped_bits_does_no_harm(bits: list[int]) -> None:
    state = bytearray(_pristine)
    for bit in bits:
        state[bit // 8] ^= 1 << bit % 8
    busy(_victim)
    _victim.restore(bytes(state))

    _victim.run(_victim.branches + 50 & (1 << 64) - 1)
    _victim.step(20)
    _victim.restore(_victim.save())


def test_a_state_has_no_addresses_of_the_process() -> None:
    program = """
import sys
sys.path += sys.argv[1:]
import test_saved_state
core = test_saved_state.busy()
core.run(123)
sys.stdout.buffer.write(core.save())
"""
    command = [sys.executable, "-P", "-c", program, *FOLDERS]
    states = {subprocess.run(command, check=True, capture_output=True).stdout for _ in range(3)}

    assert len(states) == 1


def far_segment_guest(watched: int) -> Core:
    core = real("jmp 0x700:0xd00\n nop")
    put(core, 0x7D00, f"mov eax, {watched}\n mov dr0, eax\n mov eax, 0x401\n mov dr7, eax\n jmp 0x7d40", 16)
    put(core, 0x7D40, "inc bx\n jmp 0: 0x7d60", 16)
    put(core, 0x7D60, "inc bx\n hlt", 16)
    put(core, 0x8000, "hlt", 16)
    set_vector(core, 1, 0x8000)
    core.run(3)
    core.restore(core.save())
    return core


def test_breakpoints_of_a_guest_in_a_far_segment_are_restored() -> None:
    """Restoring executes a few instructions of the core's own: not relative to the guest's code segment."""
    core = far_segment_guest(0x7D60)

    assert core.run(FOREVER) == STOP_HALT
    assert core.registers()["rbx"] == 1
    assert core.pc == 0x8001


def test_a_breakpoint_in_a_far_segment_ends_the_guest_and_not_the_process() -> None:
    """Unicorn would loop for ever."""
    core = far_segment_guest(0x7D40)

    assert core.run(FOREVER) == STOP_SHUTDOWN
    assert "hardware breakpoint at 0x7d40" in core.fault
