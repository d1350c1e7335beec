"""What `main` makes of options, mistakes, signals and logs."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from emu import log as emu_log
from emu.__main__ import main
from emu.config import ConfigError, MachineConfig
from emu.progress import progress

KERNEL = __file__  # any file that can be read


class FakeMachine:
    """Stands in for the real one: says how it was made and used."""

    behaviour: BaseException | int = 0

    def __init__(self, config: MachineConfig) -> None:
        if isinstance(self.behaviour, BaseException):
            raise self.behaviour

    def __enter__(self) -> FakeMachine:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def start(self) -> None:
        pass

    def quit(self) -> None:
        pass

    def wait(self) -> int:
        assert isinstance(self.behaviour, int)
        return self.behaviour


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        (0, 0, ""),
        (3, 3, ""),
        (ConfigError("no such thing"), 1, "ppc64emu: no such thing\n"),
        (OSError(12, "Cannot allocate memory"), 1, "ppc64emu: [Errno 12] Cannot allocate memory\n"),
    ],
)
def test_main_runs_the_machine(
    behaviour: BaseException | int,
    status: int,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = types.ModuleType("emu.machine")
    fake.Machine = FakeMachine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "emu.machine", fake)
    monkeypatch.setattr("emu.__main__.is_cold", lambda: False)
    monkeypatch.setattr(FakeMachine, "behaviour", behaviour)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["-kernel", KERNEL]) == status
    assert capsys.readouterr().err == error
    assert signal.getsignal(signal.SIGTERM) == before


def test_nothing_to_boot_and_unwritable_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 1
    assert "nothing to boot" in capsys.readouterr().err
    log_file = str(tmp_path / "no" / "log")
    assert main(["-kernel", KERNEL, "-D", log_file]) == 1
    assert capsys.readouterr().err.startswith(f"ppc64emu: -D {log_file}: could not open")


def test_log_items_and_guest_errors(tmp_path: Path) -> None:
    path = tmp_path / "log"
    emu_log.configure_logging({"hcall"}, os.fspath(path))
    try:
        assert emu_log.log("hcall").enabled
        assert not emu_log.log("int").enabled
        emu_log.log("hcall")("H_ENTER(%#x)", 16)
        emu_log.log("int")("not shown")
        emu_log.unimplemented("vty", "not shown")
        for index in range(3):
            emu_log.guest_error("virtio-blk0", "bad index %d", index)
        emu_log.guest_error("virtio-blk1", "bad index %d", 7)
    finally:
        emu_log.configure_logging()
    assert path.read_text().splitlines() == [
        "hcall: H_ENTER(0x10)",
        "ppc64emu: warning: virtio-blk0: bad index 0",
        "ppc64emu: warning: virtio-blk1: bad index 7",
    ]


def test_progress_is_silent_without_a_terminal() -> None:
    stream = io.StringIO()
    with progress("Working", stream) as p:
        p.update(1, 2)
        p.describe("Still working")
    assert stream.getvalue() == ""


def test_progress_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress("Working", stream) as p:
        p.update(1, 2)
    assert "Working" in stream.getvalue()


SIGNALLED = """
import sys, threading, types
ended = threading.Event()
class Machine:
    def __init__(self, config): pass
    def __enter__(self): return self
    def __exit__(self, *args): print("closed")
    def start(self): print("started", flush=True)
    def quit(self): ended.set()
    def wait(self):
        ended.wait()
        return 0
fake = types.ModuleType("emu.machine")
fake.Machine = Machine
sys.modules["emu.machine"] = fake
import emu.__main__
emu.__main__.is_cold = lambda: False
from emu.__main__ import main
sys.exit(main(["-kernel", sys.executable]))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_machine_in_order(signum: signal.Signals) -> None:
    command = [sys.executable, "-c", SIGNALLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, b"closed\n")
        assert err.decode() == f"ppc64emu: terminating on signal {signum}\n"
