"""gdb-multiarch and Linux: first instructions, the change of byte order, drivers, the end."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from emu.events import RunState
from emu.machine import Machine
from tests.boot.guests import BOOT_SECONDS, GUESTS, READY, Guest, trouble_in
from tests.boot.virtio_guest import VirtioGuest, block_options
from tests.gdb.conftest import StartDebugged, connect
from tests.gdb.mi import Gdb, GdbError
from tests.support.gdb_guest import address_of
from tests.support.process import Emulator

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

MSR_LE = 1
KERNEL = 0xC000000000000000
SYSTEM_SCHEDULING, SYSTEM_FREEING_INITMEM = 1, 2  # enum system_states (linux/kernel.h)
SYSTEM_CALL = 0xC000000000004C00  # the vector with AIL 3


def ready(machine: Machine) -> None:
    """The guest comes up and has nothing to complain of."""
    machine.console.wait_for(READY, timeout=2 * BOOT_SECONDS)
    assert trouble_in(machine.console.text) == []


def cross_to_little_endian(gdb: Gdb) -> int:
    """Step from the kernel's entry until it has changed the byte order; the number of steps.

    gdb, told that the guest is big-endian, then reads its registers the wrong way round.
    """
    steps = 0
    while gdb.pc >> 32 == 0:
        assert gdb.value("$msr") & MSR_LE == 0
        gdb.go("stepi")
        steps += 1
        assert steps < 100
    gdb("set endian little")
    assert gdb.value("$msr") & MSR_LE
    return steps


@pytest.mark.parametrize("cpu", ["power8", "power9"])
def test_debians_kernel_from_its_first_instruction(
    le: Guest, debugged: StartDebugged, cpu: str
) -> None:
    machine = debugged(le.config(cpu), start_paused=True)
    with Gdb("big") as gdb:
        connect(gdb, machine)
        entry = gdb.pc
        assert "b " in gdb("x/i $pc")
        assert 5 < cross_to_little_endian(gdb) < 50
        assert entry < gdb.pc < entry + 0x100
        assert gdb.go("stepi") == "end-stepping-range"

        gdb(f"file {le.kernel}")
        gdb("hbreak early_setup")
        gdb("break start_kernel")
        assert gdb.go("continue") == "breakpoint-hit"
        assert "early_setup" in gdb("info symbol $pc")
        assert gdb.value("$msr") & 0x30 == 0  # in real mode
        assert gdb.go("continue") == "breakpoint-hit"
        assert gdb.value("$msr") & 0x30 == 0x30
        frames = gdb("backtrace")
        assert re.search(r"#0 .* start_kernel .*\n#1 .* start_here_common ", frames)
        assert "VM status: paused (debug)" in gdb("monitor info status")

        gdb("delete")
        gdb("watch *(unsigned int *) &system_state")
        for state, function in (
            (SYSTEM_SCHEDULING, "rest_init"),
            (SYSTEM_FREEING_INITMEM, "kernel_init"),
        ):
            assert gdb.go("continue") == "watchpoint-trigger"
            assert gdb.value("*(unsigned int *) &system_state") == state
            assert f" {function} " in gdb("backtrace 1")
        gdb("delete")

        gdb("hbreak ksys_write")
        assert gdb.go("continue") == "breakpoint-hit"
        assert " system_call_exception " in gdb("backtrace 3")
        before = gdb.pc
        for _ in range(20):
            assert gdb.go("stepi") == "end-stepping-range"
        assert gdb.pc != before
        gdb("delete")

        gdb("continue")
        machine.state.wait_for(RunState.RUNNING, timeout=30)
        time.sleep(0.5)
        gdb.interrupt()
        assert gdb.stopped() == "signal-received"
        assert machine.state.state is RunState.PAUSED
        gdb("detach")
        ready(machine)


def test_the_end_of_the_guest_and_a_reboot(le: Guest, debugged: StartDebugged) -> None:
    """The example of docs/gdb.md; breakpoints outlive a reboot; a power-off is an exit."""
    machine = debugged(le.config(), start_paused=True)
    with Gdb("little") as gdb:
        gdb(f"file {le.kernel}")
        connect(gdb, machine)
        gdb("hbreak start_kernel")
        assert gdb.go("continue") == "breakpoint-hit"
        gdb("delete")
        gdb("hbreak do_kernel_power_off")
        gdb("hbreak kernel_restart")
        gdb("continue")
        ready(machine)
        machine.console.send("reboot -f\n")
        assert gdb.stopped() == "breakpoint-hit"
        assert "kernel_restart" in gdb("backtrace 2")
        gdb("hbreak start_kernel")
        assert gdb.go("continue") == "breakpoint-hit"
        assert "start_kernel" in gdb("info symbol $pc")
        assert machine.resets == 1
        gdb("delete")
        gdb("continue")
        ready(machine)
        machine.console.send("poweroff -f\n")
        assert gdb.stopped() == "exited-normally"


def section(guest: VirtioGuest, module: str) -> str:
    """Where the guest has a module's code."""
    return guest.run(f"cat /sys/module/{module}/sections/.text").split()[-1]


