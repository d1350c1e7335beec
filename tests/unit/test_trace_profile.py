"""The profile of a machine: the functions that take the time, in both byte orders."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.config import ConfigError, MachineConfig
from emu.config_trace import ProfileConfig, SymbolFile, TraceConfig
from emu.events import RunState
from emu.machine import Machine
from emu.monitor.hmp import execute
from emu.trace.stacks import run_timer
from tests.support import asm

MAIN, OUTER, INNER, IDLE = 0x100, 0x200, 0x300, 0x400
_STACK = 0x8000
MFLR_0, MTLR_0 = asm.mfspr(0, 8), asm.mtspr(8, 0)
SECONDS = 30.0


def stdu(rs: int, ra: int, offset: int) -> int:
    return asm.d_form(62, rs, ra, offset & 0xFFFC | 1)


def bl(offset: int) -> int:
    return asm.b(offset) | 1


def image(*, little: bool, idle: bool = False) -> bytes:
    """main calls outer, which calls inner for ever; inner is a leaf that loops.

    ``idle``: main sleeps in H_CEDE instead.  The reset vector is big-endian; a little-endian
    image switches first.
    """
    data = bytearray(0x1000)

    def put(at: int, *code: asm.Code, order: bool = little) -> None:
        words = asm.assemble(*code, little=order)
        data[at : at + len(words)] = words

    main = 0x140
    if little:
        to_main = [asm.li(3, main), asm.mtspr(26, 3), asm.mfmsr(4), 0x60840001, asm.mtspr(27, 4)]
        put(MAIN, to_main, asm.RFID, order=False)
    else:
        put(MAIN, asm.b(main - MAIN))
    if idle:
        put(main, asm.li(3, 0xE0), asm.EXIT, asm.b(-8))
        return bytes(data)
    put(main, asm.li64(1, _STACK), asm.li(5, 0), asm.std(5, 1, 0), bl(OUTER - main - 28))
    prologue = [MFLR_0, asm.std(0, 1, 16), stdu(1, 1, -112)]
    put(OUTER, prologue, bl(INNER - OUTER - 12), asm.b(-4))
    put(INNER, asm.li(6, 20_000), asm.mtctr(6), asm.bdnz(0), asm.BLR)
    return bytes(data)


def symbols(tmp_path: Path) -> SymbolFile:
    path = tmp_path / "symbols"
    path.write_text(f"{MAIN:x} T main\n{OUTER:x} T outer\n{INNER:x} T inner\n{IDLE:x} T end\n")
    return SymbolFile(str(path))


@contextmanager
def running(
    tmp_path: Path, *, profile: ProfileConfig | None = None, **what: bool
) -> Iterator[Machine]:
    bios = tmp_path / "image.bin"
    bios.write_bytes(image(**what))
    trace = TraceConfig(symbols=(symbols(tmp_path),), profile=profile)
    with Machine(MachineConfig(bios=bios, ram_size=256 << 20, trace=trace)) as machine:
        machine.start()
        yield machine


def wait_for_samples(machine: Machine, count: int) -> None:
    end = time.monotonic() + SECONDS
    while machine.trace.profile.samples < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("little", [False, True])
def test_functions_and_their_callers_are_found(tmp_path: Path, little: bool) -> None:
    with running(tmp_path, little=little) as machine:
        machine.trace.profile.start(500)
        wait_for_samples(machine, 100)
        machine.trace.profile.stop()
        stacks = dict(
            line.rsplit(" ", 1) for line in machine.trace.profile.collapsed().splitlines()
        )
        total = sum(map(int, stacks.values()))
        assert int(stacks["main;outer;inner"]) > total * 0.8
        top = machine.trace.profile.top(1)[0]
        assert top.name == "inner"
        assert top.self_samples <= top.total_samples <= total
        assert set(stacks) <= {"main;outer;inner", "main;outer", "main"}


def test_an_idle_guest_is_idle(tmp_path: Path) -> None:
    with running(tmp_path, little=False, idle=True) as machine:
        machine.trace.profile.start(500)
        wait_for_samples(machine, 50)
        machine.trace.profile.stop()
        top = machine.trace.profile.top(1)[0]
        assert top.name == "[idle]"


def test_a_stopped_guest_takes_no_time(tmp_path: Path) -> None:
    with running(tmp_path, little=False) as machine:
        profile = machine.trace.profile
        profile.start(1000)
        wait_for_samples(machine, 5)
        machine.stop()
        machine.state.wait_for(RunState.PAUSED, timeout=SECONDS)
        machine.on_vcpu(lambda: None)
        before = profile.samples
        assert profile._array is not None
        ticks = int(profile._array[0]["ticks"])
        assert run_timer(profile._array.ctypes.data, 100) == 0  # a hundred periods pass
        assert profile.samples == before
        assert int(profile._array[0]["ticks"]) == ticks  # nor does it count when the guest goes on
        machine.cont()
        wait_for_samples(machine, before + 5)


def test_it_may_be_started_again_and_cleared(tmp_path: Path) -> None:
    with running(tmp_path, little=False) as machine:
        profile = machine.trace.profile
        profile.start(1000)
        wait_for_samples(machine, 5)
        profile.stop()
        assert not profile.running
        first = profile.samples
        assert profile.samples == first
        profile.start(1000)
        wait_for_samples(machine, first + 5)
        profile.clear()
        profile.stop()
        profile.clear()
        assert profile.samples == 0
        assert profile.collapsed() == ""


@pytest.mark.parametrize("hz", [0, -1, 10_001])
def test_impossible_rates_are_refused(tmp_path: Path, hz: int) -> None:
    with (
        running(tmp_path, little=False) as machine,
        pytest.raises(ConfigError, match="samples a s"),
    ):
        machine.trace.profile.start(hz)


def test_the_option_writes_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "guest.folded"
    with running(tmp_path, little=False, profile=ProfileConfig(str(path), 1000)) as machine:
        assert path.read_text() == ""
        wait_for_samples(machine, 20)
    assert "main;outer;inner " in path.read_text()


def test_a_file_that_cannot_be_written_is_told_before_the_guest_runs(tmp_path: Path) -> None:
    config = ProfileConfig(str(tmp_path / "no" / "file"))
    with (
        pytest.raises(ConfigError, match="could not write"),
        running(tmp_path, little=False, profile=config),
    ):
        pass


def test_the_monitor_can_profile(tmp_path: Path) -> None:
    with running(tmp_path, little=False) as machine:
        assert execute(machine, "profile start 1000") == ""
        wait_for_samples(machine, 20)
        assert (
            execute(machine, "info profile 1").splitlines()[0].startswith("profile: running, 1000")
        )
        assert execute(machine, "profile stop") == ""
        text = execute(machine, "info profile")
        assert "stopped" in text
        assert text.splitlines()[2].split()[-1] == "inner"
        path = tmp_path / "out"
        assert execute(machine, f"profile save {path}") == ""
        assert "inner" in path.read_text()
        assert execute(machine, "profile clear") == ""
        assert execute(machine, "info profile").endswith("0 samples")
        assert execute(machine, "profile").startswith("Error: profile: expected")
        assert execute(machine, "profile start 0").startswith("Error: a profile takes")
        assert execute(machine, "profile save /no/such/file").startswith("Error: could not write")


def test_profile_of_several_vcpus_names_them(tmp_path: Path) -> None:
    bios = tmp_path / "image.bin"
    bios.write_bytes(image(little=False))
    trace = TraceConfig(symbols=(symbols(tmp_path),))
    with Machine(MachineConfig(bios=bios, ram_size=256 << 20, smp=2, trace=trace)) as machine:
        machine.trace.profile.start(1000)
        machine.start()
        wait_for_samples(machine, 20)
        machine.trace.profile.stop()
        assert "cpu0;main;outer;inner " in machine.trace.profile.collapsed()
