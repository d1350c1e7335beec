"""Coming and going: ends of the guest, resets, detaching, lost and second clients, several CPUs."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.config import ConfigError, SocketConfig, StdioConfig
from emu.cpu.isa import MSR_SF
from emu.events import RunState
from emu.gdb.registers import REGISTERS
from emu.machine import Machine
from emu.monitor.hmp import execute
from emu.options import parse_command_line
from tests.support import asm
from tests.support.gdb_client import GdbClient
from tests.support.gdb_guest import COUNT, ENTRY, SECOND, address_of, client_of, gdb_guest, rtas

NUMBER = {register.name: index for index, register in enumerate(REGISTERS)}
PC, R5, R6 = NUMBER["pc"], NUMBER["r5"], NUMBER["r6"]
STOPPED = b"T05thread:1;"
SECONDS = 30.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A guest that counts in r5; it has not started."""
    with gdb_guest(tmp_path) as guest:
        yield guest


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def counts(machine: Machine) -> bool:
    """Whether the guest's counter moves, that is, whether it runs."""
    before = machine.on_vcpu(lambda: machine.board.vcpus[0].gpr(5))
    time.sleep(0.02)
    return bool(machine.on_vcpu(lambda: machine.board.vcpus[0].gpr(5)) != before)


def output(reply: bytes) -> bytes:
    """The text of an O packet."""
    assert reply[:1] == b"O"
    return bytes.fromhex(reply[1:].decode())


def gone(client: GdbClient) -> bool:
    """Whether the stub has closed the connection."""
    try:
        client.reply()
    except (EOFError, ConnectionError):
        return True
    return False


def test_power_off_is_an_exit(tmp_path: Path) -> None:
    code, arguments = rtas("power-off", 0, 0)
    with (
        gdb_guest(tmp_path, *code, asm.b(0), arguments=arguments) as machine,
        client_of(machine) as client,
    ):
        assert client.ask("c") == b"W00"
        assert client.ask("c") == b"W00"
        assert client.ask("s") == b"W00"
        assert client.ask("g").startswith(b"E.")
        assert client.ask("m0,4").startswith(b"E.")
        assert client.ask("qC") == b"QC1"
        machine.close()
        assert gone(client)


def test_power_off_in_a_step_is_an_exit(tmp_path: Path) -> None:
    code, arguments = rtas("power-off", 0, 0)
    with (
        gdb_guest(tmp_path, *code, arguments=arguments) as machine,
        client_of(machine) as client,
    ):
        for _ in range(6):
            assert client.ask("s") == STOPPED
        assert client.ask("s") == b"W00"


def test_a_panic_is_the_emulators_exit_status(tmp_path: Path) -> None:
    checkstop: list[asm.Code] = [
        asm.li64(3, 1 << 40),
        asm.li64(4, MSR_SF),
        asm.mtmsrd(4),
        asm.ld(5, 3),
    ]
    with gdb_guest(tmp_path, *checkstop) as machine, client_of(machine) as client:
        assert client.ask("c") == b"W03"
        assert machine.wait(SECONDS) == 3


def test_quit_while_the_guest_runs(machine: Machine) -> None:
    with client_of(machine) as client:
        client.put(b"c")
        machine.state.wait_for(RunState.RUNNING, timeout=SECONDS)
        machine.quit()
        assert client.reply() == b"W00"


def test_kill_ends_the_emulator(machine: Machine) -> None:
    with client_of(machine) as client:
        client.put(b"k")
        assert machine.wait(SECONDS) == 0


def test_vkill_ends_the_emulator(machine: Machine) -> None:
    with client_of(machine) as client:
        assert client.ask("vKill;1") == b"OK"
        assert machine.wait(SECONDS) == 0


def test_close_with_a_client_that_does_not_read(machine: Machine) -> None:
    with client_of(machine) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.ask("QStartNoAckMode")
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.put(b"m0,2000")
        start = time.monotonic()
        machine.close()
        assert time.monotonic() - start < SECONDS / 2


