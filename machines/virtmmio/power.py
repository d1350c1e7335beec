"""The way out of the machine, "ppc64emu,test-exit": two big-endian 32-bit registers.

Writing offset 0 ends the emulator, with the low 8 bits written as its exit status; writing
anything to offset 4 resets the machine.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.log import guest_error

EXIT, RESET = 0, 4


class TestExit:
    """Handler of the registers.  vCPU thread."""

    __test__ = False  # not pytest's

    def __init__(
        self, request_exit: Callable[[int], None], request_reset: Callable[[], None]
    ) -> None:
        self._request_exit = request_exit
        self._request_reset = request_reset

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Zeros."""
        return bytes(size)

    def mmio_write(self, offset: int, data: bytes) -> None:
        """End or reset the machine."""
        if len(data) == 4 and offset == EXIT:
            self._request_exit(int.from_bytes(data, "big") & 0xFF)
        elif len(data) == 4 and offset == RESET:
            self._request_reset()
        else:
            guest_error("test-exit", "write of %d bytes to register %d", len(data), offset)
