"""``revirt gdb``: gdb, and whatever speaks its remote protocol, looks at a recording."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

from revirt.cli.opening import opened
from revirt.cli.signals import OrderlyStop
from revirt.errors import HostError, UsageError
from revirt.gdb import COMMANDS, Architecture, Server, Stub, gdb_command
from revirt.recording import Recording, find_symbols, resolve
from revirt.render import printable
from revirt.timeline import Timeline, seek_point

_ARCHITECTURES = {"amd64": Architecture.AMD64, "i386": Architecture.I386, "i8086": Architecture.I8086}


def run(arguments: argparse.Namespace) -> int:
    """Serve a recording to gdb until told to stop, or until the gdb that was launched has ended."""
    if arguments.symbols is not None and not arguments.launch:
        raise UsageError(
            "--symbols is for the gdb that --launch starts", hint="tell your gdb: symbol-file FILE"
        )
    timeline = opened(resolve(arguments.recording), Timeline)
    if arguments.at is not None:
        seek_point(timeline, arguments.at)
    return _launch(timeline, arguments) if arguments.launch else _serve(timeline, arguments)


def _serve(timeline: Timeline, arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    with (
        _listening(arguments) as (listener, address),
        _server(timeline, arguments, listener, _tell) as server,
        OrderlyStop() as stop,
    ):
        stop.arm(lambda _reason: server.stop())
        _announce(timeline.recording, address)
        server.serve()
    return stop.exit_status or 0


def _launch(timeline: Timeline, arguments: argparse.Namespace) -> int:
    """Start gdb on this terminal, and serve it until it ends; return its exit status."""
    with tempfile.TemporaryDirectory(prefix="revirt-") as directory, ExitStack() as stack:
        path = os.path.join(directory, "gdb")
        command = gdb_command(path, arguments.symbols or find_symbols(timeline.recording))
        listener = stack.enter_context(_unix_listener(path))
        server = stack.enter_context(_server(timeline, arguments, listener))
        # Ctrl-C is for gdb, which has the terminal; a handler, unlike SIG_IGN, is not passed on to it.
        saved = signal.signal(signal.SIGINT, lambda *_: None)
        stack.callback(signal.signal, signal.SIGINT, saved)
        gdb = stack.enter_context(subprocess.Popen(command))
        threading.Thread(target=_stop_after, args=(gdb, server), daemon=True).start()
        server.serve()
    return gdb.returncode


@contextmanager
def _server(
    timeline: Timeline,
    arguments: argparse.Namespace,
    listener: socket.socket,
    on_change: Callable[[bool], None] = lambda _: None,
) -> Iterator[Server]:
    """Open a server of *timeline*."""
    architecture = _ARCHITECTURES.get(arguments.arch)
    with closing(
        Server(listener, timeline, lambda: Stub(timeline, architecture=architecture), on_change)
    ) as server:
        yield server


def _stop_after(gdb: subprocess.Popen[bytes], server: Server) -> None:
    gdb.wait()
    server.stop()


@contextmanager
def _listening(arguments: argparse.Namespace) -> Iterator[tuple[socket.socket, str]]:
    """Listen where *arguments* say; yield the socket, and how gdb is told of it."""
    if arguments.socket is not None:
        with _unix_listener(str(arguments.socket)) as listener:
            try:
                yield listener, str(arguments.socket)
            finally:
                arguments.socket.unlink(missing_ok=True)
        return
    with _tcp_listener(arguments.listen, arguments.port) as listener:
        host, port = listener.getsockname()[:2]
        yield listener, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tcp_listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as undoing:
            listener = undoing.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
            undoing.pop_all()
    except (OSError, UnicodeError) as error:  # the latter for names that no host can have
        raise HostError(
            f"cannot listen at {host} port {port}: {getattr(error, 'strerror', None) or error}",
            hint="choose another with --port, or 0 for any that is free",
        ) from error
    return listener


def _unix_listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Whoever can connect can read the guest's memory.
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen()
    except OSError as error:
        listener.close()
        hint = "choose a new path of 100 bytes at most"
        if error.errno == errno.EADDRINUSE:
            hint = "choose a new path; if nobody listens there any more, delete it"
        raise HostError(f"cannot listen at {path}: {error.strerror or error}", hint=hint) from error
    finally:
        os.umask(mask)
    return listener


def _announce(recording: Recording, address: str) -> None:
    command = shlex.join(["gdb", "-x", str(COMMANDS), "-ex", f"target remote {address}"])
    _say(f"{recording.path.name} waits for gdb at {address}; Ctrl-C ends that")
    _say(f"    {command}")


def _tell(has_come: bool) -> None:
    _say("a client has connected" if has_come else "the client has left")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
