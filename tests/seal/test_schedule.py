from __future__ import annotations

import gc
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from revirt.errors import SealError
from revirt.seal.epochs import open_sealed, verify_certificates, verify_epoch_signature
from revirt.seal.keys import PrivateKey
from revirt.seal.schedule import EPOCHS, Schedule, epoch_is_due

USER = PrivateKey.from_raw(bytes(range(32)))
UUID = "11111111-2222-3333-4444-555555555555"
SEED = bytes(range(100, 132))
DAY_S = 86_400


def seeds(count: int) -> list[bytes]:
    """The first *count* seeds, as the format describes them."""
    found = [SEED]
    while len(found) < count:
        found.append(sha256(b"revirt ratchet" + found[-1]).digest())
    return found


def raw_key(seed: bytes) -> bytes:
    return sha256(b"revirt epoch" + seed).digest()


def public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(raw_key(seed)).public_key().public_bytes_raw()


def begin(epochs: int = 8) -> Schedule:
    return Schedule.begin(USER, UUID, epochs=epochs, seed=SEED)


def advance(schedule: Schedule, epoch: int) -> None:
    while schedule.epoch < epoch:
        schedule.evolve()


def reachable(start: object) -> Iterator[Any]:
    """Every object that *start* holds, directly or not; modules and classes, which hold everything, aside."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type(gc) | type):
            continue
        seen.add(id(item))
        yield item
        waiting += gc.get_referents(item)


def secrets_in(schedule: Schedule) -> list[bytes]:
    """Every run of 32 bytes that *schedule* holds, and the private halves of its keys."""
    found: set[bytes] = set()
    for item in reachable(schedule):
        if isinstance(item, Ed25519PrivateKey):
            found.add(item.private_bytes_raw())
        elif isinstance(item, bytes | bytearray):
            found |= {bytes(item[at : at + 32]) for at in range(len(item) - 31)}
    return sorted(found)


def test_the_keys_are_those_that_the_format_describes() -> None:
    schedule = begin()

    for epoch, seed in enumerate(seeds(20)):
        advance(schedule, epoch)

        assert schedule.sign("test", b"x").key == public(seed)


def test_a_seed_is_drawn_unless_given() -> None:
    first, second = (Schedule.begin(USER, UUID, epochs=1) for _ in range(2))

    assert first.sign("test", b"x").key != second.sign("test", b"x").key


@pytest.mark.parametrize("epoch", [0, 3, 7, 8, 20])
def test_every_epoch_signs_up_to_the_key_of_the_user(epoch: int) -> None:
    schedule = begin()
    advance(schedule, epoch)

    signature = schedule.sign("test", b"payload")
    envelope = schedule.seal("test", b"payload")

    batches = verify_certificates(schedule.certificates, USER.public, UUID)
    verify_epoch_signature("test", b"payload", signature, batches)
    opened = open_sealed(envelope, "test", batches)
    assert (signature.epoch, opened.epoch, opened.payload) == (epoch, epoch, b"payload")
    assert len(batches) == epoch // 8 + 1


def test_what_was_signed_in_the_past_holds_in_the_future() -> None:
    schedule = begin()
    early = schedule.seal("test", b"early")

    advance(schedule, 17)

    batches = verify_certificates(schedule.certificates, USER.public, UUID)
    assert open_sealed(early, "test", batches).epoch == 0


@pytest.mark.parametrize("epoch", [1, 5, 8, 9])
def test_nothing_in_a_schedule_leads_to_an_earlier_key(epoch: int) -> None:
    schedule = begin()
    schedule.sign("test", b"x")
    advance(schedule, epoch)
    schedule.sign("test", b"x")
    lost = {public(seed) for seed in seeds(epoch)}

    found = secrets_in(schedule)

    # Whatever 32 bytes there are, and whatever follows from them as a seed, or as a key: no key that was.
    keys = {Ed25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw() for raw in found}
    assert not lost & keys
    assert not lost & {public(seed) for seed in found}
    assert not {*seeds(epoch), *map(raw_key, seeds(epoch))} & set(found)


def test_that_search_finds_the_key_that_is_there() -> None:
    schedule = begin()
    advance(schedule, 3)

    found = secrets_in(schedule)

    assert seeds(4)[3] in found
    assert raw_key(seeds(4)[3]) in found


def test_the_seed_is_overwritten_where_it_was_kept() -> None:
    schedule = begin()
    kept = schedule._seed

    schedule.evolve()
    assert kept is schedule._seed
    assert bytes(kept) == seeds(2)[1]

    schedule.close()
    assert bytes(kept) == bytes(32)


def test_the_key_of_the_user_is_not_kept() -> None:
    schedule = begin()

    assert bytes(range(32)) not in secrets_in(schedule)


def test_a_closed_schedule_signs_nothing_more() -> None:
    schedule = begin()

    schedule.close()

    assert not [item for item in reachable(schedule) if isinstance(item, Ed25519PrivateKey)]
    with pytest.raises(ValueError, match="destroyed"):
        schedule.sign("test", b"x")
    with pytest.raises(ValueError, match="destroyed"):
        schedule.seal("test", b"x")
    with pytest.raises(ValueError, match="destroyed"):
        schedule.evolve()


def test_who_stole_a_key_signs_from_then_on_but_not_before() -> None:
    # The thief has all that the recorder had in epoch 3, and signs something else in the name of epoch 2.
    schedule = begin()
    advance(schedule, 2)
    genuine = schedule.sign("test", b"genuine")
    schedule.evolve()
    batches = verify_certificates(schedule.certificates, USER.public, UUID)
    stolen = schedule.sign("test", b"forged")

    verify_epoch_signature("test", b"forged", stolen, batches)
    for forged in (
        type(stolen)(2, stolen.key, stolen.path, stolen.signature),
        type(stolen)(2, stolen.key, genuine.path, stolen.signature),
        type(stolen)(2, genuine.key, genuine.path, stolen.signature),
    ):
        with pytest.raises(SealError, match="epoch 2: "):
            verify_epoch_signature("test", b"forged", forged, batches)


@pytest.mark.parametrize(
    ("started", "length"), [(0, 1), (10.5, 1), (32, 1), (64, 2), (3200, 100), (DAY_S, 2700)]
)
def test_an_epoch_is_a_second_and_later_a_share_of_the_age(started: float, length: float) -> None:
    assert not epoch_is_due(started, started + length * 0.999)
    assert epoch_is_due(started, started + length)


def test_a_batch_reaches_two_years() -> None:
    age, epochs = 0.0, 0
    while age < 2 * 365 * DAY_S:
        age += max(1, age / 32)
        epochs += 1

    assert epochs <= EPOCHS


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_an_epoch_that_is_due_stays_due(started: float, age: float) -> None:
    assert epoch_is_due(started, age) <= epoch_is_due(started, age + 1)


def test_a_schedule_is_begun_with_sensible_numbers_only() -> None:
    with pytest.raises(ValueError, match="a batch of 0 epochs"):
        begin(0)
    with pytest.raises(ValueError, match="a batch of 65537 epochs"):
        begin(65_537)
    with pytest.raises(ValueError, match="a seed of 31 bytes"):
        Schedule.begin(USER, UUID, seed=bytes(31))
