"""An emulator in a process of its own, with its console and a real QMP client."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.qmp.legacy import QEMUMonitorProtocol

OURS = (sys.executable, "-m", "emu")
START_SECONDS = 120.0  # the first start of a state of the sources compiles


class Emulator:
    """`python -m emu` (or another ``program``) with the given options, files below ``folder``.

    A context manager: leaving it ends the process, kindly or not.
    """

    def __init__(
        self, folder: Path, name: str, options: Sequence[str], program: Sequence[str] = OURS
    ) -> None:
        self.name = name
        self._qmp_path = folder / f"{name}.qmp"
        self._console_path = folder / f"{name}.console"
        self.log = folder / f"{name}.log"
        self._text = bytearray()
        self._seen = 0
        self._runs = 0
        self._changed = threading.Condition()
        command = [*program, "-nodefaults", "-display", "none"]
        command += ["-qmp", f"unix:{self._qmp_path},server=on,wait=off"]
        command += ["-serial", f"unix:{self._console_path},server=on,wait=off", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.qmp = QEMUMonitorProtocol(str(self._qmp_path))
        try:
            self._console = self._connect_console()
            threading.Thread(target=self._read_console, daemon=True).start()
            self._retry(self.qmp.connect)
        except BaseException:
            self.kill()
            raise

    def _retry(self, action: Any) -> Any:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return action()
            except Exception:
                if self.process.poll() is not None:
                    raise AssertionError(f"{self.name} ended: {self.log.read_text()}") from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _connect_console(self) -> socket.socket:
        def connect() -> socket.socket:
            console = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            console.connect(str(self._console_path))
            return console

        result: socket.socket = self._retry(connect)
        return result

    def _read_console(self) -> None:
        while True:
            try:
                data = self._console.recv(1 << 16)
            except OSError:
                return
            if not data:
                return
            with self._changed:
                self._text += data
                self._changed.notify_all()

    @property
    def text(self) -> str:
        """Everything the console has printed."""
        with self._changed:
            return self._text.decode("utf-8", "replace")

    def send(self, text: str) -> None:
        """Type on the console."""
        self._console.sendall(text.encode())

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[bytes]:
        """Wait until the console prints a pattern behind what was awaited before."""
        wanted = re.compile(pattern.encode())
        deadline = time.monotonic() + timeout
        with self._changed:
            while (found := wanted.search(self._text, self._seen)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    tail = self._text[-600:].decode("utf-8", "replace")
                    raise AssertionError(f"{self.name}: no {pattern!r} in {timeout} s: ...{tail}")
            self._seen = found.end()
            return found

    def run(self, command: str, timeout: float = 60.0) -> str:
        """Run a short shell command in the guest and return what it prints.

        The result has the echo of the command in it, perhaps in pieces: consoles echo late.
        """
        self._runs += 1
        mark = "END" + "".join(chr(ord("a") + int(digit)) for digit in str(self._runs))
        start = self._seen
        self.send(f"{command}; echo {mark}\n")
        self.wait_for(f"(?s){mark}.*?# ", timeout)  # up to the next prompt
        return self._text[start : self._seen].decode("utf-8", "replace")

    def command(self, name: str, **arguments: Any) -> Any:
        """A QMP command's result; raises the client's error."""
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.qmp.cmd(name, **given)

    def status(self) -> str:
        """Run state."""
        return str(self.command("query-status")["status"])

    def migrate(self, uri: str, timeout: float = 60.0) -> dict[str, Any]:
        """Migrate and wait for the end; the last answer of query-migrate."""
        self.command("migrate", uri=uri)
        return self.wait_migrated(timeout)

    def wait_migrated(self, timeout: float = 60.0) -> dict[str, Any]:
        """Wait for the end of a migration that was started."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            answer: dict[str, Any] = self.command("query-migrate")
            if answer.get("status") in ("completed", "failed", "cancelled"):
                return answer
            time.sleep(0.01)
        raise AssertionError(f"{self.name}: migration takes more than {timeout} s: {answer}")

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait(self, timeout: float = 30.0) -> int:
        """Exit status."""
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and everything around it."""
        with contextlib.suppress(Exception):  # it may be gone
            self.qmp.close()
        self._console.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
