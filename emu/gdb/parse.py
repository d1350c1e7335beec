"""Numbers, hex data and thread ids of packets.  All raise ``ValueError`` for anything else."""

from __future__ import annotations

import binascii
import re

_NUMBER = re.compile(rb"[0-9a-fA-F]{1,16}")
_PROCESS = rb"1"
ANY_THREAD = 0
ALL_THREADS = -1


def number(text: bytes) -> int:
    """An unsigned hexadecimal number of at most 64 bits."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"no number: {text!r}")
    return int(text, 16)


def numbers(text: bytes, count: int) -> list[int]:
    """So many numbers with commas between them."""
    parts = text.split(b",")
    if len(parts) != count:
        raise ValueError(f"not {count} numbers: {text!r}")
    return [number(part) for part in parts]


def unhex(text: bytes) -> bytes:
    """Bytes written as pairs of hexadecimal digits."""
    return binascii.unhexlify(text)


def thread_id(text: bytes) -> int:
    """A thread id (from 1), ANY_THREAD or ALL_THREADS; process 1 may stand in front."""
    if text.startswith(b"p"):
        process, dot, text = text[1:].partition(b".")
        if process not in (_PROCESS, b"-1", b"0"):
            raise ValueError(f"no process {process!r}")
        if not dot:
            return ALL_THREADS
    return ALL_THREADS if text == b"-1" else number(text)
