"""The packets of a recording as rows, and the bytes of a connection in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from revirt.cli.times import Times
from revirt.errors import UsageError
from revirt.packets import Assembler, Chunk, StreamTable, summarize
from revirt.packets.layers import Segment
from revirt.position import Position
from revirt.recording import Recording
from revirt.recording.frames import RecordedFrame, recorded_frames


@dataclass(frozen=True, slots=True)
class PacketRow:
    """A frame: event number *ordinal*.

    ``guest_ns`` is None where the log does not tell it and nobody asked a replay, ``stream`` if it is not of TCP.
    """

    ordinal: int
    position: str
    branches: int
    halted: bool
    guest_ns: int | None
    direction: str
    card: int
    length: int
    stream: int | None
    summary: str
    data: bytes

    @property
    def is_inbound(self) -> bool:
        """Whether the guest took it."""
        return self.direction == "in"


@dataclass(frozen=True, slots=True)
class PayloadRow:
    """Bytes of a connection, *offset* behind the beginning of that direction, as the packet in event *ordinal* made
    them complete; right before them are *missing* bytes that came in no packet.
    """

    ordinal: int
    position: str
    branches: int
    halted: bool
    guest_ns: int | None
    direction: str
    offset: int
    missing: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Found:
    """A frame with what is known of it: the connection and the segment if it is of TCP."""

    frame: RecordedFrame
    stream: int | None
    segment: Segment | None


def packet_rows(
    recording: Recording,
    first: int = 0,
    last: int | None = None,
    *,
    stream: int | None = None,
    log_only: bool = False,
) -> Iterator[PacketRow]:
    """Yield the frames of *recording* from branch count *first* to *last* (None: the end), of TCP *stream* if given.

    The guest's time at each is from a replay where the log does not tell, unless *log_only*.  Raises UsageError if
    there is no such connection, as `Recording.events`, and what a replay raises.
    """
    for each in _found(recording, first, last, stream, log_only=log_only):
        frame = each.frame
        yield PacketRow(
            frame.ordinal,
            str(Position(frame.branches)),
            frame.branches,
            frame.halted,
            frame.guest_ns,
            _direction(frame),
            frame.card,
            len(frame.data),
            each.stream,
            summarize(frame.data),
            frame.data,
        )


def payload_rows(
    recording: Recording, stream: int, first: int = 0, last: int | None = None, *, log_only: bool = False
) -> Iterator[PayloadRow]:
    """Yield what the ends of TCP connection number *stream* sent each other, put together; else as `packet_rows`."""
    halves = {True: Assembler(), False: Assembler()}
    latest: dict[bool, RecordedFrame] = {}
    for each in _found(recording, first, last, stream, log_only=log_only):
        frame = latest[each.frame.is_inbound] = each.frame
        assert each.segment is not None
        yield from (_payload(frame, chunk) for chunk in halves[frame.is_inbound].take(each.segment))
    for is_inbound, frame in latest.items():
        yield from (_payload(frame, chunk) for chunk in halves[is_inbound].finish())


def _payload(frame: RecordedFrame, chunk: Chunk) -> PayloadRow:
    return PayloadRow(
        frame.ordinal,
        str(Position(frame.branches)),
        frame.branches,
        frame.halted,
        frame.guest_ns,
        _direction(frame),
        chunk.offset,
        chunk.missing,
        chunk.data,
    )


def _direction(frame: RecordedFrame) -> str:
    return "in" if frame.is_inbound else "out"


def _found(
    recording: Recording, first: int, last: int | None, stream: int | None, *, log_only: bool
) -> Iterator[_Found]:
    """Yield the frames that are wanted.  Connections count from the beginning of the recording, whatever is wanted.

    Raises UsageError if the recording ends and there was no connection *stream*.
    """
    table, times = StreamTable(), Times(recording, log_only=log_only)
    for frame in recorded_frames(recording):
        if last is not None and frame.branches > last:
            break
        number, segment = table.find(frame.data) or (None, None)
        if frame.branches < first or (stream is not None and number != stream):
            continue
        frame = replace(frame, guest_ns=times.at(frame.ordinal, frame.guest_ns))
        yield _Found(frame, number, segment)
    else:
        if stream is not None and stream >= table.count:
            there = f"the last one is {table.count - 1}" if table.count else "there is none"
            raise UsageError(
                f"no TCP connection {stream}: {there}", hint="'revirt net' lists packets with theirs"
            )
