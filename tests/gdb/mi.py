"""A real gdb-multiarch, driven through its machine interface (GDB/MI)."""

from __future__ import annotations

import ast
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from types import TracebackType
from typing import Self

PROGRAM = "gdb-multiarch"
#: Generous: symbols of a kernel take a while to read on a busy host.
SECONDS = 60.0
_STREAM = re.compile(r'[~@&](".*")$')
_RESULT = re.compile(r"(\d*)\^(done|running|connected|error|exit)(.*)$")
_REASON = re.compile(r'reason="([^"]*)"')
_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


def available() -> bool:
    """Whether the program is there."""
    return shutil.which(PROGRAM) is not None


def _message(text: str) -> str:
    found = _MESSAGE.search(text)
    return found[1] if found else text


class GdbError(Exception):
    """gdb refused a command; the text is its message."""


class Gdb:
    """One gdb.  A context manager: leaving it kills gdb, which closes its connection."""

    def __init__(self, endian: str = "big") -> None:
        command = [PROGRAM, "-nx", "-q", "--interpreter=mi3"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stops: list[str] = []
        self._token = 0
        threading.Thread(target=self._read, daemon=True).start()
        for setting in ("confirm off", "pagination off", "width 0", f"endian {endian}"):
            self(f"set {setting}")
        self("set architecture powerpc:common64")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _line(self, deadline: float) -> str:
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"gdb is silent for {SECONDS:g} s") from None
        if line is None:
            raise AssertionError("gdb has ended")
        if line.startswith("*stopped"):
            self._stops.append(line)
        return line

    def __call__(self, command: str) -> str:
        """What a command of gdb's command line prints; :class:`GdbError` with gdb's message.

        A command that lets the guest run returns at once: see :meth:`stopped`.
        """
        self._stops.clear()
        self._token += 1
        quoted = command.replace("\\", "\\\\").replace('"', '\\"')
        assert self._process.stdin is not None
        self._process.stdin.write(f'{self._token}-interpreter-exec console "{quoted}"\n')
        deadline, text = time.monotonic() + SECONDS, []
        while True:
            line = self._line(deadline)
            if stream := _STREAM.match(line):
                text.append(str(ast.literal_eval(stream[1])))
            result = _RESULT.match(line)
            if result is None or result[1] != str(self._token):
                continue
            if result[2] == "error":
                raise GdbError(_message(result[3]))
            return "".join(text)

    def stopped(self) -> str:
        """Wait until the guest has stopped after the latest command; gdb's reason."""
        deadline = time.monotonic() + SECONDS
        while not self._stops:
            result = _RESULT.match(self._line(deadline))
            if result is not None and result[2] == "error":  # it could not even begin
                raise GdbError(_message(result[3]))
        reason = _REASON.search(self._stops[0])
        return reason[1] if reason else ""

    def go(self, command: str) -> str:
        """A command that lets the guest run, and why it stopped."""
        self(command)
        return self.stopped()

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.kill(self._process.pid, signal.SIGINT)

    def value(self, expression: str) -> int:
        """An integer expression."""
        return int(self(f"output/d (unsigned long)({expression})")) & (1 << 64) - 1

    @property
    def pc(self) -> int:
        """Address of the next instruction, for gdb."""
        return self.value("$pc")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
