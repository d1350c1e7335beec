"""Cutting a stream of bytes into JSON values, as QMP clients send them."""

from __future__ import annotations

import json
from typing import Any

#: Bytes of one value at most.
MAX_VALUE = 16 << 20


class JsonError(Exception):
    """The stream is not JSON; the parser starts anew behind the offending bytes."""


class JsonStream:
    """Takes bytes, gives top-level objects; blanks and newlines between them are optional."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._quote = 0
        self._escaped = False

    def feed(self, data: bytes) -> list[Any]:
        """Return what is complete now: a value, or the :class:`JsonError` it caused, each."""
        self._buffer += data
        found: list[Any] = []
        while (end := self._find_end()) is not None:
            text = bytes(self._buffer[:end])
            self._restart(end)
            if text.strip():
                found.append(_decode(text))
        if len(self._buffer) > MAX_VALUE:
            self._restart(len(self._buffer))
            found.append(JsonError("JSON value is too long"))
        return found

    def _restart(self, consumed: int) -> None:
        del self._buffer[:consumed]
        self._scanned = self._depth = self._quote = 0
        self._escaped = False

    def _find_end(self) -> int | None:
        """Where the first value, or a line of something else, ends."""
        buffer = self._buffer
        for position in range(self._scanned, len(buffer)):
            byte = buffer[position]
            if self._quote:
                self._in_string(byte)
            elif byte in b"\"'":
                self._quote = byte
            elif byte in b"{[":
                self._depth += 1
            elif byte in b"}]":
                self._depth -= 1
                if self._depth <= 0:
                    return position + 1
            elif byte in b"\n\r" and self._depth == 0:
                return position + 1
        self._scanned = len(buffer)
        return None

    def _in_string(self, byte: int) -> None:
        if self._escaped:
            self._escaped = False
        elif byte == 0x5C:  # backslash
            self._escaped = True
        elif byte == self._quote:
            self._quote = 0


def _decode(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return JsonError("Invalid JSON syntax")
