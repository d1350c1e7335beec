"""A fresh NVRAM: one free partition over all of it, so that a guest finds no corruption.

LoPAR, "Non-Volatile Memory", "Structure": partitions of 16-byte blocks, each with a header of
signature, checksum, length in blocks (big-endian) and a 12-byte name. Firmware usually writes the
first ones; without firmware nobody does, and Linux complains about a partition of length zero.
"""

from __future__ import annotations

import struct

BLOCK_SIZE = 16
SIGNATURE_FREE = 0x7F
NAME_FREE = b"w" * 12


def blank_nvram(size: int) -> bytes:
    """The contents of an empty NVRAM of `size` bytes, a multiple of 16 below 1 MiB."""
    if size % BLOCK_SIZE or not 0 < size // BLOCK_SIZE <= 0xFFFF:
        raise ValueError(f"NVRAM of {size} bytes: not a multiple of {BLOCK_SIZE} below 1 MiB")
    header = struct.pack(">BxH12s", SIGNATURE_FREE, size // BLOCK_SIZE, NAME_FREE)
    return bytes((header[0], header_checksum(header), *header[2:])) + bytes(size - len(header))


def header_checksum(header: bytes) -> int:
    """Sum of a header's bytes but the checksum itself, carries added back in (end-around)."""
    total = sum(header[:1] + header[2:BLOCK_SIZE])
    while total > 0xFF:
        total = (total & 0xFF) + (total >> 8)
    return total
