"""A guest with virtio devices under load migrates several times in a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.guests import BE, LE, Guest
from tests.migration.ping_pong import ping_pong

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("guest", "cpu", "mode", "cpus"),
    [
        (LE, "power8", "legacy", 4),
        (LE, "power9", "modern", 1),
        (LE, "power8", "transitional", 1),
        (BE, "power8", "legacy", 1),
        (BE, "power9", "modern", 1),
    ],
)
def test_loaded_guest_loses_nothing(
    tmp_path: Path, guest: Guest, cpu: str, mode: str, cpus: int
) -> None:
    if guest.missing:
        pytest.skip(guest.missing)
    report = ping_pong(tmp_path, guest, cpu, mode, 3, cpus)
    assert report.fault == ""
    assert report.moves == 3
    assert report.ticks > 3
