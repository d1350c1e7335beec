"""Expect and send on a machine's console, for tests."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.chardev.memory import ConsoleClosed, ConsoleTimeout, MemoryChardev
from emu.runner.lines import clean

if TYPE_CHECKING:
    from emu.pytest_plugin.guest import GuestMachine

Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]

DEFAULT_TIMEOUT = 60.0
#: Seconds between two looks at whether the guest has ended.
_LOOK = 0.25
_MESSAGE_LINES = 12
_TAIL_BYTES = 16 << 10


class ExpectError(AssertionError):
    """The console did not show what the test expects; the message has its last lines."""


@dataclass(frozen=True)
class Found:
    """What `expect` has found: the text before it, the match itself, its groups.

    Texts are UTF-8; bytes that are not become U+FFFD. `found[1]` is the first group,
    `found["name"]` a named one.
    """

    before: str
    match: re.Match[bytes]

    def __getitem__(self, group: int | str) -> str:
        return self.match[group].decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """The text that matched."""
        return self[0]


class Console:
    """A console, or another character device that is kept in memory. Any thread."""

    def __init__(self, machine: GuestMachine, chardev: MemoryChardev) -> None:
        self._machine = machine
        self.chardev = chardev

    @property
    def text(self) -> str:
        """All that the guest has printed."""
        return self.chardev.text

    def read(self) -> str:
        """What the guest has printed and `expect` has not consumed; consumes it."""
        return self.chardev.read().decode("utf-8", "replace")

    def send(self, text: str | bytes) -> None:
        """Type keys (text as UTF-8); returns at once."""
        self.chardev.send(text)

    def sendline(self, text: str = "") -> None:
        """Type a line: the text and Enter."""
        self.chardev.send(text + "\n")

    def expect(self, pattern: Pattern, timeout: float = DEFAULT_TIMEOUT) -> Found:
        """Wait until the regular expression is in the output behind what was found before.

        ExpectError after `timeout` seconds, or as soon as the guest has ended without printing it.
        """
        __tracebackhide__ = True
        return self._wait(_compiled(pattern), timeout)

    def expect_exact(self, text: str | bytes, timeout: float = DEFAULT_TIMEOUT) -> Found:
        """:meth:`expect` for a literal text."""
        __tracebackhide__ = True
        data = text.encode() if isinstance(text, str) else text
        return self._wait(re.compile(re.escape(data)), timeout)

    def _wait(self, regex: re.Pattern[bytes], timeout: float) -> Found:
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        while True:
            ended = self._machine.ended  # asked first: all output is there when it ends
            left = 0.0 if ended else min(deadline - time.monotonic(), _LOOK)
            try:
                match = self.chardev.wait_for(regex, timeout=left)
                break
            except ConsoleTimeout:
                if not ended and time.monotonic() < deadline:
                    continue
                when = "before the guest ended" if ended else f"within {timeout:g} s"
            except ConsoleClosed:
                when = "before the machine was closed"
            raise ExpectError(self._explain(regex, when)) from None
        return Found(match.string[: match.start()].decode("utf-8", "replace"), match)

    def tail(self, lines: int = 40) -> str:
        """The last lines without control characters, for a human."""
        text = self.chardev.transcript[-_TAIL_BYTES:].replace(b"\r", b"")
        return "\n".join(clean(line) for line in text.splitlines()[-lines:])

    def _explain(self, regex: re.Pattern[bytes], when: str) -> str:
        shown = regex.pattern.decode("utf-8", "replace")
        tail = self.tail(_MESSAGE_LINES) or "(no output at all)"
        quoted = "\n".join(f"  | {line}" for line in tail.splitlines())
        return (
            f"{self.chardev.label}: no match for {shown!r} {when}; {self._machine.condition}; "
            f"the last lines:\n{quoted}"
        )


def _compiled(pattern: Pattern) -> re.Pattern[bytes]:
    if isinstance(pattern, bytes):
        return re.compile(pattern)
    if isinstance(pattern, str):
        return re.compile(pattern.encode())
    if isinstance(pattern.pattern, bytes):
        return re.compile(pattern.pattern, pattern.flags)
    return re.compile(pattern.pattern.encode(), pattern.flags & ~re.UNICODE)
