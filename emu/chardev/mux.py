"""The Ctrl-A escapes of `mon:stdio` and `-nographic`, as in QEMU."""

from __future__ import annotations

import time
from collections.abc import Callable

from emu.chardev.base import INPUT_HIGH_WATER, Chardev
from emu.events import EventLoop

ESCAPE = 0x01  # Ctrl-A

HELP = (
    "\r\n"
    "Ctrl-A h    this help\r\n"
    "Ctrl-A x    quit the emulator\r\n"
    "Ctrl-A c    switch between console and monitor\r\n"
    "Ctrl-A b    send a break\r\n"
    "Ctrl-A t    put a time stamp on each line, on or off\r\n"
    "Ctrl-A Ctrl-A    send Ctrl-A\r\n"
)


class MuxChardev(Chardev):
    """Stands between `backend`, which it owns, and the guest.

    `on_quit` and `on_monitor` are called on the loop's thread; `monitor` is the monitor's
    side, which has the input from one Ctrl-A c to the next. Escapes are obeyed when they
    arrive, even if the guest does not take its input.
    """

    def __init__(
        self,
        backend: Chardev,
        loop: EventLoop,
        *,
        on_quit: Callable[[], object] | None = None,
        on_monitor: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(backend.label, loop)
        self.backend = backend
        self._on_quit = on_quit
        self._on_monitor = on_monitor
        self.monitor = MonitorSide(self)
        self._to_monitor = False
        self._escaped = False
        self._stamp_start: float | None = None
        self._line_start = True
        backend.set_receiver(self._filter)

    def write(self, data: bytes) -> None:
        """Write the guest's output, with time stamps if the user wants them."""
        if self._stamp_start is not None:
            data = self._stamped(data, self._stamp_start)
        self.backend.write(data)

    def close(self) -> None:
        """Close the backend."""
        super().close()
        self.backend.close()

    def _filter(self, data: bytes) -> int:
        if self.pending_input >= INPUT_HIGH_WATER:
            return 0
        passed = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                monitor = self._to_monitor
                passed += self._command(byte)
                if self._to_monitor is not monitor:
                    self._pass(bytes(passed), monitor)
                    passed.clear()
            elif byte == ESCAPE:
                self._escaped = True
            else:
                passed.append(byte)
        self._pass(bytes(passed), self._to_monitor)
        return len(data)

    def _pass(self, data: bytes, monitor: bool) -> None:
        if monitor:
            self.monitor.take(data)
        else:
            self._feed(data)

    def _input_drained(self) -> None:
        self.backend.accept_input()

    def _command(self, byte: int) -> bytes:
        """Obey the byte after an escape; return what goes to the guest."""
        key = chr(byte)
        if byte == ESCAPE:
            return bytes([ESCAPE])
        if key in "h?":
            self.backend.write(HELP.encode())
        elif key == "x":
            self.backend.write(b"ppc64emu: quit\r\n")
            if self._on_quit is not None:
                self._on_quit()
        elif key == "c":
            if self._on_monitor is not None:
                self._to_monitor = not self._to_monitor
                self.backend.write(b"\r\n")
                if self._to_monitor:
                    self._on_monitor()
            else:
                self.backend.write(b"\r\nppc64emu: monitor not available\r\n")
        elif key == "t":
            self._stamp_start = None if self._stamp_start is not None else time.monotonic()
        return b""  # b: the virtual terminal has no break

    def _stamped(self, data: bytes, start: float) -> bytes:
        stamp = f"[{time.monotonic() - start:12.3f}] ".encode()
        stamped = bytearray()
        for line in data.splitlines(keepends=True):
            stamped += stamp + line if self._line_start else line
            self._line_start = line.endswith(b"\n")
        return bytes(stamped)


class MonitorSide(Chardev):
    """What the monitor reads from and writes to."""

    def __init__(self, mux: MuxChardev) -> None:
        super().__init__(f"{mux.label} monitor", None)
        self._mux = mux

    def write(self, data: bytes) -> None:
        """Write past the guest's output."""
        self._mux.backend.write(data)

    def take(self, data: bytes) -> None:
        """Input for the monitor."""
        if data:
            self._feed(data)
