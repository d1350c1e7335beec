"""Signals before there is a machine: the command ends, wherever it is."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from types import TracebackType

import pytest

import emu.__main__ as command

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class NoMachine:
    """A machine that must not run."""

    def __init__(self, config: object) -> None:
        pass

    def __enter__(self) -> NoMachine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def quit(self) -> None:
        """Never called."""

    def start(self) -> None:
        """The guest runs although a signal came."""
        raise AssertionError


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    image = tmp_path / "image.bin"
    image.write_bytes(bytes(0x104))
    return ["-bios", str(image), "-nodefaults"]


def lose_a_signal() -> None:
    """Take a signal where native code calls Python: its exception goes nowhere."""
    ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGTERM))()


def test_a_lost_signal_ends_before_the_guest_starts(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def load() -> type[NoMachine]:
        lose_a_signal()
        return NoMachine

    monkeypatch.setattr(command, "load_machine", load)
    assert command.main(arguments) == 0
    assert "ppc64emu: terminating on signal 15\n" in capfd.readouterr().err


def test_an_error_that_a_lost_signal_causes_is_not_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        lose_a_signal()
        raise RuntimeError("no compiled object yet")

    monkeypatch.setattr(command, "load_machine", load)
    assert command.main(arguments) == 0


def test_other_errors_are_told(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise RuntimeError("no compiled object yet")

    monkeypatch.setattr(command, "load_machine", load)
    with pytest.raises(RuntimeError):
        command.main(arguments)
