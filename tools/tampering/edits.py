"""Edits of what was recorded: events, segments, memory, states, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from damage import flip_value

from revirt.checkpoint.format import PAGE_SIZE
from revirt.log.events import Event, Kind
from tampering.book import Book, Stored

Edit = Callable[[Book, Random], str | None]
"""Changes a book and says what; None if it has nothing of the kind."""


def _pick(book: Book, rng: Random, *, plain: bool = True) -> tuple[list[Event], int]:
    """Return a place in a segment; not that of a hash or a checkpoint if it is to be *plain*.

    Raises ValueError if there is hardly any: a recorder may have died before the guest did anything.
    """
    for _ in range(200):
        events = rng.choice(book.segments)
        place = rng.randrange(len(events))
        if not plain or events[place].kind not in (Kind.DIGEST, Kind.CHECKPOINT, Kind.END):
            return events, place
    raise ValueError("a log without such events")


def edit_field(book: Book, rng: Random) -> str:
    """Flip a bit of a field of an event."""
    events, place = _pick(book, rng)
    events[place], what = flip_value(events[place], rng)
    return f"an event's {what}"


def edit_any(book: Book, rng: Random) -> str:
    """Flip a bit of a field of any event, also of one that carries a hash."""
    events, place = _pick(book, rng, plain=False)
    events[place], what = flip_value(events[place], rng)
    return f"{events[place].kind.label}: {what}"


def edit_data(book: Book, rng: Random) -> str | None:
    """Put other data for that of an event."""
    places = [
        (events, place)
        for events in book.segments
        for place, event in enumerate(events)
        if event.data and event.kind in (Kind.RECEIVED, Kind.TRANSMITTED, Kind.END)
    ]
    if not places:
        return None
    events, place = rng.choice(places)
    events[place] = events[place]._replace(data=rng.choice((b"", b"harmless\n", events[place].data + b"\n")))
    return "an event's data"


def delete_event(book: Book, rng: Random) -> str | None:
    """Take an event out."""
    events, place = _pick(book, rng)
    if len(events) == 1:
        return None
    return f"{events.pop(place).kind.label} deleted"


def insert_event(book: Book, rng: Random) -> str:
    """Put an event in."""
    events, place = _pick(book, rng)
    kind = rng.choice((Kind.RECEIVED, Kind.TRANSMITTED, Kind.INTERRUPT))
    data = b"" if kind is Kind.INTERRUPT else b"root\n"
    events.insert(place, events[place]._replace(kind=kind, data=data, number=0))
    return f"{kind.label} inserted"


def repeat_event(book: Book, rng: Random) -> str:
    """Write an event twice."""
    events, place = _pick(book, rng)
    events.insert(place, events[place])
    return "an event repeated"


def swap_events(book: Book, rng: Random) -> str | None:
    """Let two events change places, each where the other stood."""
    first, place = _pick(book, rng)
    second, other = _pick(book, rng)
    one, two = first[place], second[other]
    if one[4:] == two[4:] and one.kind == two.kind:
        return None
    first[place] = two._replace(branches=one.branches, halted=one.halted, pc=one.pc)
    second[other] = one._replace(branches=two.branches, halted=two.halted, pc=two.pc)
    return "two events swapped"


def move_event(book: Book, rng: Random) -> str | None:
    """Let an event stand in the segment beside its own, where it is as many events from the beginning of the log."""
    if len(book.segments) < 2:
        return None
    place = rng.randrange(1, len(book.segments))
    before, after = book.segments[place - 1], book.segments[place]
    if rng.random() < 0.5 and len(before) > 1:
        after.insert(0, before.pop())
    elif len(after) > 1:
        before.append(after.pop(0))
    else:
        return None
    return f"an event moved between segments {place - 1} and {place}"


def swap_segments(book: Book, rng: Random) -> str | None:
    """Let two segments change places, numbered and chained anew; moments are made to fit."""
    if len(book.segments) < 2:
        return None
    first, second = sorted(rng.sample(range(len(book.segments)), 2))
    book.segments[first], book.segments[second] = book.segments[second], book.segments[first]
    _straighten(book)
    return f"segments {first} and {second} swapped"


def drop_segment(book: Book, rng: Random) -> str | None:
    """Take a segment out of the middle, with checkpoints that begin there; number everything anew."""
    if len(book.segments) < 3:
        return None
    place = rng.randrange(1, len(book.segments) - 1)
    _forget(book, book.segments.pop(place))
    return f"segment {place} dropped"


def drop_last(book: Book, rng: Random) -> str | None:
    """Take the last segments away."""
    if len(book.segments) < 2:
        return None
    keep = rng.randrange(1, len(book.segments))
    for events in book.segments[keep:]:
        _forget(book, events)
    del book.segments[keep:]
    return f"segments from {keep} on dropped"


def repeat_segment(book: Book, rng: Random) -> str:
    """Write a segment twice, the second time without its checkpoint."""
    place = rng.randrange(len(book.segments))
    again = [event for event in book.segments[place] if event.kind is not Kind.CHECKPOINT]
    book.segments.insert(place + 1, again)
    _straighten(book)
    return f"segment {place} repeated"


def edit_memory(book: Book, rng: Random) -> str | None:
    """Change a byte of memory in a checkpoint; later ones keep theirs."""
    found = rng.choice(book.checkpoints)
    number = rng.choice(sorted(found.memory)) if found.memory else 0
    page = bytearray(found.memory.get(number, bytes(PAGE_SIZE)))
    page[rng.randrange(PAGE_SIZE)] ^= 1 << rng.randrange(8)
    found.memory = {**found.memory, number: bytes(page)}
    book.changed.add(found.info.number)
    return f"page {number} of checkpoint {found.info.number}"


def edit_state(book: Book, rng: Random) -> str | None:
    """Change a byte of a machine's state in a checkpoint."""
    found = rng.choice(book.checkpoints)
    state = bytearray(found.state)
    state[rng.randrange(len(state))] ^= 1 << rng.randrange(8)
    found.state = bytes(state)
    return f"state of checkpoint {found.info.number}"


