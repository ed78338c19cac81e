"""Events in words, for people."""

from __future__ import annotations

from revirt.log.events import DIGEST_SIZE, STORED_DATA, Event, Kind
from revirt.render import escape, printable

_DIGESTS = ("cpu", "ram", "devices")


def payload(event: Event) -> str:
    """Return what *event* carries, as a person would write it; bytes as console scripts write them."""
    match event.kind:
        case Kind.CLOCK:
            return f"{event.number / 1e9:.9f} s"
        case Kind.RECEIVED | Kind.TRANSMITTED:
            port = f"console {event.number}: " if event.number else ""
            return f'{port}"{escape(event.data)}"'
        case Kind.FRAME_IN | Kind.FRAME_OUT:
            return f"card {event.number}: {len(event.data)} bytes"
        case Kind.DISK:
            return f"disk {event.data[0] if event.data else 0}: request {event.number}"
        case Kind.STORED:
            return _stored(event)
        case Kind.ENTROPY:
            return f"{len(event.data)} bytes"
        case Kind.KEYS:
            return event.data.hex(" ")
        case Kind.RATE:
            return f"{event.number} ns per branch"
        case Kind.INTERRUPT:
            return f"vector {event.number:#04x}"
        case Kind.DIGEST:
            starts = range(0, len(_DIGESTS) * DIGEST_SIZE, DIGEST_SIZE)
            parts = (event.data[start : start + DIGEST_SIZE].hex() for start in starts)
            return " ".join(f"{name} {part}" for name, part in zip(_DIGESTS, parts, strict=True))
        case Kind.CHECKPOINT:
            return f"number {event.number}"
        case Kind.END:
            return printable(event.data.decode(errors="backslashreplace"))


def _stored(event: Event) -> str:
    if len(event.data) != STORED_DATA.size:
        return f"{len(event.data)} bytes that are not a write"
    disk, size, digest = STORED_DATA.unpack(event.data)
    return f"disk {disk}: {size} bytes to sector {event.number}, hash {digest.hex()}"
