"""The hash page table in a state stream: QEMU's "spapr/htab" section, version 1.

The table travels once, while the guest stands still: its valid entries take a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types

from emu.memory.native import (
    load_u8,
    load_u16_be,
    load_u32_be,
    load_u64,
    store_u16_be,
    store_u32_be,
    store_u64,
)
from emu.migration.stream import MigrationError, StreamReader, StreamWriter

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine

_HPTE = 16
_HEAD = 8  # index u32, valid u16, invalid u16
_VALID_BYTE = 7  # of the first, big-endian doubleword
_VALID = np.uint64(1)
_MAX_RUN = 0xFFFF
_READ = 1 << 20


@njit(types.int64(types.uint64, types.int64, types.uint64), cache=True, nogil=True)
def _encode(table, entries, out):  # type: ignore[no-untyped-def]
    """Write runs of valid entries to ``out``; returns the bytes written.

    ``out`` has room for a head and an entry for each entry of the table.
    """
    at = out
    index = 0
    while index < entries:
        entry = table + np.uint64(index * _HPTE)
        if load_u8(entry + np.uint64(_VALID_BYTE)) & _VALID == 0:
            index += 1
            continue
        head, first = at, index
        at += np.uint64(_HEAD)
        while (
            index < entries
            and index - first < _MAX_RUN
            and load_u8(table + np.uint64(index * _HPTE + _VALID_BYTE)) & _VALID != 0
        ):
            entry = table + np.uint64(index * _HPTE)
            store_u64(at, load_u64(entry))
            store_u64(at + np.uint64(8), load_u64(entry + np.uint64(8)))
            at += np.uint64(_HPTE)
            index += 1
        store_u32_be(head, np.uint64(first))
        store_u16_be(head + np.uint64(4), np.uint64(index - first))
        store_u16_be(head + np.uint64(6), np.uint64(0))
    return np.int64(at - out)


@njit(types.int64(types.uint64, types.int64, types.uint64, types.int64), cache=True, nogil=True)
def _decode(source, size, table, entries):  # type: ignore[no-untyped-def]
    """Apply the complete runs at ``source``; returns the bytes consumed.

    Stops in front of a run that is incomplete, empty or outside the table.
    """
    at = np.int64(0)
    while at + _HEAD <= size:
        head = source + np.uint64(at)
        index = np.int64(load_u32_be(head))
        valid = np.int64(load_u16_be(head + np.uint64(4)))
        invalid = np.int64(load_u16_be(head + np.uint64(6)))
        length = _HEAD + valid * _HPTE
        if valid + invalid == 0 or index + valid + invalid > entries or at + length > size:
            return at
        target = table + np.uint64(index * _HPTE)
        for word in range(2 * valid):
            data = load_u64(head + np.uint64(_HEAD + 8 * word))
            store_u64(target + np.uint64(8 * word), data)
        for word in range(2 * valid, 2 * (valid + invalid)):
            store_u64(target + np.uint64(8 * word), np.uint64(0))
        at += length
    return at


class HptSection:
    """The section of one machine's table."""

    name = "spapr/htab"
    version = 1

    def __init__(self, machine: PseriesMachine) -> None:
        self._machine = machine

    def _entries(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return self._machine.hpt_memory.reshape(-1, _HPTE)

    def save_setup(self, writer: StreamWriter) -> None:
        """log2 of the size in bytes."""
        writer.u32(self._machine.hpt_shift)

    def save_end(self, writer: StreamWriter) -> None:
        """Runs of valid entries: index, number, entries; a run of nothing ends them."""
        writer.u32(0)
        entries = self._entries()
        out = np.empty(len(entries) * (_HPTE + _HEAD), np.uint8)
        size = _encode(entries.ctypes.data, len(entries), out.ctypes.data)
        writer.write(out[:size].tobytes())
        writer.write(bytes(_HEAD))

    def load_setup(self, reader: StreamReader) -> None:
        """The size must be this machine's."""
        shift = reader.u32()
        if shift != self._machine.hpt_shift:
            raise MigrationError(
                f"spapr/htab: a table of 2^{shift} bytes, this machine's has"
                f" 2^{self._machine.hpt_shift}"
            )
        self._entries()[:] = 0

    def load_part(self, reader: StreamReader) -> None:
        """Runs up to the one of nothing."""
        entries = self._entries()
        if reader.u32() != 0:
            raise MigrationError("spapr/htab: size given twice")
        while True:
            self._load_many(reader, entries)
            index, valid, invalid = reader.u32(), reader.u16(), reader.u16()
            if not valid and not invalid:
                return
            if index + valid + invalid > len(entries):
                raise MigrationError(f"spapr/htab: entry {index + valid + invalid} is outside")
            data = np.frombuffer(reader.read(valid * _HPTE), np.uint8)
            entries[index : index + valid] = data.reshape(-1, _HPTE)
            entries[index + valid : index + valid + invalid] = 0

    @staticmethod
    def _load_many(reader: StreamReader, entries: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        buffer = np.frombuffer(reader.buffered(_READ), np.uint8)
        if len(buffer):
            table = entries.ctypes.data
            reader.read(int(_decode(buffer.ctypes.data, len(buffer), table, len(entries))))