def test_reset_keeps_breakpoints(tmp_path: Path) -> None:
    with gdb_guest(tmp_path, asm.NOP, *COUNT) as machine, client_of(machine) as client:
        client.ask(f"Z0,{ENTRY:x},4")
        assert client.ask("c") == STOPPED
        assert client.ask("s") == STOPPED
        client.put(b"c")
        until(lambda: counts(machine))
        machine.reset()
        assert client.reply() == STOPPED
        assert client.register(PC) == ENTRY
        assert machine.resets == 1


def test_reset_while_stopped(machine: Machine) -> None:
    with client_of(machine) as client:
        client.ask("s")
        assert client.register(PC) == ENTRY + 4
        machine.reset()
        until(lambda: machine.resets)
        assert client.register(PC) == ENTRY


def test_reboot_in_a_step(tmp_path: Path) -> None:
    code, arguments = rtas("system-reboot")
    with (
        gdb_guest(tmp_path, *code, arguments=arguments) as machine,
        client_of(machine) as client,
    ):
        for _ in range(7):
            assert client.ask("s") == STOPPED
        until(lambda: machine.resets)
        assert client.register(PC) == ENTRY


def test_detach_lets_the_guest_run(machine: Machine) -> None:
    with client_of(machine) as client:
        client.ask(f"Z0,{ENTRY + 4:x},4")
        client.ask("Z2,4000,4")
        assert client.ask("c") == STOPPED
        assert client.ask("D") == b"OK"
        machine.state.wait_for(RunState.RUNNING, timeout=SECONDS)
        assert counts(machine)
        assert machine.board.vcpus[0].on_debug is None


def test_a_client_stops_the_guest_when_it_comes(tmp_path: Path) -> None:
    with gdb_guest(tmp_path, paused=False) as machine:
        machine.state.wait_for(RunState.RUNNING, timeout=SECONDS)
        with client_of(machine) as client:
            assert client.ask("?") == b"T02thread:1;"
            assert machine.state.state is RunState.PAUSED


def test_a_lost_client_leaves_the_guest_as_it_is(machine: Machine) -> None:
    """Stopped or running; its breakpoints go, and the next client finds all in order."""
    with client_of(machine) as client:
        client.ask(f"Z0,{ENTRY + 4:x},4")
        assert client.ask("c") == STOPPED
    until(lambda: machine.board.vcpus[0].on_debug is None)
    assert machine.state.state is RunState.DEBUG
    with client_of(machine) as client:
        assert client.register(PC) == ENTRY + 4
        client.put(b"c")
        client.sign()
        machine.state.wait_for(RunState.RUNNING, timeout=SECONDS)
    until(lambda: machine.board.vcpus[0].on_debug is None)
    assert counts(machine)


def test_replies_for_a_client_that_has_gone_are_not_for_the_next(machine: Machine) -> None:
    for _ in range(30):
        with client_of(machine) as client:
            client.send(b"$m0,10#2a" * 20)
        with client_of(machine) as client:
            assert client.ask("qC") == b"QC1"


def test_a_client_lost_in_the_middle_of_a_packet(machine: Machine) -> None:
    with client_of(machine) as client:
        client.send(b"$m0,")
    with client_of(machine) as client:
        assert client.ask("qC") == b"QC1"


def test_a_second_client_waits_for_the_first(machine: Machine) -> None:
    first, second = client_of(machine), client_of(machine)
    second.put(b"qC")
    second.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        second.reply()
    assert first.ask("qC") == b"QC1"
    second.socket.settimeout(SECONDS)
    first.socket.close()
    assert second.reply() == b"QC1"
    second.socket.close()


def test_the_monitor_lets_the_guest_run_and_stops_it(machine: Machine) -> None:
    """Others may run the guest behind the client's back; it is not confused."""
    with client_of(machine) as client:
        assert client.ask("qRcmd," + b"cont".hex()) == b"OK"
        assert machine.state.state is RunState.RUNNING
        assert client.ask("qC") == b"QC1"
        assert b"the guest runs" in output(client.ask("s"))
        assert client.reply() == b"T02thread:1;"
        client.put(b"c")
        assert client.interrupt() == b"T02thread:1;"
        client.put(b"c")
        machine.state.wait_for(RunState.RUNNING, timeout=SECONDS)
        execute(machine, "stop")
        assert client.reply() == b"T02thread:1;"


