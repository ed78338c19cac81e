"""Events in words, for people."""

from __future__ import annotations

from revirt.log.events import DIGEST_SIZE, Event, Kind
from revirt.render import escape, printable

_DIGESTS = ("cpu", "ram", "devices")


def payload(event: Event) -> str:
    """Return what *event* carries, as a person would write it; bytes as console scripts write them."""
    match event.kind:
        case Kind.CLOCK:
            return f"{event.number / 1e9:.9f} s"
        case Kind.RECEIVED | Kind.TRANSMITTED:
            return f'"{escape(event.data)}"'
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