def test_break_in_virtio_drivers(le: Guest, tmp_path: Path) -> None:
    """Modules at addresses that the guest tells; a probe, a ring and an interrupt."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    options = [*block_options(disk), "-gdb", "tcp:127.0.0.1:0"]
    with VirtioGuest(le, options) as guest, Gdb("little") as gdb:
        gdb(f"file {le.kernel}")
        for module in ("virtio_ring", "virtio_blk"):
            file = GUESTS / "le" / "modules" / f"{module}.ko"
            gdb(f"add-symbol-file {file} {section(guest, module)}")
        connect(gdb, guest.machine)
        gdb("break virtblk_probe")
        gdb("continue")
        driver = "/sys/bus/virtio/drivers/virtio_blk"
        guest.type(f"echo virtio0 > {driver}/unbind; echo virtio0 > {driver}/bind")
        assert gdb.stopped() == "breakpoint-hit"
        frames = gdb("backtrace 8")
        assert re.search(r"#0 .* virtblk_probe .*\n#1 .* virtio_dev_probe", frames) or (
            "virtblk_probe" in frames and "really_probe" in frames
        )
        gdb("delete")
        gdb("break vring_create_virtqueue")
        assert gdb.go("continue") == "breakpoint-hit"
        assert "virtblk_probe" in gdb("backtrace 8")
        gdb("delete")
        gdb("break virtblk_done")
        assert gdb.go("continue") == "breakpoint-hit"
        assert "vring_interrupt" in gdb("backtrace 8")
        gdb("delete")
        gdb("detach")
        guest.finish()
        assert guest.run("dd if=/dev/vda of=/dev/null bs=64k count=4 2>&1")


def test_a_big_endian_kernel(be: Guest, debugged: StartDebugged) -> None:
    """It has no symbols; addresses will do."""
    machine = debugged(be.config(), start_paused=True)
    with Gdb("big") as gdb:
        connect(gdb, machine)
        for _ in range(30):
            assert gdb.go("stepi") == "end-stepping-range"
        assert gdb.value("$msr") & MSR_LE == 0
        gdb("continue")
        ready(machine)
        gdb.interrupt()
        assert gdb.stopped() == "signal-received"
        gdb(f"hbreak *{SYSTEM_CALL:#x}")
        gdb("continue")
        machine.console.send("\n")
        assert gdb.stopped() == "breakpoint-hit"
        assert gdb.pc == SYSTEM_CALL
        caller = gdb.value("$srr0")
        assert 0 < caller < 1 << 47
        assert gdb.value(f"*(unsigned int *) {caller - 4:#x}") == 0x44000002  # sc
        assert gdb.value("$r13") < 1 << 48  # still the program's
        gdb("delete")
        paca = gdb.value("$sprg1")  # the kernel's data of this CPU, which its entry uses
        assert paca >= KERNEL
        gdb(f"awatch *(char (*)[2048]) {paca:#x}")
        assert gdb.go("continue") == "access-watchpoint-trigger"
        assert SYSTEM_CALL < gdb.pc < SYSTEM_CALL + 0x1000
        assert gdb.value("$r13") == paca
        gdb("delete")
        gdb("detach")
        machine.console.send("echo alive\n")
        machine.console.wait_for("alive", timeout=BOOT_SECONDS)  # the echo
        machine.console.wait_for("alive", timeout=BOOT_SECONDS)


def test_a_program_calls_the_kernel_and_returns(be: Guest, debugged: StartDebugged) -> None:
    """Step over the system call itself: the next instruction is the vector's first."""
    machine = debugged(be.config())
    ready(machine)
    with Gdb("big") as gdb:
        connect(gdb, machine)
        gdb(f"hbreak *{SYSTEM_CALL:#x}")
        gdb("continue")
        machine.console.send("\n")
        assert gdb.stopped() == "breakpoint-hit"
        caller = gdb.value("$srr0") - 4
        gdb("delete")
        gdb(f"hbreak *{caller:#x}")
        gdb("continue")
        machine.console.send("\n")
        assert gdb.stopped() == "breakpoint-hit"
        assert gdb.pc == caller
        assert gdb.go("stepi") == "end-stepping-range"
        assert gdb.pc == SYSTEM_CALL
        gdb("delete")
        gdb(f"tbreak *{caller + 4:#x}")
        assert gdb.go("continue") == "breakpoint-hit"
        gdb("detach")