def test_the_state_is_debug_and_monitors_hear_of_it(machine: Machine) -> None:
    heard: list[str] = []
    machine.event = lambda name, data=None: heard.append(name)  # type: ignore[method-assign]
    with client_of(machine) as client:
        client.ask(f"Z0,{ENTRY + 4:x},4")
        client.ask("c")
        assert execute(machine, "info status") == "VM status: paused (debug)"
        assert heard == ["RESUME", "STOP"]


def test_gdbserver_in_the_monitor(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "gdb.sock"
    old = address_of(machine)
    assert str(path) in execute(machine, f"gdbserver unix:{path}")
    with GdbClient(f"unix:{path}") as client:
        assert client.ask("qC") == b"QC1"
        assert execute(machine, "gdbserver none") == "Disabled gdbserver"
        assert gone(client)
    assert machine.gdb is None
    assert not path.exists()
    with pytest.raises(ConnectionRefusedError):
        GdbClient(old)
    assert "Error" in execute(machine, "gdbserver nonsense")
    assert "Error" in execute(machine, "gdbserver tcp::1 none")


def test_gdbserver_none_from_gdb_itself(machine: Machine) -> None:
    with client_of(machine) as client:
        client.ask("QStartNoAckMode")
        client.acknowledge = False  # nobody is left to take it
        reply = client.ask("qRcmd," + b"gdbserver none".hex())
        assert reply.startswith(b"O")
        assert client.reply() == b"OK"
        assert gone(client)
    until(lambda: machine.board.vcpus[0].on_debug is None)


def test_nothing_runs_before_a_guest_has_come_in(tmp_path: Path) -> None:
    with gdb_guest(tmp_path, incoming="defer") as machine, client_of(machine) as client:
        for packet in ("c", "s"):
            assert b"inmigrate" in output(client.ask(packet))
            assert client.reply() == b"T02thread:1;"
        assert machine.state.state is RunState.INMIGRATE


# Several CPUs


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Machine]:
    """CPU 0 counts in r5; CPU 1, once started, in r6."""
    with gdb_guest(tmp_path, smp=2) as guest:
        yield guest


def start_second(machine: Machine) -> None:
    board = machine.board
    start = board.start_cpu  # type: ignore[attr-defined]
    machine.on_vcpu(lambda: start(board.vcpus[1], SECOND, 0))


def test_threads_of_two_cpus(two: Machine) -> None:
    with client_of(two) as client:
        assert client.ask("qfThreadInfo") == b"m1,2"
        assert client.ask("T2") == b"OK"
        info = client.ask("qThreadExtraInfo,2")
        assert bytes.fromhex(info.decode()) == b"CPU#1 [stopped]"
        start_second(two)
        assert client.ask("Hg2") == b"OK"
        assert client.register(PC) == SECOND
        assert client.ask("Hg1") == b"OK"
        assert client.register(PC) == ENTRY


def test_a_breakpoint_on_the_second_cpu_stops_both(two: Machine) -> None:
    start_second(two)
    with client_of(two) as client:
        client.ask(f"Z0,{SECOND + 4:x},4")
        assert client.ask("vCont;c") == b"T05thread:2;"
        assert client.ask("qC") == b"QC2"
        assert client.register(PC) == SECOND + 4
        first = two.board.vcpus[0].gpr(5)
        assert not counts(two)
        assert two.board.vcpus[0].gpr(5) == first