def edit_time(book: Book, rng: Random) -> str | None:
    """Change the guest's time in a checkpoint, of which no event tells."""
    found = rng.choice(book.checkpoints)
    found.info = replace(found.info, guest_ns=found.info.guest_ns ^ (1 << rng.randrange(40)))
    return f"guest time of checkpoint {found.info.number}"


def drop_checkpoint(book: Book, rng: Random) -> str | None:
    """Take a checkpoint out, and its event; later ones are numbered anew."""
    if len(book.checkpoints) < 2:
        return None
    place = rng.randrange(1, len(book.checkpoints))
    number = book.checkpoints[place].info.number
    for events in book.segments:
        events[:] = [each for each in events if (each.kind, each.number) != (Kind.CHECKPOINT, number)]
    del book.checkpoints[place]
    _renumber(book, {old.info.number: old.info.number - 1 for old in book.checkpoints[place:]})
    return f"checkpoint {number} dropped"


def add_checkpoint(book: Book, rng: Random) -> str | None:
    """Put a checkpoint in, with its DIGEST and its event, behind one that is there."""
    place = rng.randrange(len(book.checkpoints))
    found = book.checkpoints[place]
    _renumber(book, {old.info.number: old.info.number + 1 for old in book.checkpoints[place + 1 :]})
    number = found.info.number + 1
    for events in book.segments:
        for at, event in enumerate(events):
            if (event.kind, event.number) == (Kind.CHECKPOINT, found.info.number):
                events[at + 1 : at + 1] = [events[at - 1], event._replace(number=number)]
                new = Stored(replace(found.info, number=number), found.state, dict(found.memory))
                book.checkpoints.insert(place + 1, new)
                return f"checkpoint {number} added"
    return None


EDITS: dict[str, Edit] = {
    "event's field": edit_field,
    "any event": edit_any,
    "event's data": edit_data,
    "event deleted": delete_event,
    "event inserted": insert_event,
    "event repeated": repeat_event,
    "events swapped": swap_events,
    "event moved": move_event,
    "segments swapped": swap_segments,
    "segment dropped": drop_segment,
    "last segments dropped": drop_last,
    "segment repeated": repeat_segment,
    "memory": edit_memory,
    "machine state": edit_state,
    "checkpoint's time": edit_time,
    "checkpoint dropped": drop_checkpoint,
    "checkpoint added": add_checkpoint,
}
"""Every edit, by name."""


def _forget(book: Book, events: list[Event]) -> None:
    """Drop the checkpoints that stand in *events*, which are gone, and number the others anew."""
    gone = {event.number for event in events if event.kind is Kind.CHECKPOINT}
    book.checkpoints = [each for each in book.checkpoints if each.info.number not in gone]
    first = book.manifest.start.checkpoint
    _renumber(book, {each.info.number: first + at for at, each in enumerate(book.checkpoints)})


def _renumber(book: Book, numbers: dict[int, int]) -> None:
    for events in book.segments:
        for place, event in enumerate(events):
            if event.kind is Kind.CHECKPOINT and event.number in numbers:
                events[place] = event._replace(number=numbers[event.number])
    for each in book.checkpoints:
        number = each.info.number
        each.info = replace(each.info, number=numbers.get(number, number))


def _straighten(book: Book) -> None:
    """Let branches never decrease, and checkpoints come in the order of their events."""
    last = 0
    order = []
    for events in book.segments:
        for place, event in enumerate(events):
            last = max(last, event.branches)
            events[place] = event._replace(branches=last)
            if event.kind is Kind.CHECKPOINT:
                order.append(event.number)
    first = book.manifest.start.checkpoint
    book.checkpoints.sort(
        key=lambda each: order.index(each.info.number) if each.info.number in order else len(order)
    )
    _renumber(book, {number: first + at for at, number in enumerate(order)})
