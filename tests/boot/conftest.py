"""Guests as fixtures: a missing image skips a test, except where CI is set."""

from __future__ import annotations

import os

import pytest

from emu.pytest_plugin import machine as machine  # instead of the bare one of ../conftest.py
from tests.boot.guests import BE, LE, LE_SMALL, Guest


def _present(guest: Guest) -> Guest:
    if guest.missing:
        if os.environ.get("CI"):
            pytest.fail(guest.missing)
        pytest.skip(guest.missing)
    return guest


@pytest.fixture(scope="session")
def le() -> Guest:
    """Debian's ppc64le kernel with busybox."""
    return _present(LE)


@pytest.fixture(scope="session")
def be() -> Guest:
    """The small big-endian kernel."""
    return _present(BE)


@pytest.fixture(scope="session")
def le_small() -> Guest:
    """The small little-endian kernel."""
    return _present(LE_SMALL)
