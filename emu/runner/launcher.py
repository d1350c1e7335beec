"""Starts one emulator: as a copy of this process that has everything loaded, or as a program.

Loading the emulator takes about a second, of which most is Numba. A test run of many small images
loads it once and forks; each image still has a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from emu.native_cache import is_cold

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_DEFAULT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
_libc = ctypes.CDLL(None)
#: At 0x100: r3 = H_TEST_EXIT, r4 = 0, sc 1.
_SHORTEST_IMAGE = bytes(0x100) + bytes.fromhex("3c607e57 38800000 44000022")


class Launcher(Protocol):
    """Starts emulators. Main thread of a process whose other threads hold no locks."""

    def start(
        self, arguments: Sequence[str], directory: Path, output: int, errors: int
    ) -> tuple[int, int]:
        """Start one with these descriptors as its output; (process id, pidfd).

        It leads a process group of its own and dies with this process. OSError if it cannot be
        started.
        """


class ForkLauncher:
    """Copies of this process, which loads the emulator first (compiling it if need be)."""

    def __init__(self) -> None:
        from emu.__main__ import load_machine

        cold = is_cold()
        load_machine()
        gc.freeze()  # what is loaded stays shared between the copies
        if cold:
            self._warm_up()

    def _warm_up(self) -> None:
        """Run a guest of three instructions: what only a machine compiles is no test's time."""
        with tempfile.NamedTemporaryFile(suffix=".bin") as image:
            image.write(_SHORTEST_IMAGE)
            image.flush()
            options = ["-M", "pseries,x-test-exit=on", "-nodefaults", "-bios", image.name]
            nothing = os.open(os.devnull, os.O_RDWR)
            try:
                pid, pidfd = self.start(options, Path.cwd(), nothing, nothing)
                os.close(pidfd)
                os.waitpid(pid, 0)
            finally:
                os.close(nothing)

    def start(
        self, arguments: Sequence[str], directory: Path, output: int, errors: int
    ) -> tuple[int, int]:
        """See `Launcher`."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy's BLAS has threads
            pid = os.fork()
        if pid == 0:
            _run_copy(parent, arguments, directory, (output, errors))
        return pid, os.pidfd_open(pid)


class ProgramLauncher:
    """A program with a command line in QEMU's manner."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    def start(
        self, arguments: Sequence[str], directory: Path, output: int, errors: int
    ) -> tuple[int, int]:
        """See `Launcher`."""
        parent = os.getpid()
        process = subprocess.Popen(
            [*self._command, *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            preexec_fn=lambda: _leave(parent),
        )
        process.returncode = 0  # whoever holds the pidfd waits for it
        return process.pid, os.pidfd_open(process.pid)


def _leave(parent: int) -> None:
    """Own group and default signals; the kernel kills this process when its parent ends."""
    for signum in _DEFAULT_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _run_copy(
    parent: int, arguments: Sequence[str], directory: Path, outputs: tuple[int, int]
) -> NoReturn:
    """The emulator in the new process; never returns to what the parent was doing."""
    status = 1
    try:
        _leave(parent)
        os.chdir(directory)
        _take_standard_streams(outputs)
        from emu.__main__ import main

        status = main(arguments)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"ppc64emu: internal error: {error!r}\n".encode())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _take_standard_streams(outputs: tuple[int, int]) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(outputs[0], 1)
    os.dup2(outputs[1], 2)
    # The parent's objects may be anything (pytest's capture), and may hold text of the parent.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
