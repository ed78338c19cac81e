"""``revirt net``: what went over the network of a recording."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from revirt.cli.outputs import new_file
from revirt.cli.packets import PacketRow, packet_rows, payload_rows
from revirt.cli.points import branches_between
from revirt.errors import UsageError
from revirt.packets import CaptureWriter
from revirt.recording import Recording, resolve
from revirt.recording.machine import machine_of
from revirt.render import Column, Format, emit, escape, is_terminal, seconds

STREAM = "-"


_PLACE = (
    Column("ordinal", "#", right=True),
    Column("position", "POSITION", right=True),
    Column("halted", "HLT", text=lambda halted: "hlt" if halted else ""),
    Column("guest_ns", "TIME", right=True, text=seconds),
    Column("direction", "DIR"),
)
_PACKETS = (
    *_PLACE,
    Column("card", "CARD", right=True),
    Column("length", "LENGTH", right=True),
    Column("stream", "TCP", right=True),
    Column("summary", "SUMMARY"),
)
_PAYLOAD = (
    *_PLACE,
    Column("offset", "OFFSET", right=True),
    Column("missing", "MISSING", right=True, text=lambda missing: str(missing) if missing else ""),
    Column("data", "PAYLOAD", text=lambda data: f'"{escape(data)}"'),
)


def run(arguments: argparse.Namespace) -> int:
    """Print the packets of a recording, or what one connection carried, or write them to a capture file."""
    _check(arguments)
    recording = Recording.open(resolve(arguments.recording))
    first, last = branches_between(recording, arguments.first, arguments.last)
    if arguments.output is None and arguments.stream is not None:
        chunks = payload_rows(recording, arguments.stream, first, last, log_only=arguments.log_only)
        if arguments.raw is None:
            emit(chunks, _PAYLOAD, arguments.form, sys.stdout)
        else:
            for chunk in chunks:
                if chunk.direction == arguments.raw:
                    sys.stdout.buffer.write(chunk.data)
            sys.stdout.buffer.flush()
        return 0
    rows = packet_rows(recording, first, last, stream=arguments.stream, log_only=arguments.log_only)
    if arguments.output is None:
        emit(rows, _PACKETS, arguments.form, sys.stdout)
    elif arguments.output == STREAM:
        write_capture(recording, rows, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        with new_file(Path(arguments.output), force=arguments.force) as file:
            write_capture(recording, rows, file)
    return 0


def write_capture(recording: Recording, rows: Iterable[PacketRow], out: BinaryIO) -> int:
    """Write *rows* of *recording* to *out* as pcapng, each with its position as a comment; return how many there are.

    Times are those of the guest's real-time clock.  What *out* raises is passed on.
    """
    epoch_ns = machine_of(recording.path, recording.manifest).epoch * 10**9
    writer = CaptureWriter(out, f"recording {recording.manifest.uuid}")
    count = 0
    for row in rows:
        time_ns = epoch_ns + (row.guest_ns or 0)
        comment = f"position {row.position}"
        writer.write(row.card, time_ns, row.data, is_inbound=row.is_inbound, comment=comment)
        count += 1
    return count


def _check(arguments: argparse.Namespace) -> None:
    if arguments.raw is not None:
        if arguments.stream is None:
            raise UsageError("--raw prints a connection", hint="say which with --stream")
        if arguments.form is not Format.TABLE:
            raise UsageError("--raw prints bytes, and not rows")
        if arguments.output is not None:
            raise UsageError("--raw prints a connection, and -o writes packets")
    if arguments.output is None:
        return
    if arguments.log_only:
        raise UsageError("-o writes the time of each packet, which --log-only may leave unknown")
    if arguments.form is not Format.TABLE:
        raise UsageError("-o writes packets, and prints no rows")
    if arguments.output == STREAM and is_terminal(sys.stdout):
        raise UsageError("packets are nothing for a terminal", hint="name a file with -o, or redirect them")
