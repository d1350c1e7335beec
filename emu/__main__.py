"""The command `ppc64emu`: options in, exit status out."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from emu.config import ConfigError, MachineConfig
from emu.log import configure_logging
from emu.native_cache import is_cold, mark_warm
from emu.options import HelpRequested, parse_command_line
from emu.progress import progress

if TYPE_CHECKING:
    from emu.machine import Machine


class _Terminated(BaseException):
    """A signal asks to end before there is a machine to ask."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the emulator with these arguments (default: the process's) and return its status."""
    try:
        config = parse_command_line(sys.argv[1:] if argv is None else argv)
        _check_bootable(config)
        log_file = None if config.log_file is None else os.fspath(config.log_file)
        try:
            configure_logging(config.log_items, log_file)
        except ConfigError as error:
            raise ConfigError(f"-D {log_file}: {error}") from error
    except HelpRequested as text:
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)
        return 0
    except ConfigError as error:
        return _fail(error)
    with _ending_on_signals() as machine_is:
        try:
            return _run(config, machine_is)
        except (ConfigError, OSError, MemoryError) as error:
            return _fail(error)
        except _Terminated:
            return 0
    return 0  # a signal came before there was a machine


def load_machine() -> type[Machine]:
    """Import the emulator proper, which takes a second; if it has to be compiled, half a minute."""
    if "emu.machine" not in sys.modules and is_cold():
        print("ppc64emu: compiling hot paths (first run only) ...", file=sys.stderr, flush=True)
        with progress("Compiling hot paths"):
            from emu.machine import Machine
        mark_warm()
        return Machine
    with _without_garbage_collection():
        from emu.machine import Machine
    return Machine


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """What modules hold is no garbage: to look for some takes a tenth of the time to start."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _run(config: MachineConfig, machine_is: Callable[[Callable[[], object]], None]) -> int:
    # Slow to import: mistakes in the options are told before.
    machine_type = load_machine()
    with machine_type(config) as machine:
        machine_is(machine.quit)
        machine.start()
        return machine.wait()


def _check_bootable(config: MachineConfig) -> None:
    waits = config.start_paused or config.incoming is not None
    if not (config.kernel or config.bios or config.dumpdtb or waits):
        raise ConfigError("nothing to boot: give a kernel with -kernel FILE (-help for help)")


def _fail(error: BaseException) -> int:
    text = str(error) or type(error).__name__
    print(f"ppc64emu: {' '.join(text.splitlines())}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[Callable[[Callable[[], object]], None]]:
    """End in an orderly way on SIGINT, SIGTERM and SIGHUP; at once if they come again.

    Yields a function that is told how to make the machine quit.
    """
    quit_machine: list[Callable[[], object]] = []
    seen: list[int] = []

    def machine_is(quit_it: Callable[[], object]) -> None:
        if seen:
            raise _Terminated  # the first one was lost on its way, see below
        quit_machine.append(quit_it)

    def handle(signum: int, frame: FrameType | None) -> None:
        if seen:
            from emu.chardev.terminal import restore_terminals

            restore_terminals()
            os._exit(128 + signum)
        seen.append(signum)
        # Not print: a signal may come while the main thread is inside it.
        with contextlib.suppress(OSError):
            os.write(2, f"ppc64emu: terminating on signal {signum}\n".encode())
        if not quit_machine:
            raise _Terminated
        # On its own thread: this one may hold any lock that quitting needs.
        threading.Thread(target=quit_machine[0], name="quit", daemon=True).start()

    # A signal that was ignored from outside (nohup) stays ignored.
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {s: signal.getsignal(s) for s in signals if signal.getsignal(s) != signal.SIG_IGN}
    if threading.current_thread() is not threading.main_thread():
        old = {}
    for signum in old:
        signal.signal(signum, handle)
    try:
        yield machine_is
    except Exception:
        # Compilers call back from native code, where _Terminated is lost or becomes another error.
        if not seen or quit_machine:
            raise
    finally:
        for signum, previous in old.items():
            signal.signal(signum, previous)


if __name__ == "__main__":
    sys.exit(main())
