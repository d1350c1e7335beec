"""Linux on several vCPUs: boot, load with checksums, CPUs taken off and on, reboot."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from emu.cpu.record import MAX_VCPUS
from emu.machine import Machine
from tests.boot.guests import BOOT_SECONDS, READY, Guest, boot, trouble_in

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
CPUS = pytest.mark.parametrize("cpu", ["power8", "power9"])
PROMPT = re.compile(r"guest:[^\n]*# ")
COMMAND_SECONDS = 120.0


@pytest.fixture(scope="module", params=["power8", "power9"])
def four(request: pytest.FixtureRequest, le: Guest) -> Iterator[Machine]:
    """Debian's kernel with four CPUs at its shell prompt; shared by this file's tests."""
    with boot(le, request.param, cpus=4) as machine:
        machine.console.wait_for(PROMPT, timeout=BOOT_SECONDS)
        yield machine
        assert trouble_in(machine.console.text) == []


def run(machine: Machine, command: str) -> str:
    """What a shell command prints."""
    machine.console.send(f"{command}; echo END''OF\n")
    start = len(machine.console.text)
    machine.console.wait_for("ENDOF", timeout=COMMAND_SECONDS)
    machine.console.wait_for(PROMPT, timeout=COMMAND_SECONDS)
    return machine.console.text[start:].partition("ENDOF")[0].rpartition("END''OF")[2]


@CPUS
def test_debian_boots_two_cpus_and_powers_off(le: Guest, cpu: str) -> None:
    with boot(le, cpu, "autotest=poweroff", cpus=2) as machine:
        machine.console.wait_for(READY, timeout=BOOT_SECONDS)
        assert machine.wait(BOOT_SECONDS) == 0
        assert "smp: Brought up 1 node, 2 CPUs" in machine.console.text
        assert trouble_in(machine.console.text) == []


def test_debian_starts_as_many_cpus_as_there_can_be(le: Guest) -> None:
    with boot(le, cpus=MAX_VCPUS) as machine:
        up = f"smp: Brought up 1 node, {MAX_VCPUS} CPUs"
        machine.console.wait_for(up, timeout=BOOT_SECONDS)


def test_debian_reboots_and_finds_all_cpus_again(le: Guest) -> None:
    with boot(le, append="autotest=reboot", cpus=4) as machine:
        for _ in range(2):
            machine.console.wait_for("smp: Brought up 1 node, 4 CPUs", timeout=BOOT_SECONDS)
            machine.console.wait_for(READY, timeout=BOOT_SECONDS)
        assert machine.resets == 1
        assert trouble_in(machine.console.text) == []


def test_four_cpus_compute_the_same(four: Machine) -> None:
    """Four processes at once, each on a CPU of its own, and one that wanders."""
    one = "head -c 4000000 /dev/zero | gzip | gzip -d | md5sum"
    sums = run(
        four,
        f"for c in 1 2 4 8; do (taskset $c sh -c '{one}') & done; ({one}) & wait",
    )
    found = re.findall(r"\b[0-9a-f]{32}\b", sums)
    assert len(found) == 5, sums
    assert len(set(found)) == 1


def test_cpus_go_off_and_come_back(four: Machine) -> None:
    """stop-self and start-cpu, and interrupts for those that are left."""
    online = "cat /sys/devices/system/cpu/online"
    assert "0-3" in run(four, online)
    for number in (1, 3):
        run(four, f"echo 0 > /sys/devices/system/cpu/cpu{number}/online")
    assert "0,2" in run(four, online)
    assert [bool(vcpu.record["stopped"]) for vcpu in four.board.vcpus] == [0, 1, 0, 1]
    for number in (3, 1):
        run(four, f"echo 1 > /sys/devices/system/cpu/cpu{number}/online")
    assert "0-3" in run(four, online)
    assert "all fine" in run(four, "taskset 8 echo all''\\ fine")


def test_an_idle_guest_needs_little_processor_time(four: Machine) -> None:
    run(four, "true")
    before = time.process_time()
    time.sleep(3)
    assert time.process_time() - before < 1.5
