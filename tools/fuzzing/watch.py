"""Watches what revirt does in this process: files outside of a directory, memory, time.

Rules:
- Every file that Python opens, makes, renames or deletes is looked at before that happens (PEP 578), with links
  resolved; what lies outside is a failure, and does not happen.
- The modules of Python, of its packages and of revirt may be read from wherever they are.
- Peaks of memory are what Linux counts as resident, started anew for every case.
- What breaks a rule raises what no `except Exception` catches.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import revirt

_CHANGES_PATHS = {
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "os.removexattr": (0,),
}
"""Audit events of calls that change something, and which of their arguments are paths."""
_LISTS = frozenset({"os.listdir", "os.scandir", "os.chdir"})
_NEVER = frozenset(
    {
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.kill"),
        *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"),
        *("ctypes.dlopen", "exec.open", "pty.spawn"),
    }
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class WatchError(BaseException):
    """A case did what none may."""


class Watch:
    """Watches what happens in its `over` blocks; made once in a process, because audit hooks stay."""

    def __init__(self, directory: Path) -> None:
        self._inside = os.path.realpath(directory)
        paths = sysconfig.get_paths()
        libraries = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
        package = os.path.dirname(str(revirt.__file__))
        self._libraries = tuple(os.path.realpath(each) for each in (*libraries, package))
        # Whoever imports looks through these.
        self._listed = frozenset(os.path.realpath(each) for each in sys.path)
        self._is_on = self._may_write = False
        self._trespassed: str | None = None
        # What is imported late must not be written down beside its source.
        sys.dont_write_bytecode = True
        sys.addaudithook(self._notice)

    @contextmanager
    def over(self, *, may_write: bool, seconds: float) -> Iterator[None]:
        """Watch the block; it may take *seconds*, and change files in the directory if it *may_write*.

        Raises WatchError.
        """
        self._may_write, self._trespassed = may_write, None
        before = signal.signal(signal.SIGALRM, _hang)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        # Whoever catches everything may have caught that, too.
        if self._trespassed is not None:
            raise WatchError(self._trespassed)

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event == "open":
            self._open(*arguments)
        elif event in _LISTS:
            if arguments[0] not in self._listed:
                self._look_at(event, arguments[0], writes=False)
        elif event in _CHANGES_PATHS:
            for place in _CHANGES_PATHS[event]:
                self._look_at(event, arguments[place], writes=True, follows=False)
        elif event in _NEVER:
            self._trespass(f"{event}{arguments!r:.200}")

    def _open(self, path: Any, _mode: str | None, flags: int) -> None:
        self._look_at("open", path, writes=bool(flags & _WRITING), follows=not flags & os.O_NOFOLLOW)

    def _look_at(self, event: str, path: Any, *, writes: bool, follows: bool = True) -> None:
        # A descriptor was looked at when it was opened.
        if isinstance(path, int):
            return
        name = os.fsdecode(path if path is not None else ".")
        if follows:
            found = os.path.realpath(name)
        else:
            found = os.path.join(os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name))
        is_inside = found == self._inside or found.startswith(self._inside + os.sep)
        if writes and is_inside and not self._may_write:
            self._trespass(f"{event} changes {found}, where only reading was asked for")
        if not is_inside and (writes or not found.startswith(self._libraries)):
            self._trespass(f"{event} reaches {found}")

    def _trespass(self, what: str) -> None:
        self._is_on = False  # the traceback is made from files, too
        self._trespassed = f"{what}\n{''.join(traceback.format_stack(sys._getframe(3), limit=6))}"
        raise WatchError(self._trespassed)


def _hang(_signal: int, _frame: FrameType | None) -> None:
    raise WatchError("hangs")


class Memory:
    """The memory of this process: `restart`, then `peak` says how many bytes more than at the beginning it took."""

    def __init__(self) -> None:
        self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        self._at_first = self._field(b"VmRSS:")

    def restart(self) -> None:
        """Let the peak begin here."""
        # A host that wants memory back takes it from this process, too.
        self._at_first = min(self._at_first, self._field(b"VmRSS:"))
        os.pwrite(self._clear, b"5", 0)

    def peak(self) -> int:
        """Return how many bytes more than at the beginning were resident since `restart`."""
        return max(0, self._field(b"VmHWM:") - self._at_first)

    def limit(self, more: int) -> None:
        """Let the process have *more* bytes of addresses than it has now, and no more."""
        size = self._field(b"VmSize:") + more
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def _field(self, name: bytes) -> int:
        status = os.pread(self._status, 1 << 16, 0)
        return int(status[status.index(name) + len(name) :].split(None, 1)[0]) << 10
