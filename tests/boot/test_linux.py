"""Linux boots, powers off, reboots and panics as on a real machine."""

from __future__ import annotations

import pytest

from emu.events import RunState
from emu.pytest_plugin.factory import MachineFactory
from emu.pytest_plugin.guest import GuestMachine
from tests.boot.guests import BOOT_SECONDS, READY, Guest, trouble_in

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]
CPUS = pytest.mark.parametrize("cpu", ["power8", "power9"])


def boots_and_powers_off(machine: GuestMachine) -> None:
    """Boot to the ready line, power off from inside, and find no fault in the transcript."""
    machine.console.expect(READY, timeout=BOOT_SECONDS)
    assert machine.wait(BOOT_SECONDS) == 0
    assert machine.state is RunState.SHUTDOWN
    assert "reboot: Power down" in machine.console.text
    assert trouble_in(machine.console.text) == []


@CPUS
def test_debian_ppc64le_boots_and_powers_off(
    le: Guest, cpu: str, machine_factory: MachineFactory
) -> None:
    boots_and_powers_off(machine_factory(le.config(cpu, "autotest=poweroff")))


@CPUS
def test_big_endian_kernel_boots_and_powers_off(
    be: Guest, cpu: str, machine_factory: MachineFactory
) -> None:
    boots_and_powers_off(machine_factory(be.config(cpu, "autotest=poweroff")))


@CPUS
def test_small_little_endian_kernel_boots_and_powers_off(
    le_small: Guest, cpu: str, machine_factory: MachineFactory
) -> None:
    boots_and_powers_off(machine_factory(le_small.config(cpu, "autotest=poweroff")))


@CPUS
def test_five_reboots_in_a_row_in_one_process(
    le_small: Guest, cpu: str, machine_factory: MachineFactory
) -> None:
    machine = machine_factory(le_small.config(cpu, "autotest=reboot"))
    for count in range(6):
        machine.console.expect(READY, timeout=BOOT_SECONDS)
        assert machine.resets == count
    machine.quit()
    assert machine.wait(30) == 0
    assert machine.resets in (5, 6)  # the guest may have been faster than quit()
    assert trouble_in(machine.console.text) == []


def test_debian_reboots(le: Guest, machine_factory: MachineFactory) -> None:
    machine = machine_factory(le.config(append="autotest=reboot"))
    for _ in range(2):
        machine.console.expect(READY, timeout=BOOT_SECONDS)
    assert machine.resets == 1
    assert trouble_in(machine.console.text) == []


def test_reboot_ends_the_machine_with_no_reboot(
    le_small: Guest, machine_factory: MachineFactory
) -> None:
    machine = machine_factory(le_small.config(append="autotest=reboot", no_reboot=True))
    machine.console.expect(READY, timeout=BOOT_SECONDS)
    assert machine.wait(BOOT_SECONDS) == 0
    assert machine.resets == 0


def test_reset_button_boots_again(le_small: Guest, machine_factory: MachineFactory) -> None:
    machine = machine_factory(le_small.config())
    machine.console.expect(READY, timeout=BOOT_SECONDS)
    machine.reset()
    machine.console.expect(READY, timeout=BOOT_SECONDS)
    assert machine.resets == 1
    assert trouble_in(machine.console.text) == []


@pytest.mark.parametrize("name", ["le", "be", "le_small"])
def test_panic_is_reported_with_its_reason(
    name: str,
    request: pytest.FixtureRequest,
    machine_factory: MachineFactory,
    capfd: pytest.CaptureFixture[str],
) -> None:
    guest: Guest = request.getfixturevalue(name)
    # panic=0: wait for ever, which is when the kernel calls ibm,os-term
    machine = machine_factory(guest.config(append="autotest=panic panic=0 panic_on_oops=1"))
    machine.console.expect("Kernel panic - not syncing", timeout=BOOT_SECONDS)
    assert machine.wait(BOOT_SECONDS) == 3
    assert machine.state is RunState.GUEST_PANICKED
    reason = machine.panic_reason
    assert reason is not None
    assert "sysrq" in reason.lower() or "exception" in reason.lower()
    assert f"ppc64emu: guest panicked: {reason}" in capfd.readouterr().err
