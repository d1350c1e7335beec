"""system_powerdown: the guest is asked, and shuts itself down."""

from __future__ import annotations

import pytest

from emu.monitor.hmp import execute
from tests.boot.guests import BE, BOOT_SECONDS, LE, LE_SMALL, READY, Guest, boot, trouble_in

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("guest", "cpu"),
    [(LE, "power8"), (LE_SMALL, "power9"), (BE, "power8")],
    ids=lambda value: getattr(value, "name", value),
)
def test_guest_powers_itself_off(guest: Guest, cpu: str) -> None:
    if guest.missing:
        pytest.skip(guest.missing)
    with boot(guest, cpu) as machine:
        machine.console.wait_for(READY, timeout=BOOT_SECONDS)
        machine.console.wait_for("# ", timeout=BOOT_SECONDS)
        assert execute(machine, "system_powerdown") == ""
        assert machine.wait(BOOT_SECONDS) == 0
        assert "Power off requested" in machine.console.text
        assert trouble_in(machine.console.text) == []
