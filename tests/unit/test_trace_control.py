"""Tracing a machine: from the command line, from Python, at run time; where the text goes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu import log
from emu.config import ConfigError, MachineConfig
from emu.config_trace import TraceConfig
from emu.log import configure_logging
from emu.machine import Machine
from emu.monitor.hmp import execute
from tests.support import asm

SECONDS = 60.0
H_PUT_TERM_CHAR = 0x58
ENTRY = 0x100
RTAS_EXIT = [asm.li(3, -1)]


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    yield
    configure_logging()


def image(tmp_path: Path) -> Path:
    """Prints one character by a hypercall, takes a system call, and does so for ever."""
    data = bytearray(0x2000)
    call = [asm.li(3, H_PUT_TERM_CHAR), asm.li(4, 0), asm.li(5, 1), asm.li64(6, ord("x") << 56)]
    code = asm.assemble([*call, asm.li(7, 0), asm.EXIT, asm.SC, asm.b(-44)])
    data[ENTRY : ENTRY + len(code)] = code
    data[0xC00:0xC04] = asm.assemble(asm.RFID)
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    return path


@contextmanager
def running(tmp_path: Path, *items: str, smp: int = 1, **trace: object) -> Iterator[Machine]:
    """A machine with a log in tmp_path/log; RAM small."""
    configure_logging(items, str(tmp_path / "log"))
    config = MachineConfig(
        bios=image(tmp_path),
        ram_size=256 << 20,
        smp=smp,
        log_items=frozenset(items),
        trace=TraceConfig(**trace),  # type: ignore[arg-type]
    )
    with Machine(config) as machine:
        yield machine


def wait_for(tmp_path: Path, text: str, count: int = 1) -> str:
    """The log once it has a text so many times."""
    end = time.monotonic() + SECONDS
    while (content := (tmp_path / "log").read_text()).count(text) < count:
        assert time.monotonic() < end, content[-2000:]
        time.sleep(0.02)
    return content


def test_items_of_the_command_line_are_on_from_the_first_instruction(tmp_path: Path) -> None:
    with running(tmp_path, "in_asm", "int") as machine:
        machine.start()
        text = wait_for(tmp_path, "int: system call")
    assert text.startswith(
        "----------------\nIN: (big-endian)\n0x0000000000000100:  38600058  li r3, 0x58\n"
    )


def test_lines_of_compiled_code_and_of_python_are_in_order(tmp_path: Path) -> None:
    with running(tmp_path, "int", "hcall") as machine:
        machine.start()
        machine.console.wait_for("x" * 20, timeout=SECONDS)
    kinds = [line.split(":")[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert len(kinds) > 20
    assert kinds[:20] == ["hcall", "int"] * 10


def test_items_change_while_the_guest_runs(tmp_path: Path) -> None:
    with running(tmp_path) as machine:
        machine.start()
        machine.console.wait_for("xxx", timeout=SECONDS)
        assert (tmp_path / "log").read_text() == ""
        assert execute(machine, "log int,exec") == ""
        wait_for(tmp_path, "int: system call")
        wait_for(tmp_path, "Trace 0: 0x0000000000000c00")
        assert execute(machine, "log") == "log: exec,int"
        assert execute(machine, "log none") == ""
        size = (tmp_path / "log").stat().st_size
        machine.console.wait_for("x" * 1000, timeout=SECONDS)
        machine.on_vcpu(lambda: None)
        assert (tmp_path / "log").stat().st_size == size
        assert execute(machine, "log hcall") == ""
        wait_for(tmp_path, "hcall: H_PUT_TERM_CHAR")
        assert execute(machine, "log").endswith("hcall")
        assert execute(machine, "log nonsense").startswith("Error: unknown log item 'nonsense'")
        assert "in_asm" in execute(machine, "log help")


def test_python_takes_the_text_and_names_the_ranges(tmp_path: Path) -> None:
    with running(tmp_path) as machine:
        chunks: list[str] = []
        machine.trace.output = chunks.append
        machine.trace.set_items({"exec"}, ranges=[(0xC00, 0xC00)])
        machine.start()
        machine.console.wait_for("x" * 10, timeout=SECONDS)
        machine.trace.set_items(())
        lines = "".join(chunks).splitlines()
        assert len(lines) > 2
        assert set(lines) == {"Trace 0: 0x0000000000000c00"}
        with pytest.raises(ConfigError, match="unknown log item"):
            machine.trace.set_items({"what"})


def test_dfilter_of_the_configuration_limits(tmp_path: Path) -> None:
    with running(tmp_path, "in_asm", "exec", ranges=((0xC00, 0xC03),)) as machine:
        machine.start()
        text = wait_for(tmp_path, "Trace 0: 0x0000000000000c00")
    assert "0x0000000000000c00:  4c000024  rfid" in text
    assert "0x0000000000000100" not in text


def test_the_log_is_whole_when_the_machine_has_ended(tmp_path: Path) -> None:
    with running(tmp_path, "int") as machine:
        machine.start()
        machine.console.wait_for("x" * 50, timeout=SECONDS)
        machine.quit()
        machine.wait(SECONDS)
        count = (tmp_path / "log").read_text().count("int: system call")
        assert count >= len(machine.console.text) - 1


def test_cpu_reset_shows_the_registers_at_start_and_reset(tmp_path: Path) -> None:
    with running(tmp_path, "cpu_reset") as machine:
        text = (tmp_path / "log").read_text()
        assert text.startswith("cpu_reset: CPU#0\ncpu_reset: NIP 0000000000000100")
        machine.start()
        machine.console.wait_for("x", timeout=SECONDS)
        machine.reset()
        wait_for(tmp_path, "NIP 0000000000000100", 2)


def test_a_log_that_cannot_be_written_does_not_stop_the_guest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging({"int", "hcall"}, "/dev/full")
    config = MachineConfig(bios=image(tmp_path), ram_size=256 << 20)
    with Machine(config) as machine:
        machine.start()
        machine.console.wait_for("x" * 10, timeout=SECONDS)
        machine.trace.drain()
        first = capfd.readouterr().err
        machine.console.wait_for("x" * 10, timeout=SECONDS)
        machine.trace.drain()
    assert first.count("ppc64emu: the log cannot be written: ") == 1
    assert "Traceback" not in first
    assert capfd.readouterr().err.count("cannot be written") == 0


def test_nothing_is_loaded_for_a_machine_without_a_trace(tmp_path: Path) -> None:
    argv = ["-m", "256M", "-nodefaults", "-S", "-bios", str(image(tmp_path))]
    script = (
        "import sys; from emu.options import parse_command_line; from emu.machine import Machine\n"
        f"with Machine(parse_command_line({argv})) as machine:\n"
        "    machine.start()\n"
        "    assert all(vcpu.record['trace'] == 0 for vcpu in machine.board.vcpus)\n"
        "late = {'emu.trace.attach', 'emu.trace.blocks', 'emu.trace.events', 'emu.trace.stacks'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240, cwd=os.getcwd())


def test_several_vcpus_are_traced(tmp_path: Path) -> None:
    with running(tmp_path, "int", "in_asm", smp=2) as machine:
        machine.start()
        text = wait_for(tmp_path, "int: CPU#0 system call")
        assert "IN: CPU#0 (big-endian)" in text


def test_sources_of_the_log_go_with_their_machine(tmp_path: Path) -> None:
    before = len(log._before_line)
    with running(tmp_path, "int") as machine:
        machine.start()
        assert len(log._before_line) == before + 1
    assert len(log._before_line) == before