def test_two_cpus(le: Guest, debugged: StartDebugged) -> None:
    """Threads are CPUs: all stop, each steps, both hit the same breakpoint."""
    machine = debugged(le.config(), smp=2)
    ready(machine)
    with Gdb("little") as gdb:
        gdb(f"file {le.kernel}")
        connect(gdb, machine)
        threads = gdb("info threads")
        assert "CPU#0" in threads
        assert "CPU#1" in threads
        for number in (1, 2):
            gdb(f"thread {number}")
            before = gdb.pc
            assert gdb.go("stepi") == "end-stepping-range"
            assert gdb.value("$_thread") == number
            assert gdb.pc != before
        gdb("hbreak __schedule")
        machine.console.send("cat /proc/uptime\n")
        seen: set[int] = set()
        for _ in range(200):
            assert gdb.go("continue") == "breakpoint-hit"
            seen.add(gdb.value("$_thread"))
            if len(seen) == 2:
                break
        assert seen == {1, 2}
        gdb("delete")
        gdb("set scheduler-locking on")
        assert gdb.go("continue") == "signal-received"  # not supported, as gdb has told
        assert gdb.go("stepi") == "end-stepping-range"
        gdb("detach")
        machine.console.send("echo al''ive\n")
        machine.console.wait_for("alive", timeout=BOOT_SECONDS)
        assert trouble_in(machine.console.text) == []


def test_the_command_line_and_a_unix_socket(le: Guest, tmp_path: Path) -> None:
    """``-S -gdb``: gdb lets the guest go, QMP sees it, and it comes up."""
    path = tmp_path / "gdb.sock"
    options = [*le.arguments(), "-S", "-gdb", f"unix:{path}"]
    with Emulator(tmp_path, "debugged", options) as emulator, Gdb("big") as gdb:
        assert emulator.status() == "prelaunch"
        gdb(f"target remote {path}")
        for _ in range(3):
            assert gdb.go("stepi") == "end-stepping-range"
        gdb(f"hbreak *{gdb.pc + 4:#x}")
        assert gdb.go("continue") == "breakpoint-hit"
        assert emulator.status() == "debug"
        gdb("delete")
        gdb("detach")
        assert emulator.status() == "running"
        emulator.wait_for(READY, 2 * BOOT_SECONDS)


def test_reverse_execution_is_refused_by_gdb(be: Guest, debugged: StartDebugged) -> None:
    machine = debugged(be.config(), start_paused=True)
    with Gdb("big") as gdb:
        connect(gdb, machine)
        for command in ("reverse-stepi", "reverse-continue"):
            with pytest.raises(GdbError, match="does not support"):
                gdb(command)
        assert gdb.go("stepi") == "end-stepping-range"


def test_physical_memory_through_gdb(be: Guest, debugged: StartDebugged) -> None:
    machine = debugged(be.config())
    ready(machine)
    with Gdb("big") as gdb:
        connect(gdb, machine)
        text = gdb(f"x/4xw {KERNEL:#x}").split(":", 1)[1]
        with pytest.raises(GdbError):
            gdb("x/4xw 0x10")  # no process has a page there
        gdb("maintenance packet Qqemu.PhyMemMode:1")
        gdb("maintenance flush dcache")
        assert gdb("x/4xw 0").split(":", 1)[1] == text
        assert address_of(machine)
