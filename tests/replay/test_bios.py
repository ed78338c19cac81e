"""Booting like a PC: firmware that nobody here wrote from its reset vector on, and what it starts, replayed exactly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from assembly import assemble
from library import RecordWith, built
from nobody import Nobody
from programs import needed

from revirt.image import load
from revirt.image.root import LOGIN, PROMPT
from revirt.log.events import Kind
from revirt.machine.config import ClockMode, MachineConfig
from revirt.machine.devices import Devices
from revirt.machine.machine import Ended, Machine
from revirt.machine.power import RESET
from revirt.monitor.console import NullConsole
from revirt.monitor.network import networks_of, open_network
from revirt.monitor.plugs import DiskPlug, NicPlug, Plugs
from revirt.monitor.script import Script, ScriptedConsole
from revirt.position import Position
from revirt.recording import Recording
from revirt.replay import ReplaySession
from revirt.screen import TextScreen, screen_of

pytestmark = [pytest.mark.debian, pytest.mark.xdist_group("debian")]

MEMORY = 16 << 20
MAC = "52:54:00:12:34:56"
Elsewhere = Callable[..., dict[str, Any]]

BOOT_SECTOR = """
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7c00
    mov ah, 0x42            # read a sector from where the packet says
    mov si, offset packet
    int 0x13
    jc failed
    mov ah, 0x0e            # say what is in it
    mov al, [0x8000]
    int 0x10
    mov byte ptr [packet + 8], 2
    mov ax, 0x4300          # and write it behind
    mov si, offset packet
    int 0x13
    jc failed
    mov al, 0x10
    jmp leave
failed: mov al, 0x11
leave: out 0xf4, al
    hlt
packet: .byte 16, 0, 1, 0
    .word 0x8000, 0
    .quad 1
"""
"""Uses the BIOS's services as every boot loader does: INT 13h and INT 10h (Phoenix, "Enhanced Disk Drive", 1.1)."""


def disk(directory: Path) -> Path:
    path = directory / "disk.raw"
    sectors = [
        assemble(BOOT_SECTOR, 16, 0x7C00).ljust(510, b"\0") + b"\x55\xaa",
        b"R".ljust(512, b"?"),
        bytes(512),
    ]
    path.write_bytes(b"".join(sectors).ljust(1 << 20, b"\0"))
    return path


def said(recording: Recording) -> str:
    """Return what the guest said on the serial line."""
    lines = [event.data for event in recording.events() if event.kind is Kind.TRANSMITTED]
    return b"".join(lines).decode("utf-8", "replace")


def assert_exact(report: dict[str, Any], recording: Recording) -> None:
    assert (report["status"], report["exact"]) == (0, True), report
    assert report["branches"] == recording.manifest.end["branches"]


def test_the_bios_finds_the_pc_that_there_is_and_resets_it_when_nothing_boots() -> None:
    config = MachineConfig(
        memory=MEMORY, clock="virtual", epoch=0, ns_per_branch=10, devices=Devices(firmware=True)
    )
    machine = Machine(config, Nobody())
    machine.load(load(built("seabios").image_spec(), MEMORY))
    heard = bytearray()
    assert machine.board.firmware is not None
    machine.board.firmware.debug_port.hear = heard.extend

    stop = machine.run()

    for line in (
        b"Running on QEMU (i440fx)",
        b"Found QEMU fw_cfg",
        b"RamSize: 0x01000000 [cmos]",
        b"Running option rom at c000:0003",
        b"PS2 keyboard initialized",
        b"No bootable device.",
    ):
        assert line in heard
    assert stop.ended == Ended(RESET)


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_a_boot_sector_reads_and_writes_its_disk_by_the_bios(
    clock: ClockMode, record_with: RecordWith, replay_elsewhere: Elsewhere, tmp_path: Path
) -> None:
    plugs = Plugs(disks=(DiskPlug(disk(tmp_path)),))

    recording = record_with(built("seabios"), NullConsole(), clock, plugs=plugs)

    assert_exact(replay_elsewhere(recording), recording)
    assert recording.manifest.end["exit_code"] == 0x10
    stored = [event.number for event in recording.events() if event.kind is Kind.STORED]
    assert stored == [2]
    assert "Booting from Hard Disk...\r\n" in said(recording)


def test_a_replay_stops_anywhere_on_the_way_through_a_bios(record_with: RecordWith, tmp_path: Path) -> None:
    plugs = Plugs(disks=(DiskPlug(disk(tmp_path)),))
    recording = record_with(built("seabios"), NullConsole(), "virtual", plugs=plugs, digest_every=100_000)
    session = ReplaySession(recording)

    for branches in range(0, recording.manifest.end["branches"], 33_333):
        session.run(branches)
    session.run()

    digests = sum(event.kind is Kind.DIGEST for event in recording.events())
    assert session.replayer.digests_checked == digests > 10


def test_debian_boots_by_its_boot_loader_to_a_login(
    record_with: RecordWith, replay_elsewhere: Elsewhere
) -> None:
    guest = built("debian-grub")
    script = rf"""
        timeout 180
        expect "GNU GRUB"
        expect "{LOGIN}"
        send "root\n"
        expect "{PROMPT}"
        send "mount; poweroff -f\n"
    """
    plugs = Plugs(disks=tuple(DiskPlug(path) for path in guest.disks), nics=(NicPlug(MAC),), rng=True)
    with ScriptedConsole(Script.parse(script)) as console:
        recording = record_with(guest, console, "host", plugs=plugs)

    assert_exact(replay_elsewhere(recording), recording)
    assert "/dev/vda1 on / type ext4 (rw" in said(recording)


def test_memtest_boots_from_its_image_and_draws_its_screen(
    record_with: RecordWith, replay_elsewhere: Elsewhere
) -> None:
    guest = built("memtest")
    plugs = Plugs(disks=tuple(DiskPlug(path, 0) for path in guest.disks), vga=True)

    recording = record_with(guest, NullConsole(), "virtual", plugs=plugs, until=Position(25_000_000))

    assert_exact(replay_elsewhere(recording), recording)
    session = ReplaySession(recording)
    session.run()
    screen = screen_of(session.machine)
    assert isinstance(screen, TextScreen)
    assert "Memtest86+ v" in screen.line(0)
    assert screen.line(5).startswith("Memory  :   16MB")


def test_ipxe_in_a_card_s_rom_is_given_an_address(
    record_with: RecordWith, replay_elsewhere: Elsewhere
) -> None:
    """What was seen: it lets the timer tick between two branches only, and waited for an answer for ever."""
    needed("passt")
    (network,) = networks_of(["passt"], [])
    plugs = Plugs(nics=(NicPlug(MAC, partial(open_network, network)),))
    script = r"""
        timeout 120
        expect "Ctrl-B for the iPXE command line"
        send "\x02"
        expect "iPXE> "
        send "dhcp && route\r"
        expect "gw 10.0.2.2"
        send "reboot\r"
    """
    with ScriptedConsole(Script.parse(script)) as console:
        recording = record_with(built("ipxe"), console, "host", plugs=plugs)

    assert_exact(replay_elsewhere(recording), recording)
    assert recording.manifest.end["reason"] == RESET