def test_stepping_one_of_two(two: Machine) -> None:
    """The other stands still, or runs if the client says so."""
    start_second(two)
    with client_of(two) as client:
        assert client.ask("vCont;s:2") == b"T05thread:2;"
        assert client.register(PC) == SECOND + 4
        assert two.board.vcpus[0].gpr(5) == 0
        for _ in range(20):
            assert client.ask("vCont;s:2;c") == b"T05thread:2;"
        client.ask("Hg2")
        assert client.register(R6) == 11
        assert client.register(PC) == SECOND + 4
        assert two.board.vcpus[0].gpr(5) > 0
        assert client.ask("Hc1") == b"OK"
        before = two.board.vcpus[0].pc
        assert client.ask("s") == b"T05thread:1;"
        assert two.board.vcpus[0].pc != before
        assert two.board.vcpus[1].gpr(6) == 11


def test_an_interrupt_ends_a_step_that_waits(two: Machine) -> None:
    """CPU 1 is not started: its step never comes, and the next run is a free one."""
    with client_of(two) as client:
        client.put(b"vCont;s:2;c")
        two.state.wait_for(RunState.RUNNING, timeout=SECONDS)
        assert client.interrupt().startswith(b"T02")
        assert client.ask("vCont;s:2") == b"T05thread:2;"
        start_second(two)
        client.put(b"vCont;c")
        until(lambda: two.on_vcpu(lambda: two.board.vcpus[1].gpr(6)) > 10)
        assert client.interrupt().startswith(b"T02")


def test_a_watchpoint_on_either_cpu(tmp_path: Path) -> None:
    spin = [asm.b(0)]
    with gdb_guest(tmp_path, *spin, smp=2) as machine, client_of(machine) as client:
        code = asm.assemble(asm.li(3, 0x4000), asm.stw(3, 3))
        client.ask(f"M{SECOND:x},8:{code.hex()}")
        start_second(machine)
        client.ask("Z2,4000,4")
        assert client.ask("c") == b"T05thread:2;watch:4000;"


def test_running_only_some_is_refused(two: Machine) -> None:
    with client_of(two) as client:
        assert b"all CPUs run" in output(client.ask("vCont;c:1"))
        assert client.reply() == b"T02thread:1;"
        assert not counts(two)


# Options


def test_the_options() -> None:
    def gdb_of(*argv: str) -> object:
        return parse_command_line(["-S", *argv]).gdb

    assert gdb_of() is None
    assert gdb_of("-s") == SocketConfig(id="gdb", port=1234, server=True)
    assert gdb_of("-gdb", "tcp::1234") == gdb_of("-s")
    assert gdb_of("-gdb", "tcp:[::1]:7") == SocketConfig(id="gdb", host="::1", port=7, server=True)
    assert gdb_of("-gdb", "unix:/x") == SocketConfig(id="gdb", path="/x", server=True)
    assert gdb_of("-gdb", "unix:/x,server=on") == gdb_of("-gdb", "unix:/x")
    assert gdb_of("-gdb", "unix:/x,server") == gdb_of("-gdb", "unix:/x")
    waiting = SocketConfig(id="gdb", path="/x", server=True, wait=True)
    assert gdb_of("-gdb", "unix:/x,server=on,wait=on") == waiting
    assert gdb_of("-gdb", "tcp:h:5,server=off") == SocketConfig(id="gdb", host="h", port=5)
    assert gdb_of("-s", "-gdb", "none") is None
    assert gdb_of("-serial", "none", "-gdb", "stdio") == StdioConfig(id="gdb")


@pytest.mark.parametrize(
    "argv",
    [
        ["-gdb"],
        ["-gdb", ""],
        ["-gdb", "tcp:1234"],
        ["-gdb", "tcp::99999"],
        ["-gdb", "file:/x"],
        ["-gdb", "null"],
        ["-gdb", "unix:"],
        ["-gdb", "chardev:x"],
        ["-serial", "stdio", "-gdb", "stdio"],
    ],
)
def test_mistakes_in_the_options(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]*$"):
        parse_command_line(["-S", *argv])


def test_a_port_that_is_taken_is_an_error_of_one_line(tmp_path: Path) -> None:
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + asm.assemble(asm.b(0)))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "emu", "-m", "256M", "-nodefaults", "-bios", str(image)]
        command += ["-gdb", f"tcp:127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "compiling" not in line]
    assert len(lines) == 1
    assert f"tcp:127.0.0.1:{port}" in lines[0]
