"""Compression of pages: the methods of ``multifd-compression``, and lz4.

zlib is Python's own; zstd and lz4 need the packages ``zstandard`` and ``lz4``, which are optional.
All work without the GIL.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable
from typing import Any

from emu.migration.stream import Buffer, MigrationError

Compressor = Callable[[Buffer], bytes]
Decompressor = Callable[[Buffer, int], bytes]


class Method(enum.Enum):
    """Names as in QEMU's QAPI schema (lz4 is not there); the numbers are in the stream."""

    NONE = "none", 0
    ZLIB = "zlib", 1
    ZSTD = "zstd", 2
    LZ4 = "lz4", 3

    def __init__(self, label: str, number: int) -> None:
        self.label = label
        self.number = number


def method(name: str) -> Method:
    """The method of that name; :class:`MigrationError` if there is none, or no library for it."""
    for entry in Method:
        if entry.label == name:
            _library(entry)
            return entry
    raise MigrationError(f"Parameter 'multifd-compression' does not accept value '{name}'")


def _library(entry: Method) -> Any:
    try:
        if entry is Method.ZSTD:
            import zstandard

            return zstandard
        if entry is Method.LZ4:
            import lz4.block

            return lz4.block
    except ImportError as error:
        package = "zstandard" if entry is Method.ZSTD else "lz4"
        raise MigrationError(
            f"compression with {entry.label} needs the Python package '{package}'"
        ) from error
    return zlib


def compressor(entry: Method, level: int) -> Compressor:
    """Compresses one batch; ``level`` is zlib's (0 to 9) or zstd's (1 to 20)."""
    library = _library(entry)
    if entry is Method.ZSTD:
        compress: Compressor = library.ZstdCompressor(level=level).compress
        return compress
    if entry is Method.LZ4:
        return lambda data: library.compress(data, store_size=False)
    return lambda data: zlib.compress(data, level)


def decompressor(number: int) -> Decompressor:
    """Undoes the method with a number, given the exact size of the result.

    It raises :class:`MigrationError` for data that do not give that size; so does this for a
    number or library that is not there.
    """
    for entry in Method:
        if entry.number == number and entry is not Method.NONE:
            library = _library(entry)
            return _checked(
                {Method.ZLIB: _zlib, Method.ZSTD: _zstd, Method.LZ4: _lz4}[entry], library
            )
    raise MigrationError(f"ram: unknown compression {number}")


def _checked(undo: Callable[[Any, Buffer, int], bytes], library: Any) -> Decompressor:
    def decompress(data: Buffer, size: int) -> bytes:
        try:
            result = undo(library, data, size)
        except Exception as error:  # each library has its own kinds
            raise MigrationError(f"ram: compressed pages are damaged: {error}") from error
        if len(result) != size:
            raise MigrationError("ram: compressed pages have the wrong size")
        return result

    return decompress


def _zlib(_library: Any, data: Buffer, size: int) -> bytes:
    return zlib.decompressobj().decompress(data, size + 1)


def _zstd(library: Any, data: Buffer, size: int) -> bytes:
    if library.frame_content_size(data) != size:  # it would be believed, and allocated
        return b""
    result: bytes = library.ZstdDecompressor().decompress(data, max_output_size=size)
    return result


def _lz4(library: Any, data: Buffer, size: int) -> bytes:
    result: bytes = library.decompress(data, uncompressed_size=size)
    return result
