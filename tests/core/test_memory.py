"""Guest memory: which pages changed, and that no stale translation survives a write from outside."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from small_guests import (
    CODE,
    FOREVER,
    LOAD_TABLES,
    RAM_SIZE,
    STACK,
    long,
    new_core,
    protected,
    put,
    real,
    set_vector,
    word,
)

from revirt.core import PAGE_SIZE, STOP_HALT, STOP_LIMIT, Core, create_core, hash_pages, trim_heap

PAGES = RAM_SIZE // PAGE_SIZE
both_ways = pytest.mark.parametrize("track_writes", [True, False])


def changed(core: Core) -> list[int]:
    core.scan()
    return [number for (number,) in struct.iter_unpack("<I", core.take_changed())]


# ---- changed pages -------------------------------------------------------------------------------------------------


@both_ways
def test_fresh_memory_has_not_changed(track_writes: bool) -> None:
    core = new_core(track_writes=track_writes)

    assert changed(core) == []
    assert bytes(core.page_hashes) == hash_pages(bytes(PAGE_SIZE)) * PAGES


@both_ways
def test_pages_written_by_the_guest_and_by_python_have_changed(track_writes: bool) -> None:
    core = real(
        "mov word ptr [0x5000], 1\n mov word ptr [0x6fff], 0x202\n hlt", new_core(track_writes=track_writes)
    )
    assert changed(core) == [CODE >> 12]

    core.run(FOREVER)
    core.ram[0x100000] = 7

    assert changed(core) == [5, 6, 7, 0x100]
    assert changed(core) == []


@both_ways
def test_hashes_follow_the_last_scan(track_writes: bool) -> None:
    core = new_core(track_writes=track_writes)
    core.scan()
    before = bytes(core.page_hashes)

    core.ram[3 * PAGE_SIZE + 5] = 1
    assert bytes(core.page_hashes) == before
    core.scan()

    assert bytes(core.page_hashes) == hash_pages(core.ram)
    assert bytes(core.page_hashes) != before


@both_ways
def test_pages_read_but_not_written_have_not_changed(track_writes: bool) -> None:
    core = real("mov ax, [0x5000]\n cmp [0x6000], ax\n hlt", new_core(track_writes=track_writes))
    changed(core)

    core.run(FOREVER)
    hashlib.sha256(core.ram).digest()

    assert changed(core) == []


@both_ways
def test_changes_add_up_until_they_are_taken(track_writes: bool) -> None:
    core = new_core(track_writes=track_writes)
    core.scan()

    core.ram[0x9000] = 1
    assert core.scan() == 1
    core.ram[0x3000] = 1
    assert core.scan() == 1

    assert changed(core) == [3, 9]


def test_every_page_of_a_large_memory_is_tracked() -> None:
    """Large enough for the host to use pages of 2 MiB."""
    core = create_core(64 << 20)
    core.ram[:] = b"\x01" * len(core.ram)
    assert core.scan() == 64 << 8

    written = [0, 1, 511, 512, 5000, (64 << 8) - 1]
    core.take_changed()
    for page in written:
        core.ram[page * PAGE_SIZE + 17] = 2

    assert changed(core) == written


def test_both_ways_find_the_same_hashes() -> None:
    source = "mov ecx, 9000\n mov edi, 0x10000\n again: mov [edi], ecx\n add edi, 97\n loop again\n hlt"
    tracked, compared = protected(source, new_core()), protected(source, new_core(track_writes=False))
    for core in (tracked, compared):
        for limit in (2000, 5000, FOREVER):
            core.run(limit)
            core.scan()

    assert not compared.tracks_writes
    assert bytes(tracked.page_hashes) == bytes(compared.page_hashes) == hash_pages(tracked.ram)
    assert tracked.take_changed() == compared.take_changed()


def test_pages_are_read_and_written_by_number() -> None:
    core = new_core()
    numbers = struct.pack("<2I", 7, 3)

    core.write_pages(numbers, b"a" * PAGE_SIZE + b"b" * PAGE_SIZE)

    assert core.ram[7 * PAGE_SIZE] == ord("a")
    assert core.ram[3 * PAGE_SIZE] == ord("b")
    assert core.read_pages(numbers) == b"a" * PAGE_SIZE + b"b" * PAGE_SIZE


@pytest.mark.parametrize(
    ("numbers", "contents"),
    [
        (struct.pack("<I", PAGES), bytes(PAGE_SIZE)),
        (b"123", b""),
        (bytes(4), bytes(PAGE_SIZE - 1)),
        (bytes(4), b""),
    ],
)
def test_pages_that_do_not_fit_are_refused(numbers: bytes, contents: bytes) -> None:
    core = new_core()

    with pytest.raises(ValueError, match="page"):
        core.write_pages(numbers, contents)

    if len(numbers) % 4 or numbers != bytes(4):
        with pytest.raises(ValueError, match="page"):
            core.read_pages(numbers)


def test_a_hash_depends_on_every_byte() -> None:
    hashes = set()
    for at in range(PAGE_SIZE):
        page = bytearray(PAGE_SIZE)
        page[at] = 1
        hashes.add(hash_pages(page))

    assert len(hashes) == PAGE_SIZE


# ---- stale code ----------------------------------------------------------------------------------------------------


def test_code_written_from_outside_takes_effect() -> None:
    core = real("again: mov al, 1\n jmp again")
    core.run(5)

    core.ram[CODE + 1] = 2
    core.written(CODE + 1, 1)
    core.run(10)

    assert core.registers()["rax"] == 2


def test_code_written_by_a_device_takes_effect_with_the_next_block() -> None:
    """As by DMA.  The block behind the OUT follows without a jump and is translated already."""
    core = real("mov cx, 2\n again: out 0x80, al\n jcxz away\n mov bl, 1\n away: loop again\n hlt")
    code = bytes(core.ram[CODE : CODE + 32])
    patch = CODE + code.index(b"\xb3\x01") + 1

    def dma(port: int, size: int, value: int) -> None:
        if core.branches > 1:
            core.ram[patch] = 9
            core.written(patch, 1)

    core.set_callbacks(lambda *_: 0, dma, lambda *_: 0, lambda *_: None)
    core.run(FOREVER)

    assert core.registers()["rbx"] == 9


def test_code_below_an_exception_frame_is_dropped() -> None:
    """The frame of INT becomes the operands of an IMUL that ran before and runs again: its address and its factor.

    Compared with a run that drops all translations at every branch.
    """

    def guest() -> Core:
        core = real(
            "mov cx, 5\n again: mov [0x5000], sp\n call 0x7cfd\n mov ax, cx\n shr ax, 1\n"
            "mov sp, 0x7d06\n int 0x40\n .long 3"
        )
        put(core, 0x7CFD, "imul eax, dword ptr [0x5200], 0x12345678\n add ebx, eax\n ret", 16)
        put(core, 0x8000, "mov sp, [0x5000]\n dec cx\n jz over\n jmp 0: 0x7c03\n over: hlt", 16)
        set_vector(core, 0x40, 0x8000)
        return core

    plain, flushed = guest(), guest()
    while flushed.run(flushed.branches + 1) == STOP_LIMIT:
        flushed.restore(flushed.save())

    assert plain.run(FOREVER) == STOP_HALT
    assert plain.registers()["rbx"] != 0
    assert plain.digest_input() == flushed.digest_input()
    assert bytes(plain.ram) == bytes(flushed.ram)


def test_code_reached_through_a_changed_mapping_is_known_as_code() -> None:
    """Two pages behind one linear address: both hold code, and both may be written by a device."""
    core = long(
        f"""{LOAD_TABLES}
        mov edi, 0x10000  # a table of small pages, identity for the first 256 KiB
        mov eax, 7
        fill: mov [rdi], rax
        add rax, 0x1000
        add rdi, 8
        cmp rdi, 0x10200
        jb fill
        mov qword ptr [0x4000], 0x10007
        mov rax, cr3
        mov cr3, rax
        mov ecx, 4
        again: mov qword ptr [0x10180], 0x30007
        invlpg [0x30000]
        mov rax, 0x30000
        call rax
        mov qword ptr [0x10180], 0x31007
        invlpg [0x30000]
        mov rax, 0x30000
        call rax
        out 0x80, al
        loop again
        hlt
        """
    )
    put(core, 0x30000, "add ebx, 1\n ret", 64)
    put(core, 0x31000, "add esi, 1\n ret", 64)
    calls = []

    def dma(port: int, size: int, value: int) -> None:
        calls.append(port)
        if len(calls) == 2:
            for page in (0x30000, 0x31000):
                core.ram[page + 2] = 100
                core.written(page + 2, 1)

    core.set_callbacks(lambda *_: 0, dma, lambda *_: 0, lambda *_: None)

    assert core.run(FOREVER) == STOP_HALT

    registers = core.registers()
    assert (registers["rbx"], registers["rsi"]) == (202, 202)


def test_restoring_drops_code_of_the_memory_before() -> None:
    core = real("again: mov al, 1\n jmp again")
    core.run(5)
    state = core.save()

    core.ram[CODE + 1] = 3
    core.restore(state)
    core.run(10)

    assert core.registers()["rax"] == 3


# ---- translation ---------------------------------------------------------------------------------------------------


def test_translation_follows_the_page_tables_of_the_guest() -> None:
    core = long("hlt")
    core.run(1)

    assert core.translate(0x1234) == 0x1234
    assert core.translate(RAM_SIZE - 1) == RAM_SIZE - 1
    assert core.translate(RAM_SIZE) is None
    assert core.translate(1 << 40) is None


def test_translation_of_32_bit_tables() -> None:
    core = protected(
        "mov eax, 0x10000\n mov cr3, eax\n mov eax, cr0\n or eax, 0x80000000\n mov cr0, eax\n hlt"
    )
    core.ram[0x10000:0x10008] = struct.pack("<2I", 0x11007, 0x83)
    core.ram[0x11000:0x11400] = struct.pack("<256I", *(page << 12 | 7 for page in range(256)))
    core.ram[0x11400:0x11404] = struct.pack("<I", 0x5007)

    assert core.run(FOREVER) == STOP_HALT

    assert core.translate(0x100123) == 0x5123
    assert core.translate(0x101000) is None


def test_what_the_cpu_cannot_form_is_not_mapped() -> None:
    """Seen: memory was shown, and patched, at addresses that only look like one in their lower bits."""
    for core, bits in ((real("hlt"), 32), (protected("hlt"), 32), (long("hlt"), 48)):
        core.run(1)

        assert core.translate(0x1234) == 0x1234
        assert core.translate((1 << bits) + 0x1234) is None
        assert core.translate((1 << 63) + 0x1234) is None


# ---- MMIO and ports ------------------------------------------------------------------------------------------------


def test_mmio_reads_and_writes_reach_the_callbacks() -> None:
    seen: list[tuple[int, ...]] = []
    core = protected("mov eax, [0x80000010]\n mov word ptr [0x90000002], ax\n mov bl, [0x80000013]\n hlt")
    core.set_callbacks(
        lambda *_: 0,
        lambda *_: None,
        lambda address, size: seen.append((address, size)) or 0x11223344,  # type: ignore[func-returns-value]
        lambda address, size, value: seen.append((address, size, value)),
    )

    core.run(FOREVER)

    assert seen == [(0x80000010, 4), (0x90000002, 2, 0x3344), (0x80000013, 1)]
    assert core.registers()["rax"] == 0x11223344
    assert core.registers()["rbx"] & 0xFF == 0x44


@pytest.mark.parametrize(
    "access", ["in al, 0x60", "out 0x60, al", "mov eax, [0x80000000]", "mov dword ptr [0x80000000], 1"]
)
def test_exceptions_of_callbacks_come_out_of_run(access: str) -> None:
    class BrokenDeviceError(Exception):
        pass

    def fail(*_: int) -> int:
        raise BrokenDeviceError(access)

    core = protected(f"inc ebx\n {access}\n inc ebx\n jmp on\n nop\n on: inc ebx\n hlt")
    core.set_callbacks(fail, fail, fail, fail)

    with pytest.raises(BrokenDeviceError, match=r"in al|out|mov") as caught:
        core.run(FOREVER)

    assert "fail" in {entry.name for entry in caught.traceback}
    assert core.branches == 2  # stopped at the next taken branch, nothing executed twice
    core.set_callbacks(lambda *_: 0, lambda *_: None, lambda *_: 0, lambda *_: None)
    assert core.run(FOREVER) == STOP_HALT
    assert core.registers()["rbx"] == 3


def test_callbacks_may_look_at_the_core_but_not_run_it() -> None:
    core = real("nop\n in al, 0x60\n hlt")
    seen: list[object] = []

    def port_in(port: int, size: int) -> int:
        seen.extend((core.branches, core.pc))
        with pytest.raises(RuntimeError, match="running"):
            core.run(FOREVER)
        with pytest.raises(RuntimeError, match="running"):
            core.save()
        return 5

    core.set_callbacks(port_in, lambda *_: None, lambda *_: 0, lambda *_: None)
    core.run(FOREVER)

    assert seen == [1, CODE + 1]
    assert core.registers()["rax"] == 5


def test_cpuid_answers_from_the_table() -> None:
    core = protected(
        "mov eax, 4\n mov ecx, 1\n cpuid\n mov [0x5000], eax\n mov [0x5004], edx\n"
        "mov eax, 4\n mov ecx, 9\n cpuid\n mov [0x5008], eax\n mov eax, 77\n cpuid\n mov [0x500c], eax\n hlt"
    )
    core.set_cpuid({(4, 0): (10, 11, 12, 13), (4, 1): (20, 21, 22, 23)})

    core.run(FOREVER)

    assert [word(core, 0x5000 + 4 * i) for i in range(4)] == [20, 23, 10, 0]


@pytest.mark.parametrize(
    "leaves",
    [
        {1: 2},
        {(0, 0): (1, 2)},
        {(0, 0, 0): (1, 2, 3, 4)},
        {(0, -1): (1, 2, 3, 4)},
        {(0, 0): (1, 2, 3, 1 << 32)},
        [],
    ],
)
def test_a_table_that_is_none_leaves_cpuid_alone(leaves: object) -> None:
    core = protected("xor eax, eax\n cpuid\n hlt")
    core.set_cpuid({(0, 0): (42, 0, 0, 0)})

    with pytest.raises((TypeError, ValueError, OverflowError)):
        core.set_cpuid(leaves)  # type: ignore[arg-type]
    core.run(FOREVER)

    assert core.registers()["rax"] == 42


def test_mmio_may_not_overlap_memory() -> None:
    core = new_core()

    with pytest.raises(ValueError, match="MMIO"):
        core.map_mmio(0, PAGE_SIZE)


@pytest.mark.parametrize("ram_size", [0, 1, 4095, 4097, 4 << 30])
def test_memory_of_an_impossible_size_is_refused(ram_size: int) -> None:
    with pytest.raises(ValueError, match="ram_size"):
        create_core(ram_size)


def test_the_stack_pointer_survives_start() -> None:
    core = real("hlt")

    assert core.registers()["rsp"] == STACK


def test_memory_that_was_freed_goes_back_to_the_host() -> None:
    # What is freed below something that is still in use the C library keeps, however much it is.
    pieces = [bytearray(100_000) for _ in range(500)]
    del pieces[:-1]
    before = resident()

    trim_heap()

    assert resident() < before - 40_000_000


def resident() -> int:
    """Return how much memory of this process is resident, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE
