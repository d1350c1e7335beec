"""The pytest plugin with Linux guests: memory through the MMU, breakpoints, disks of snapshots."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.chardev.config import ConfigError
from emu.cpu.isa import MSR_DR
from emu.pytest_plugin.factory import MachineFactory, SnapshotFactory
from emu.pytest_plugin.guest import GuestMachine
from emu.pytest_plugin.memory import AddressError
from emu.pytest_plugin.snapshot import Snapshot
from tests.boot.guests import BOOT_SECONDS, GUESTS, READY, Guest
from tests.boot.virtio_guest import block_options

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
LINEAR_MAP = 0xC000_0000_0000_0000
MIB = 1 << 20
DISK_SIZE = 4 * MIB


def stop_in_virtual_mode(machine: GuestMachine) -> None:
    """Stop the guest, but not where its CPU enters an interrupt: there all addresses are real."""
    machine.stop()
    while not machine.registers["msr"] & MSR_DR:
        machine.cont()
        machine.stop()


@pytest.mark.usefixtures("le", "be")
@pytest.mark.ppc64emu(
    m="1G",
    kernel=GUESTS / "{endian}" / "vmlinux",
    initrd=GUESTS / "{endian}" / "initramfs.cpio.gz",
    append="console=hvc0",
)
@pytest.mark.ppc64emu_snapshot(until=READY, timeout=BOOT_SECONDS)
@pytest.mark.ppc64emu_matrix(cpus=["power8", "power9"], endians=["be", "le"])
class TestMemory:
    def test_kernel_is_found_at_its_effective_addresses(self, machine: GuestMachine) -> None:
        stop_in_virtual_mode(machine)
        real = machine.memory.read(0, 48 * MIB).index(b"Linux version ")
        banner = machine.virtual.read_string(LINEAR_MAP + real)
        assert banner.startswith("Linux version 6")
        assert banner == machine.memory.read_string(real)
        assert machine.virtual.translate(LINEAR_MAP + real) == real
        with pytest.raises(AddressError, match="not mapped"):
            machine.virtual.read(0x8000_0000_0000_0000, 1)

    def test_byte_order_is_the_guests(self, machine: GuestMachine, guest_endian: str) -> None:
        stop_in_virtual_mode(machine)
        assert machine.registers["msr"] & 1 == (guest_endian == "le")
        place = 0x3F00_0000  # nothing of the kernel is that high
        machine.virtual.write_int(LINEAR_MAP + place, 0x0102, size=2)
        wanted = bytes((1, 2)) if guest_endian == "be" else bytes((2, 1))
        assert machine.memory.read(place, 2) == wanted


@pytest.mark.usefixtures("le")
@pytest.mark.ppc64emu_matrix(cpus=["power8", "power9"])
def test_breakpoint_in_a_system_call_sees_the_callers_memory(
    le: Guest, machine_factory: MachineFactory
) -> None:
    machine = machine_factory(le.config())
    machine.console.expect(READY, BOOT_SECONDS)
    machine.console.expect("# ")
    machine.debugger.add_breakpoint("sys_sethostname")
    machine.console.sendline("hostname break.point; echo do''ne")
    stop = machine.debugger.run()
    assert stop.pc == machine.symbol("sys_sethostname") == machine.registers["nip"]
    registers = machine.registers["r3"]  # struct pt_regs starts with the GPRs
    name, length = (machine.virtual.read_int(registers + 8 * number) for number in (3, 4))
    assert machine.virtual.read(name, length) == b"break.point"
    machine.virtual.write(name, b"other.name!")
    with pytest.raises(LookupError, match="no symbol 'sys_nonsense'"):
        machine.debugger.add_breakpoint("sys_nonsense")
    machine.debugger.release()
    machine.console.expect("\ndone\r\n")
    machine.console.sendline("hostname")
    machine.console.expect_exact("\nother.name!\r\n")


def run(machine: GuestMachine, command: str) -> str:
    """Run a command of the small guests; what it printed."""
    machine.console.sendline(command)
    return machine.console.expect("guest# ", 120).before


def write_and_sync(machine: GuestMachine) -> None:
    """Boot, and leave a pattern on the disk."""
    machine.console.expect("guest# ", BOOT_SECONDS)
    run(machine, f"write /dev/vda {DISK_SIZE} 1")
    run(machine, "sync")


@pytest.fixture(scope="module", params=["be", "le_small"])
def with_disk(
    request: pytest.FixtureRequest,
    snapshot_factory: SnapshotFactory,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Snapshot, Path]:
    """A guest that has written to its disk, and the host's image."""
    guest: Guest = request.getfixturevalue(request.param)
    image = tmp_path_factory.mktemp("disk") / "disk.img"
    image.write_bytes(bytes(DISK_SIZE))
    options = [*guest.arguments(), *block_options(image)]
    return snapshot_factory(*options, until=write_and_sync, timeout=BOOT_SECONDS), image


@pytest.mark.parametrize("seed", [2, 3])
def test_each_restored_guest_has_the_disk_of_the_snapshot(
    with_disk: tuple[Snapshot, Path], machine_factory: MachineFactory, seed: int
) -> None:
    snapshot, image = with_disk
    machine = machine_factory(snapshot)
    run(machine, "echo 3 > /proc/sys/vm/drop_caches")
    assert f"verified {DISK_SIZE}" in run(machine, f"verify /dev/vda {DISK_SIZE} 1")
    run(machine, f"write /dev/vda {DISK_SIZE} {seed}")
    run(machine, "sync")
    run(machine, "echo 3 > /proc/sys/vm/drop_caches")
    assert f"verified {DISK_SIZE}" in run(machine, f"verify /dev/vda {DISK_SIZE} {seed}")
    assert image.read_bytes() == bytes(DISK_SIZE)


def test_machine_goes_on_with_its_disk_after_it_was_saved(
    le_small: Guest, machine_factory: MachineFactory, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(DISK_SIZE))
    machine = machine_factory(*le_small.arguments(), *block_options(image))
    write_and_sync(machine)
    snapshot = machine.save(tmp_path / "state")
    run(machine, f"write /dev/vda {DISK_SIZE} 2")
    run(machine, "sync")
    run(machine, "echo 3 > /proc/sys/vm/drop_caches")
    assert f"verified {DISK_SIZE}" in run(machine, f"verify /dev/vda {DISK_SIZE} 2")
    restored = machine_factory(snapshot)
    run(restored, "echo 3 > /proc/sys/vm/drop_caches")
    assert f"verified {DISK_SIZE}" in run(restored, f"verify /dev/vda {DISK_SIZE} 1")
    with pytest.raises(ConfigError, match="drive 'disk' has snapshot=on"):
        restored.save(tmp_path / "again")
    snapshot.delete()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.img"]
