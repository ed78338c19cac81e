from __future__ import annotations

import struct
from hashlib import blake2b

import pytest

from revirt.log.chain import Chain
from revirt.log.events import Event, Kind

TICK = Event(Kind.INTERRUPT, 500, True, 0x1000, 7, 48)
END = Event(Kind.END, 900, False, 0x2000, 1, 0, b"done")


def test_the_hash_is_the_one_that_the_format_describes() -> None:
    chain = Chain()
    chain.add(TICK)

    sealed = chain.seal(END)

    raw = bytes(8) + struct.pack("<BQ?QHQI", 4, 500, True, 0x1000, 7, 48, 0)
    raw += struct.pack("<BQ?QHQI", 7, 900, False, 0x2000, 1, 0, 4) + b"done"
    assert sealed == END._replace(number=int.from_bytes(blake2b(raw, digest_size=8).digest(), "little"))


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
