"""A Debian with `load.c` on its disk, and the words with which it is recorded."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from revirt.errors import HostError
from revirt.image.build import build
from revirt.image.debian import PROMPT, READY, ROOT_FILE
from revirt.image.guest import find
from revirt.monitor.network.passt import GUEST_ADDRESS, ROUTER_ADDRESS

GUEST = "debian-disk"
PROGRAM = "/usr/bin/load"
OVER = "load: over"
TIMEOUT_S = 1800

_SOURCE = Path(__file__).with_name("load.c")
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-static", "-Wl,--build-id=none")


@dataclass(frozen=True, slots=True)
class LoadedGuest:
    """The files of a built guest, its command line and its memory, as ``--memory`` takes it."""

    kernel: Path
    initrd: Path
    disk: Path
    append: str
    memory: str

    def words(self, network: str, script: Path) -> list[str]:
        """Return the options of ``revirt record`` for it, on a *network* and with a *script*."""
        image = ["--kernel", str(self.kernel), "--initrd", str(self.initrd), "--append", self.append]
        devices = ["--memory", self.memory, "--disk", str(self.disk), "--rng", "--net", network]
        return [*image, *devices, "--clock", "host", "--script", str(script)]


def compile_program(path: Path) -> Path:
    """Make *path* the program `load.c`, and return it; raises HostError without a C compiler."""
    try:
        subprocess.run(["cc", *_FLAGS, "-o", path, _SOURCE], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        hint = "install gcc and libc6-dev"
        raise HostError(f"cannot compile {_SOURCE.name}: {said}", hint=hint) from error
    return path


def build_guest() -> LoadedGuest:
    """Return the guest, built on first use; raises HostError without a C compiler, BuildError."""
    guest = find(GUEST)
    with tempfile.TemporaryDirectory() as name:
        program = compile_program(Path(name, "load"))
        directory = build(guest, progress=lambda _: None, extra={PROGRAM: program})
    kernel, initrd, disk = (directory / name for name in ("vmlinuz", "initrd", ROOT_FILE))
    append = f"{guest.append} revirt.ip={GUEST_ADDRESS}/24,{ROUTER_ADDRESS}"
    return LoadedGuest(kernel, initrd, disk, append, str(guest.memory))


def write_script(path: Path, command: str) -> Path:
    """Write a console script that runs *command* in the guest's shell and then shuts it down."""
    lines = [f"timeout {TIMEOUT_S}", f'expect "{READY}"', f'expect "{PROMPT}"']
    # Quotes inside the word: what is typed is echoed, and must not look like what it prints.
    typed = f"{command}; grep Tcp: /proc/net/snmp; echo load: ov''er"
    lines += [f'send "{typed}\\n"', f'expect "{OVER}"', f'expect "{PROMPT}"', 'send "poweroff\\n"']
    path.write_text("\n".join(lines) + "\n")
    return path
