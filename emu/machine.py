"""The emulator's Python interface: one machine, its vCPU thread and its consoles.

with Machine(MachineConfig(kernel="vmlinux", append="console=hvc0")) as machine:
    machine.start()
    machine.console.wait_for("GUEST-READY", timeout=60)
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from emu.boards import build_board
from emu.chardev.base import Chardev
from emu.chardev.factory import open_chardev
from emu.chardev.memory import MemoryChardev
from emu.chardev.mux import MuxChardev
from emu.config import ChardevConfig, ConfigError, MachineConfig, StrPath
from emu.devices_build import DeviceSet, build_devices
from emu.events import EventLoop, MachineState, RunState
from emu.log import guest_error
from emu.machine_migration import MachineMigration
from emu.migration.status import MigrationStatus
from emu.migration.stream import MigrationError
from emu.trace.control import Tracer

if TYPE_CHECKING:
    from devices.host import DeviceHost
    from devices.pci.bus import PciBus
    from devices.virtio.device import VirtioDevice
    from devices.virtio.mmio_slots import MmioDevice
    from emu.gdb.server import GdbServer
    from emu.monitor.hmp import HumanMonitor
    from emu.monitor.qmp import QmpSession

EXIT_OK, EXIT_ERROR, EXIT_PANICKED = 0, 1, 3
_OVER = (RunState.SHUTDOWN, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR)
_FLUSH_SECONDS = 5.0
_POLL_SECONDS = 0.5
_STUCK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class MachineError(Exception):
    """The machine ended because of a fault of the emulator; the message is one line."""


class Machine:
    """A machine in this process.

    Construction opens files and builds the guest (:class:`ConfigError` with one line for what
    is wrong); :meth:`start` runs it on a thread of its own.  All public methods may be called
    from any thread.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.state = MachineState()
        self.panic_reason: str | None = None
        self.error: str | None = None
        self.exit_status = EXIT_OK
        self.resets = 0
        self._posted: deque[Callable[[], None]] = deque()
        self._wanted = threading.Condition()
        self._paused = config.start_paused
        self._run_incoming = not config.start_paused
        self._over = False
        self._reset_wanted = False
        self._loop = EventLoop()
        self._console_monitors: dict[Chardev, HumanMonitor] = {}
        self._monitors: list[QmpSession | HumanMonitor] = []
        self.migration = MachineMigration(self)
        self.migration.on_status = self._migration_status
        self._chardevs: list[Chardev] = []
        self._devices = DeviceSet()
        self._thread = threading.Thread(target=self._run, name="vcpu", daemon=True)
        self._closed = False
        self._guest_shutdown = False
        self.incoming_error: str | None = None
        self.gdb: GdbServer | None = None
        self._stop_state = RunState.PAUSED  # what the next stop is
        self.state.subscribe(self._state_changed)
        if config.incoming is not None:
            self._paused = True
            self.state.set(RunState.INMIGRATE)
        self._loop.start()
        try:
            self.trace = Tracer(self)
            self.board = build_board(config, self, self._chardev, self._attach)
            self.trace.attach()
        except BaseException:
            self._close_host()
            raise

    def _attach(self, host: DeviceHost, bus: PciBus | None) -> list[MmioDevice]:
        self._devices = build_devices(self.config, self._loop, self._chardev, host, bus)
        return self._devices.mmio

    @property
    def devices(self) -> dict[str, VirtioDevice]:
        """The virtio devices under their ids, or their driver's name and a number."""
        return self._devices.by_name

    @property
    def chardevs(self) -> tuple[Chardev, ...]:
        """Host sides of consoles, ports and monitors."""
        return tuple(self._chardevs)

    def _chardev(self, config: ChardevConfig) -> Chardev:
        try:
            chardev = open_chardev(
                config,
                self._loop,
                on_quit=self.quit,
                on_monitor=lambda: self._show_monitor(chardev),
            )
        except ConfigError as error:
            raise ConfigError(str(error), self.config.place_of(config)) from error
        self._chardevs.append(chardev)
        return chardev

    def _show_monitor(self, chardev: Chardev) -> None:
        """Ctrl-A c on a console: its monitor has the input now (event loop's thread)."""
        from emu.monitor.hmp import HumanMonitor

        if not isinstance(chardev, MuxChardev):
            return
        monitor = self._console_monitors.get(chardev)
        if monitor is None:
            monitor = self._console_monitors[chardev] = HumanMonitor(self, chardev.monitor)
            self.add_monitor(monitor)
        else:
            monitor.show_prompt()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def console(self) -> MemoryChardev:
        """The first console that is kept in memory (the default of ``MachineConfig``)."""
        for chardev in self._chardevs:
            if isinstance(chardev, MemoryChardev):
                return chardev
        raise MachineError("this machine has no console in memory")

    def start(self) -> None:
        """Start the vCPU thread; with ``-S`` the guest waits for :meth:`cont`.

        :class:`ConfigError` if a monitor, or the file for the device tree, cannot be opened.
        """
        if self.config.dumpdtb is not None:
            self._dump_tree(self.config.dumpdtb)
            self._end(RunState.SHUTDOWN)
            return
        monitors = self._open_monitors()
        self.board.partition.ticker.start()
        self._thread.start()
        for session in monitors:
            self.add_monitor(session)
        if self.config.gdb is not None:
            self.serve_gdb(self.config.gdb)
        if self.config.incoming == "defer":
            self.migration.prepare()
        elif self.config.incoming is not None:
            self.migration.listen(self.config.incoming)

    def _dump_tree(self, path: StrPath) -> None:
        try:
            Path(path).write_bytes(self.board.fdt)
        except OSError as error:
            why = f"could not open '{os.fspath(path)}': {error.strerror}"
            raise self.config.explain(ConfigError(why, "dumpdtb")) from error

    def _open_monitors(self) -> list[QmpSession | HumanMonitor]:
        """The monitors that were asked for, not yet served; consoles have theirs on Ctrl-A c."""
        if not self.config.monitors:
            return []
        from emu.monitor.hmp import HumanMonitor
        from emu.monitor.qmp import QmpSession

        sessions: list[QmpSession | HumanMonitor] = []
        for monitor in self.config.monitors:
            if self.config.shares_console(monitor):
                continue
            try:
                chardev = self._chardev(monitor.chardev)
            except ConfigError as error:
                raise self.config.explain(error) from error
            control = monitor.mode == "control"
            sessions.append(QmpSession(self, chardev) if control else HumanMonitor(self, chardev))
        return sessions

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the guest's end and return the exit status.

        0 after a power-off or :meth:`quit`, 3 after a guest panic, 1 after an internal error.
        Raises ``TimeoutError`` when ``timeout`` seconds pass first.
        """
        if self.state.wait_for(*_OVER, timeout=timeout) is None:
            raise TimeoutError(f"the guest still runs after {timeout:g} s")
        state = self.state.state
        if state is RunState.GUEST_PANICKED:
            print(f"ppc64emu: guest panicked: {self.panic_reason}", file=sys.stderr)
            return EXIT_PANICKED
        if self.incoming_error is not None:
            print(f"ppc64emu: load of migration failed: {self.incoming_error}", file=sys.stderr)
            return EXIT_ERROR
        if state is RunState.INTERNAL_ERROR:
            print(f"ppc64emu: internal error: {self.error}", file=sys.stderr)
            return EXIT_ERROR
        return self.exit_status

    def on_vcpu(self, work: Callable[[], Any]) -> Any:
        """Run work on the vCPU thread and return its result; raises what it raises.

        :class:`MigrationError` when there is no such thread any more.
        """
        thread = self._thread
        if threading.current_thread() is thread or not thread.is_alive():
            if self._over and threading.current_thread() is not thread:
                raise MigrationError("the guest has ended")
            return work()
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self.post(run)
        while True:
            try:
                return future.result(_POLL_SECONDS)
            except TimeoutError:
                if self.migration.lacks_memory:
                    raise MigrationError("the guest waits for memory that does not come") from None
                if not thread.is_alive() and not future.done():
                    raise MigrationError("the guest has ended") from None

    def serve_gdb(self, config: ChardevConfig | None) -> None:
        """Let gdb in on a character device, or (None) no more; one at a time.

        ConfigError if the host refuses.  Not on the vCPU thread.
        """
        from emu.gdb.server import GdbServer

        if self.gdb is not None:
            self.gdb.close()
            self.gdb = None
        if config is not None:
            self.gdb = GdbServer(self, open_chardev(config, self._loop))
            self.gdb.start()

    def add_monitor(self, session: QmpSession | HumanMonitor) -> None:
        """Serve a monitor; it is closed with the machine."""
        self._monitors.append(session)
        session.start()

    def event(self, name: str, data: dict[str, Any] | None = None) -> None:
        """Tell every monitor."""
        for session in self._monitors:
            session.event(name, data)

    def stop(self) -> None:
        """Pause the guest; its clock stands still."""
        self._paused = True
        self._run_incoming = False
        self._kick()

    def cont(self) -> None:
        """Go on after :meth:`stop`, ``-S``, or a migration (which takes the guest back).

        :class:`MigrationError` while a migration has the guest stand still.  Before a guest has
        come in, it says that it is to run then.
        """
        if self.migration.lacks_memory:
            raise MigrationError("the guest waits for memory that does not come")
        if self.state.state is RunState.POSTMIGRATE:
            self.migration.take_back()
        with self._wanted:
            if self.state.state is RunState.FINISH_MIGRATE:
                raise MigrationError("Migration is not finalized yet")
            if self.state.state is RunState.INMIGRATE:
                self._run_incoming = True
                return
            self._paused = False
        self._kick()

    def finish_for_migration(self) -> bool:
        """Stand still until a migration has ended; False unless the guest is stopped."""
        with self._wanted:
            stopped = self._paused and not self._over
            return stopped and any(
                self.state.set(RunState.FINISH_MIGRATE, only_from=state)
                for state in (RunState.PAUSED, RunState.DEBUG, RunState.PRELAUNCH)
            )

    def debug_stop(self) -> None:
        """A debugger's breakpoint: pause the guest in the state "debug" (vCPU thread)."""
        self._stop_state = RunState.DEBUG
        self.stop()

    def reset(self) -> None:
        """Reset the machine as its reset button would; during a migration, at its end.

        :class:`MigrationError` while a guest is coming in.
        """
        if self.state.state is RunState.INMIGRATE:
            raise MigrationError("a guest is coming in")
        self._reset_wanted = True
        self._kick()

    def powerdown(self) -> None:
        """Ask the guest to shut down, as its power button would."""
        self.post(self.board.press_power_button)
        self.event("POWERDOWN")

    def quit(self) -> None:
        """End at once, as pulling the plug."""
        self._over = True
        self.migration.leave()
        if self.migration.lacks_memory:  # the vCPU may wait for ever
            self.state.set(RunState.SHUTDOWN)
        elif not self._thread.is_alive():
            self._end(RunState.SHUTDOWN)
        self._kick()

    def close(self) -> None:
        """End the machine and release everything; idempotent."""
        if self._closed:
            return
        self.quit()
        if self._thread.is_alive():
            self._thread.join(_STUCK_SECONDS)
        while self._thread.is_alive():
            if self.migration.lacks_memory:
                return self._close_stuck()
            self._thread.join(_STUCK_SECONDS)
        self.migration.close()
        if self.gdb is not None:
            self.gdb.close()
        with self._wanted:
            self._closed = True  # from here on there is no vCPU to kick
        self.trace.close()
        self.board.close()
        self._close_host()

    def _close_stuck(self) -> None:
        """Close what can be while the vCPU waits for memory: it must never go on without it."""
        self._closed = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # its memory stays as long as it waits
        for chardev in self._chardevs:
            chardev.close()

    def _close_host(self) -> None:
        self.migration.close()
        for session in self._monitors:
            session.close()
        self._devices.close()
        for chardev in self._chardevs:
            chardev.close()
        self._loop.stop()

    @property
    def loop(self) -> EventLoop:
        """The event loop for host descriptors and timers."""
        return self._loop

    def post(self, work: Callable[[], None]) -> None:
        """Run work on the vCPU thread, between two instructions of the guest."""
        self._posted.append(work)
        self._kick()

    def request_shutdown(self) -> None:
        """The guest powered off (vCPU thread)."""
        self._guest_shutdown = True
        self._over = True

    def request_exit(self, status: int) -> None:
        """The guest ended the emulator with an exit status (vCPU thread)."""
        self.exit_status = status
        self.request_shutdown()

    def request_reset(self) -> None:
        """The guest asked for a reboot (vCPU thread)."""
        if self.config.no_reboot:
            self._over = True
        else:
            self._reset_wanted = True

    def guest_panicked(self, message: str) -> None:
        """The guest gave up (vCPU thread)."""
        self.panic_reason = " ".join(message.split()) or "no reason given"
        self._over = True

    def unknown_hypercall(self, number: int) -> None:
        """The guest made a hypercall that does not exist (vCPU thread)."""
        guest_error("pseries", "unknown hypercall %#x", number)

    def is_ending(self) -> bool:
        """Whether the vCPU thread is wanted for something else than the guest."""
        return self._over or self._reset_wanted or self._paused

    def is_leaving(self) -> bool:
        """Whether the guest is about to end or to be reset."""
        return self._over or self._reset_wanted

    @property
    def is_over(self) -> bool:
        """Whether the guest has ended, or is about to."""
        return self._over or self.state.state in _OVER

    @property
    def final_status(self) -> int:
        """The exit status, once the guest has ended."""
        if self.state.state is RunState.GUEST_PANICKED:
            return EXIT_PANICKED
        if self.incoming_error is not None or self.state.state is RunState.INTERNAL_ERROR:
            return EXIT_ERROR
        return self.exit_status

    @property
    def thread_id(self) -> int:
        """Native id of the vCPU thread, 0 before it runs."""
        return self._thread.native_id or 0

    def incoming_done(self) -> None:
        """A guest has come in: run it, unless ``-S`` or :meth:`stop` says otherwise."""
        self.state.set(RunState.PAUSED, only_from=RunState.INMIGRATE)
        if self._run_incoming:
            self.cont()

    def pause_for_memory(self) -> bool:
        """Memory of the guest does not come: it stands still; whether it ran.

        The vCPU thread may be waiting for memory already, so the state changes without it.
        """
        runs = not self._paused
        self._paused = True
        self._kick()
        self.state.set(RunState.PAUSED, only_from=RunState.RUNNING)
        return runs

    def memory_comes(self, run: bool) -> None:
        """Memory comes again."""
        self.on_vcpu(lambda: None)  # it has seen that it is paused
        if run:
            self.cont()

    def incoming_failed(self, why: str) -> None:
        """A guest could not come in: there is nothing to run."""
        if not self._over:
            self.incoming_error = why
            self.quit()

    def _migration_status(self, status: MigrationStatus) -> None:
        if self.migration.capabilities["events"]:
            self.event("MIGRATION", {"status": status.value})

    def _state_changed(self, old: RunState, new: RunState) -> None:
        if new is RunState.RUNNING:
            self.event("RESUME")
        elif old is RunState.RUNNING and new in (RunState.PAUSED, RunState.DEBUG):
            self.event("STOP")
        elif new is RunState.SHUTDOWN:
            guest = self._guest_shutdown
            reason = "guest-shutdown" if guest else "host-qmp-quit"
            self.event("SHUTDOWN", {"guest": guest, "reason": reason})
        elif new is RunState.GUEST_PANICKED:
            self.event("GUEST_PANICKED", {"action": "poweroff"})

    def _kick(self) -> None:
        with self._wanted:
            self._wanted.notify_all()
            board = getattr(self, "board", None)
            if board is not None and not self._closed:
                for vcpu in board.vcpus:
                    vcpu.kick()

    def _run(self) -> None:
        try:
            self._run_guest()
        except BaseException as error:
            _log.debug("vCPU thread", exc_info=True)
            self.error = f"{type(error).__name__}: {error}"
            if os.environ.get("PPC64EMU_TRACEBACK"):
                raise
            self._end(RunState.INTERNAL_ERROR)
            return
        self._end(RunState.GUEST_PANICKED if self.panic_reason else RunState.SHUTDOWN)

    def _end(self, state: RunState) -> None:
        self.trace.drain()
        self.board.flush_consoles(_FLUSH_SECONDS)
        self._devices.flush(_FLUSH_SECONDS)
        self.state.set(state)

    def _run_guest(self) -> None:
        board = self.board
        while not self._over:
            board.partition.clear_kicks()
            self._do_posted()
            if self._over:
                break
            if self._reset_due:
                self._do_reset()
            if self._paused:
                self._wait_paused()
                continue
            if not board.partition.running:
                board.partition.start_clock()
                self.state.set(RunState.RUNNING)
            vcpu = board.partition.next_turn()
            if vcpu is not None:
                board.run(vcpu)
        board.partition.stop_clock()

    def _do_posted(self) -> None:
        while self._posted:
            self._posted.popleft()()

    @property
    def _reset_due(self) -> bool:
        return self._reset_wanted and self.state.state is not RunState.FINISH_MIGRATE

    def reset_now(self) -> None:
        """Reset a machine that stands still, which no monitor is told of (vCPU thread)."""
        self._reset_wanted = False
        self.board.reset()

    def _do_reset(self) -> None:
        self._reset_wanted = False
        self.migration.await_memory()
        if self._over:
            return
        self.resets += 1
        self.board.reset()
        self.trace.note_reset()
        self.event("RESET", {"guest": True, "reason": "guest-reset"})

    def _wait_paused(self) -> None:
        self.board.partition.stop_clock()
        if self.state.state is RunState.RUNNING:
            self.state.set(self._stop_state)
        self._stop_state = RunState.PAUSED
        with self._wanted:
            self._wanted.wait_for(
                lambda: not self._paused or self._over or self._reset_due or self._posted
            )
