"""Debian on a disk: it lives there, boots from there, and is taken over there; all of it once more in every replay."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from library import COMMAND, Library, built, environment
from programs import needed

from revirt.image.root import LOGIN, PROMPT, READY
from revirt.log.events import Kind
from revirt.recording import Recording

pytestmark = [pytest.mark.debian, pytest.mark.xdist_group("debian")]

ATTACK = Path(__file__).parents[2] / "guests" / "debian-vuln" / "attack.py"
PATIENCE_S = 300

WORK = f"""
timeout {PATIENCE_S}
expect "{READY}"
expect "{PROMPT}"
send "grep -c ' / ext4 rw' /proc/mounts; dd if=/dev/urandom of=/root/random bs=4096 count=256 conv=fsync\\n"
expect "{PROMPT}"
send "echo 3 > /proc/sys/vm/drop_caches; sha256sum /root/random; ip addr show eth0; poweroff\\n"
"""

LOG_IN = f"""
timeout {PATIENCE_S}
expect "{LOGIN}"
send "root\\n"
expect "{READY}"
expect "{PROMPT}"
send "cat /proc/mounts; poweroff\\n"
"""

WAIT_FOR_THE_END = f"""
timeout {PATIENCE_S}
expect "{READY}"
expect "{PROMPT}"
send "until [ -e /root/owned.txt ]; do sleep 1; done; sleep 1; cat /root/owned.txt; poweroff -f\\n"
"""


Elsewhere = Callable[..., dict[str, Any]]
Record = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Record:
    """Return a function that starts to record a guest into a path, with a script and more options."""

    def run(name: str, path: Path, script: str, *options: str) -> subprocess.Popen[str]:
        built(name)
        file = tmp_path / "typed.script"
        file.write_text(script)
        command = [*COMMAND, "record", name, "-o", str(path), "--script", str(file), *options]
        return subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    return run


@pytest.fixture
def record_whole(start: Record, library: Library) -> Callable[[str, str, str], tuple[Recording, str]]:
    """Return a function that records a guest with a script and a clock; the recording, and what was shown."""

    def run(name: str, script: str, clock: str) -> tuple[Recording, str]:
        path = library.new_path(name)
        with start(name, path, script, "--clock", clock) as process:
            shown, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, shown[-2000:]
        return library.open(path), shown

    return run


def assert_exact(report: dict[str, Any]) -> None:
    assert (report["status"], report["exact"]) == (0, True), report


@pytest.mark.parametrize("clock", ["host", "virtual"])
def test_guest_lives_on_its_disk_and_leaves_the_image_as_it_is(
    clock: str,
    record_whole: Callable[[str, str, str], tuple[Recording, str]],
    replay_elsewhere: Elsewhere,
) -> None:
    (image,) = built("debian-disk").disks
    before = image.read_bytes()

    recording, shown = record_whole("debian-disk", WORK, clock)

    assert "\n1\n" in shown, "the root file system is not on the disk"
    assert re.search(r"[0-9a-f]{64}  /root/random", shown)
    # Nobody is at the other end of the network card.
    assert "inet 10.0.2.15/24" in shown
    assert image.read_bytes() == before
    assert sum(event.kind is Kind.STORED for event in recording.events()) > 1
    assert_exact(replay_elsewhere(recording))


def test_debian_boots_by_firmware_and_grub_to_a_login(
    record_whole: Callable[[str, str, str], tuple[Recording, str]], replay_elsewhere: Elsewhere
) -> None:
    recording, shown = record_whole("debian-grub", LOG_IN, "virtual")

    assert "SeaBIOS" in shown
    assert "GRUB" in shown
    assert "/dev/vda1 / ext4" in shown
    assert_exact(replay_elsewhere(recording))


@pytest.mark.parametrize("variant", ["stack", "format"])
def test_daemon_is_taken_over_through_either_hole_and_again_in_the_replay(
    variant: str, start: Record, library: Library, replay_elsewhere: Elsewhere
) -> None:
    needed("passt")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    path = library.new_path("debian-vuln")

    with start("debian-vuln", path, WAIT_FOR_THE_END, "--forward", f"tcp:{port}:4444") as process:
        command = [sys.executable, str(ATTACK), "127.0.0.1", port, "--variant", variant, "--command", "id -u"]
        attack = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
        )
        if attack.returncode:
            process.terminate()
        shown, _ = process.communicate(timeout=PATIENCE_S)

    assert attack.returncode == 0, attack.stderr
    assert attack.stdout.splitlines()[-1] in shown, "what the attacker left is not on the disk"
    assert_exact(replay_elsewhere(library.open(path)))
