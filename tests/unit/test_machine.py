"""The machine from outside: bad input is told in one line, and a tiny firmware finds its way."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import fdt
import pytest

from emu.config import ConfigError, MachineConfig
from emu.events import RunState
from emu.machine import Machine
from emu.migration.status import MigrationStatus
from tests.support.asm import assemble, b, bne, ld, li, li64, lwz, mtspr, x_form

SECONDS = 120
HYPERCALL = 0x44000022
KERNEL_ADDRESS = 0x400000
PF_RX = 5


def elf(
    *segments: tuple[int, bytes, int], machine: int = 21, bits: int = 64, entry: int = 0
) -> bytes:
    """A big-endian ELF executable; segments are (address, data, size in memory)."""
    wide = bits == 64
    header_size, entry_size = (64, 56) if wide else (52, 32)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 2, 1]) + bytes(9)
    header = struct.pack(
        ">HHIQQQIHHHHHH" if wide else ">HHIIIIIHHHHHH",
        *(2, machine, 1, entry, header_size, 0, 0),
        *(header_size, entry_size, len(segments), 0, 0, 0),
    )
    table, data = b"", b""
    start = header_size + entry_size * len(segments)
    for address, content, size in segments:
        where = start + len(data)
        if wide:
            fields = (1, PF_RX, where, address, address, len(content), size, 1)
            table += struct.pack(">IIQQQQQQ", *fields)
        else:
            short = (1, where, address, address, len(content), size, PF_RX, 1)
            table += struct.pack(">8I", *short)
        data += content
    return ident + header + table + data


def emulator(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the emulator to its end."""
    command = [
        sys.executable,
        "-m",
        "emu",
        "-nographic",
        *(os.fspath(argument) for argument in arguments),
    ]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )


SPIN = assemble(b(0))
GOOD = elf((0, SPIN, 4))

#: File contents that are no kernel for 256 MiB, and a part of the complaint.
BAD_KERNELS = {
    "empty": (b"", ""),
    "text": (b"hello, world\n" * 100, ""),
    "x86": (elf((0, SPIN, 4), machine=62), ""),
    "32-bit": (elf((0, SPIN, 4), machine=20, bits=32), ""),
    "header cut": (GOOD[:40], ""),
    "table cut": (GOOD[:80], ""),
    "segment cut": (elf((0, bytes(4096), 4096))[:-1], ""),
    "no segment": (elf(), ""),
    "larger than RAM": (elf((0, SPIN, 400 << 20)), "fit"),
    "beyond RAM": (elf((0, SPIN, 4), (0x0F000000, SPIN, 64 << 20)), "fit"),
    "overlapping": (elf((0, bytes(64), 64), (32, bytes(64), 64)), ""),
    "more in file than in memory": (elf((0, bytes(64), 4)), ""),
}


@pytest.mark.parametrize("name", BAD_KERNELS)
def test_bad_kernel_is_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    contents, part = BAD_KERNELS[name]
    path = tmp_path / "vmlinux"
    path.write_bytes(contents)
    with pytest.raises(ConfigError) as caught:
        Machine(MachineConfig(kernel=path, ram_size=256 << 20))
    message = str(caught.value)
    assert "vmlinux" in message
    assert part in message
    assert "\n" not in message


