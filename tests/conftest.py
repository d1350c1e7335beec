"""Fixtures and Hypothesis profiles of all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.bare import BareMachine, bare_machine

# Children inherit ignored signals (nohup, a shell's background job), and tests send them some.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("default", deadline=None, suppress_health_check=_CHECKS)
settings.register_profile("fuzz", parent=settings.get_profile("default"), max_examples=20_000)
settings.load_profile("default")


@pytest.fixture
def machine() -> Iterator[BareMachine]:
    """A bare POWER8 guest, big-endian and in real mode."""
    with bare_machine() as guest:
        yield guest


@pytest.fixture
def power9() -> Iterator[BareMachine]:
    """The same as POWER9."""
    with bare_machine("power9") as guest:
        yield guest
