"""A guest with virtio devices under load migrates several times in a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.guests import LE
from tests.migration.ping_pong import ping_pong

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("cpu", "mode", "cpus"),
    [("power8", "legacy", 4), ("power9", "modern", 1), ("power8", "transitional", 1)],
)
def test_loaded_guest_loses_nothing(tmp_path: Path, cpu: str, mode: str, cpus: int) -> None:
    if LE.missing:
        pytest.skip(LE.missing)
    report = ping_pong(tmp_path, LE, cpu, mode, 3, cpus)
    assert report.fault == ""
    assert report.moves == 3
    assert report.ticks > 3
