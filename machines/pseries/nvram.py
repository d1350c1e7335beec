"""NVRAM behind the RTAS calls nvram-fetch and nvram-store (LoPAPR 1.1, 7.3.1 and chapter 8)."""

from __future__ import annotations

from firmware.nvram_image import blank_nvram

NVRAM_SIZE = 0x10000


class Nvram:
    """``size`` bytes that survive a reset of the machine.  vCPU thread."""

    def __init__(self, size: int = NVRAM_SIZE) -> None:
        self.size = size
        self.contents = bytearray(blank_nvram(size))

    def fetch(self, offset: int, length: int) -> bytes | None:
        """Bytes at an offset; None when the range is outside."""
        if offset + length > self.size:
            return None
        return bytes(self.contents[offset : offset + length])

    def store(self, offset: int, data: bytes) -> bool:
        """Write bytes at an offset; False when the range is outside."""
        if offset + len(data) > self.size:
            return False
        self.contents[offset : offset + len(data)] = data
        return True
