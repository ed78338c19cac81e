"""What the devices' tests share: a clock moved by hand, a state's way through bytes, a hostile guest."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revirt.machine.state import encode, from_plain, to_plain


@dataclass
class ManualClock:
    """A machine's clock that moves when the test says so."""

    now_ns: int = 0


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(scope="session")
def through_bytes():
    """A function that returns a state as it comes back from a file."""

    def pass_through(state):
        plain = msgpack.unpackb(encode({"device": state}))["device"]
        return from_plain(type(state), plain)

    return pass_through


@pytest.fixture(scope="session")
def attack():
    """A function that does to a device whatever a guest might.

    *make(clock)* returns the device, with *offsets* registers.  Half way through a run of random accesses and
    steps of time its state must be one that a file may hold, and a twin that takes it up must show the same
    from there on.
    """

    def run(make, offsets, sizes=(1,)):
        write = st.tuples(st.just("write"), st.integers(0, offsets - 1), st.integers(0, 0xFFFF_FFFF))
        read = st.tuples(st.just("read"), st.integers(0, offsets - 1), st.just(0))
        wait = st.tuples(st.just("wait"), st.integers(0, 10**10), st.just(0))
        # Small numbers hit commands and modes far more often than arbitrary ones.
        small = st.tuples(st.just("write"), st.integers(0, offsets - 1), st.integers(0, 255))

        @settings(max_examples=150, deadline=None)
        @given(st.lists(st.one_of(write, small, read, wait), max_size=60), st.sampled_from(sizes))
        def attacked(acts, size):
            clock = ManualClock()
            device, twin = make(clock), make(clock)
            half = len(acts) // 2
            for act in acts[:half]:
                _do(device, clock, act, size)

            state = device.save()
            twin.restore(from_plain(type(state), to_plain(state)))

            for act in acts[half:]:
                before = clock.now_ns
                shown = _do(device, clock, act, size)
                after, clock.now_ns = clock.now_ns, before
                assert _do(twin, clock, act, size) == shown
                clock.now_ns = after
            assert twin.save() == device.save()
            from_plain(type(state), to_plain(device.save()))

        attacked()

    def _do(device, clock, act, size):
        kind, offset, value = act
        offset -= offset % size
        if kind == "read":
            shown = device.read(offset, size)
            assert 0 <= shown < 1 << 8 * size
            return shown
        if kind == "write":
            return device.write(offset, size, value & (1 << 8 * size) - 1)
        clock.now_ns += offset
        if hasattr(device, "catch_up"):
            device.catch_up()
            deadline = device.deadline_ns()
            assert deadline is None or deadline > clock.now_ns
            return deadline
        return None

    return run
