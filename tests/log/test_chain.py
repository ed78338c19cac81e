from __future__ import annotations

import struct
from hashlib import blake2b

import pytest

from revirt.log.chain import Chain
from revirt.log.events import Event, Kind
from revirt.log.rows import rows_of

TICK = Event(Kind.INTERRUPT, 500, True, 0x1000, 7, 48)
END = Event(Kind.END, 900, False, 0x2000, 1, 0, b"done")


def test_the_hash_is_the_one_that_the_format_describes() -> None:
    chain = Chain()
    chain.add(TICK)

    sealed = chain.seal(END)

    rows = struct.pack("<BBHIQQQ", 4, 1, 7, 0, 500, 0x1000, 48) + struct.pack(
        "<BBHIQQQ", 7, 0, 1, 4, 900, 0x2000, 0
    )
    whole = bytes(8) + blake2b(rows).digest() + blake2b(b"done").digest()
    assert sealed == END._replace(number=int.from_bytes(blake2b(whole, digest_size=8).digest(), "little"))


def test_it_does_not_matter_how_events_come_together() -> None:
    one_by_one, at_once = Chain(), Chain()
    lines = [TICK._replace(data=data) for data in (b"a", b"bc", b"")]

    for line in lines:
        one_by_one.add(line)
    at_once.add_rows(rows_of(lines))

    assert one_by_one.seal(END) == at_once.seal(END)


def test_a_chain_goes_on_from_any_event_that_carries_the_hash() -> None:
    chain = Chain()
    chain.add(TICK)
    later = Chain(chain.seal(END).number)

    assert later.seal(END) == chain.seal(END)


@pytest.mark.parametrize(
    "event", [TICK._replace(branches=1 << 64), TICK._replace(number=-1), TICK._replace(check=1 << 16)]
)
def test_a_value_that_no_log_can_hold_is_refused(event: Event) -> None:
    with pytest.raises(ValueError, match="no log can hold"):
        Chain().add(event)
