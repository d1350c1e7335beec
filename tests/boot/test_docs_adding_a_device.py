"""docs/adding-a-device.md: Linux drives the device of the page."""

from __future__ import annotations

import hashlib

import pytest

from tests.boot.guests import Guest
from tests.boot.virtio_guest import INTERFACES, VirtioGuest
from tests.support.documents import FillDevice

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]
SIZE = 1024  # what `random_numbers` reads


@pytest.mark.parametrize("interface", ["legacy", "modern"])
@pytest.mark.parametrize("name", ["be", "le_small"])
def test_linux_reads_its_bytes(
    name: str,
    interface: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest: Guest = request.getfixturevalue(name)
    FillDevice(monkeypatch)
    options = ["-device", f"virtio-fill-pci,id=fill,byte=90{INTERFACES[interface]}"]
    with VirtioGuest(guest, options) as running:
        assert running.random_numbers() == hashlib.sha256(bytes((90,)) * SIZE).hexdigest()
        assert running.trouble() == []