def test_initrd_larger_than_ram_is_an_error(tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "vmlinux", tmp_path / "initrd.img"
    kernel.write_bytes(GOOD)
    with initrd.open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(ConfigError, match=r"initrd\.img: does not fit"):
        Machine(MachineConfig(kernel=kernel, initrd=initrd, ram_size=256 << 20))


def test_failed_migration_is_told_when_the_guest_runs_again(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(GOOD)
    states: list[RunState] = []

    def note(status: MigrationStatus) -> None:
        if status is MigrationStatus.FAILED:
            states.append(machine.state.state)

    with Machine(MachineConfig(kernel=kernel, ram_size=256 << 20)) as machine:
        machine.migration.on_status = note
        machine.start()
        assert machine.state.wait_for(RunState.RUNNING, timeout=SECONDS)
        for _ in range(10):
            machine.migration.migrate("exec:cat > /dev/null; false")
            machine.migration.wait(SECONDS)
    assert states == [RunState.RUNNING] * 10


#: Arguments and a part of the one line on stderr; KERNEL, DIR are replaced.
BAD_COMMAND_LINES: dict[str, tuple[list[str], str]] = {
    "no kernel": ([], "-kernel"),
    "missing kernel": (["-kernel", "DIR/absent"], "absent"),
    "directory as kernel": (["-kernel", "DIR"], "DIR"),
    "program of the host": (["-kernel", "/bin/true"], "/bin/true"),
    "missing initrd": (["-kernel", "KERNEL", "-initrd", "DIR/absent"], "absent"),
    "missing firmware": (["-bios", "DIR/absent"], "absent"),
    "no RAM": (["-kernel", "KERNEL", "-m", "0"], "RAM"),
    "absurd RAM": (["-kernel", "KERNEL", "-m", "99999999T"], "-m"),
    "RAM is no number": (["-kernel", "KERNEL", "-m", "much"], "-m"),
    "unknown machine": (["-M", "mac99", "-kernel", "KERNEL"], "mac99"),
    "unknown machine property": (["-M", "pseries,zz=1", "-kernel", "KERNEL"], "zz"),
    "unknown CPU": (["-cpu", "970", "-kernel", "KERNEL"], "970"),
    "unknown option": (["-kernel", "KERNEL", "-zz"], "-zz"),
    "missing argument": (["-kernel"], "-kernel"),
    "many CPUs": (["-kernel", "KERNEL", "-smp", "17"], "Invalid SMP CPUs 17"),
    "unwritable serial file": (["-kernel", "KERNEL", "-serial", "file:DIR/a/b"], "a/b"),
    "unknown serial": (["-kernel", "KERNEL", "-serial", "zz"], "zz"),
    "unwritable dumpdtb": (["-M", "pseries,dumpdtb=DIR/a/b", "-kernel", "KERNEL"], "a/b"),
    "append without kernel": (["-bios", "KERNEL", "-append", "zz"], "kernel"),
}


@pytest.mark.parametrize("name", BAD_COMMAND_LINES)
def test_bad_command_line_is_one_line_on_stderr(name: str, tmp_path: Path) -> None:
    arguments, part = BAD_COMMAND_LINES[name]
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(GOOD)

    def filled(text: str) -> str:
        return text.replace("KERNEL", str(kernel)).replace("DIR", str(tmp_path))

    result = emulator(*map(filled, arguments))
    lines = [line for line in result.stderr.splitlines() if "compiling hot paths" not in line]
    assert result.returncode in (1, 2)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ppc64emu: ")
    assert filled(part) in lines[0]
    assert result.stdout == ""


def properties(blob: bytes, path: str) -> dict[str, bytes]:
    """The properties of a node of a flattened device tree, each as bytes."""
    node = fdt.parse_dtb(blob).get_node(path)
    return {prop.name: _bytes(prop) for prop in node.props}


def _bytes(prop: object) -> bytes:
    data = getattr(prop, "data", [])
    if data and isinstance(data[0], str):
        return b"".join(text.encode() + b"\0" for text in data)
    if data and prop.__class__.__name__ == "PropWords":
        return struct.pack(f">{len(data)}I", *data)
    return bytes(data)


def test_dumpdtb_writes_the_tree_and_ends(tmp_path: Path) -> None:
    tree = tmp_path / "tree.dtb"
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(GOOD)
    result = emulator("-M", f"pseries,dumpdtb={tree}", "-kernel", kernel, "-append", "one two")
    assert result.returncode == 0, result.stderr
    assert properties(tree.read_bytes(), "/chosen")["bootargs"] == b"one two\0"


def firmware(*code: int | list[int], at: int = 0x100) -> bytes:
    """A raw image with code at the System Reset vector."""
    return bytes(at) + assemble(*code)


def put_term_char(text: str) -> list[int | list[int]]:
    """Up to eight characters to the first terminal."""
    word = int.from_bytes(text.encode().ljust(8, b"\0"), "big")
    return [li(3, 0x58), li(4, 0), li(5, len(text)), *li64(6, word), HYPERCALL]


def machine_with(path: Path, code: bytes, kernel: Path | None = None) -> Machine:
    """A machine of 256 MiB that starts this firmware."""
    path.write_bytes(code)
    return Machine(MachineConfig(bios=path, kernel=kernel, ram_size=256 << 20))


def compared(register: int, value: int) -> list[int]:
    """Compare the low word with a constant, in CR0, by way of r11."""
    return [*li64(11, value), x_form(31, 0, register, 11, 32)]  # cmplw


def test_firmware_starts_at_0x100_with_the_device_tree_in_r3(tmp_path: Path) -> None:
    bad, good = put_term_char("BAD\n"), put_term_char("FDT\n")
    good_words = len(assemble(*good))
    code = [lwz(10, 3), *compared(10, 0xD00DFEED), bne(good_words + 8), *good, b(0), *bad, b(0)]
    with machine_with(tmp_path / "fw", firmware(*code)) as machine:
        machine.start()
        machine.console.wait_for("\n", timeout=SECONDS)
        assert machine.console.text == "FDT\n"


def test_firmware_finds_the_kernel_where_chosen_says(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(elf((0, b"KERNEL!\n", 8)))
    show = [li(3, 0x58), li(4, 0), li(5, 8), *li64(9, KERNEL_ADDRESS), ld(6, 9), HYPERCALL, b(0)]
    with machine_with(tmp_path / "fw", firmware(*show), kernel) as machine:
        chosen = properties(machine.board.fdt, "/chosen")
        address, size = struct.unpack(">QQ", chosen["qemu,boot-kernel"])
        machine.start()
        machine.console.wait_for("KERNEL!\n", timeout=SECONDS)
    assert (address, size) == (KERNEL_ADDRESS, 8)


def wait_for_state(machine: Machine, state: RunState) -> None:
    """Fail unless the machine gets into a state."""
    assert machine.state.wait_for(state, timeout=SECONDS) is state


def spinning(tmp_path: Path) -> Machine:
    """A guest in an endless loop with interrupts off."""
    return machine_with(tmp_path / "fw", firmware(b(0)))


def test_stop_freezes_the_timebase(tmp_path: Path) -> None:
    with spinning(tmp_path) as machine:
        machine.start()
        wait_for_state(machine, RunState.RUNNING)
        machine.stop()
        wait_for_state(machine, RunState.PAUSED)
        clock = machine.board.partition
        frozen = clock.timebase
        assert clock.timebase == frozen
        machine.cont()
        wait_for_state(machine, RunState.RUNNING)
        assert clock.timebase > frozen


def test_guest_in_endless_loop_can_be_quit(tmp_path: Path) -> None:
    with spinning(tmp_path) as machine:
        machine.start()
        wait_for_state(machine, RunState.RUNNING)
        machine.quit()
        assert machine.wait(SECONDS) == 0


def idle(tmp_path: Path) -> Machine:
    """A guest that cedes for ever, with its decrementer off as far as it goes."""
    return machine_with(
        tmp_path / "fw", firmware(*li64(5, 0x7FFFFFFF), mtspr(22, 5), li(3, 0xE0), HYPERCALL, b(-8))
    )


ENDS: dict[str, Callable[[Machine], None]] = {"close": Machine.close, "quit": Machine.quit}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ENDS)
def test_idle_guest_can_be_ended(end: str, tmp_path: Path) -> None:
    machine = idle(tmp_path)
    machine.start()
    wait_for_state(machine, RunState.RUNNING)
    ENDS[end](machine)
    assert machine.wait(SECONDS) == 0
    machine.close()


def test_closing_a_machine_that_never_started(tmp_path: Path) -> None:
    machine = spinning(tmp_path)
    machine.close()
    machine.close()


def test_nothing_is_released_while_it_is_kicked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`quit` on the event loop's thread, and the main thread closes as the guest has ended."""
    machine = spinning(tmp_path)
    closer = threading.Thread(target=machine.close)
    waits: list[bool] = []

    def kick() -> None:
        if not waits:
            waits.append(False)
            closer.start()
            closer.join(0.5)  # time to come through, were it allowed to
            waits[0] = closer.is_alive()

    monkeypatch.setattr(machine.board.vcpus[0], "kick", kick)
    machine.quit()
    closer.join(SECONDS)
    assert waits == [True]


def test_guest_paused_from_the_start_waits_for_cont(tmp_path: Path) -> None:
    path = tmp_path / "fw"
    path.write_bytes(firmware(*put_term_char("ALIVE\n"), b(0)))
    with Machine(MachineConfig(bios=path, ram_size=256 << 20, start_paused=True)) as machine:
        machine.start()
        assert machine.board.partition.timebase == 0
        assert machine.console.text == ""
        machine.cont()
        machine.console.wait_for("ALIVE\n", timeout=SECONDS)
