"""What the tests of virtio devices share: a machine around one device, and drivers of both kinds for it."""

from __future__ import annotations

import pytest
from virtio_driver import LegacyDriver, Machine, ModernDriver


@pytest.fixture(params=[LegacyDriver, ModernDriver], ids=["legacy", "modern"])
def driver_of(request):
    """A function that returns a driver, of each kind in turn, of what ``make(memory, irq, reschedule)`` returns."""
    return lambda make: request.param(Machine(make))


@pytest.fixture
def modern_driver_of():
    """The same for drivers since virtio 1.0 only."""
    return lambda make: ModernDriver(Machine(make))


@pytest.fixture
def legacy_driver_of():
    """The same for drivers from before only."""
    return lambda make: LegacyDriver(Machine(make))
