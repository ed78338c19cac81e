from __future__ import annotations

import pytest

from revirt.cli.rows import event_rows, kinds_named, payload
from revirt.errors import UsageError
from revirt.log.events import Event, Kind


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(Kind.CLOCK, 5, False, 0x10, number=1_500_000_000), "1.500000000 s"),
        (Event(Kind.RECEIVED, 5, False, 0x10, data=b"ls\n\x1b"), r'"ls\n\x1b"'),
        (Event(Kind.INTERRUPT, 5, False, 0x10, number=8), "vector 0x08"),
        (Event(Kind.CHECKPOINT, 5, False, 0x10, number=3), "number 3"),
        (Event(Kind.END, 5, False, 0x10, data=b"power off"), "power off"),
        (Event(Kind.END, 5, False, 0x10, data=b"\x1b[2J\xff"), r"\x1b[2J\xff"),
        (
            Event(Kind.DIGEST, 5, False, 0x10, data=bytes([1] * 16 + [2] * 16 + [3] * 16)),
            f"cpu {'01' * 16} ram {'02' * 16} devices {'03' * 16}",
        ),
    ],
)
def test_a_payload_is_written_as_people_write_it(event: Event, text: str) -> None:
    assert payload(event) == text


def test_a_short_digest_from_a_file_is_shown_as_far_as_it_goes() -> None:
    assert payload(Event(Kind.DIGEST, 0, False, 0, data=b"\xaa")) == "cpu aa ram  devices "


def test_rows_of_one_kind_keep_their_ordinals() -> None:
    log = [
        Event(Kind.CLOCK, 1, False, 0x10, number=1),
        Event(Kind.RECEIVED, 2, True, 0x20, data=b"x"),
        Event(Kind.CLOCK, 3, False, 0x30, number=2),
        Event(Kind.RECEIVED, 4, False, 0x40, data=b"y"),
    ]

    rows = list(event_rows(log, kinds_named(["received"])))

    assert [(row.ordinal, row.branches, row.halted, row.pc) for row in rows] == [
        (1, 2, True, "0x20"),
        (3, 4, False, "0x40"),
    ]
    assert [row.icount for row in rows] == [None, None]


def test_counted_events_carry_their_counts() -> None:
    (row,) = event_rows([(Event(Kind.CLOCK, 1, False, 0x10), 77)])

    assert row.icount == 77


def test_an_unknown_kind_names_the_known() -> None:
    with pytest.raises(UsageError, match="'mouse'") as caught:
        kinds_named(["mouse"])

    assert "received" in caught.value.hint
