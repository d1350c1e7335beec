"""Post-copy, the destination's side: the guest runs while its memory comes."""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.memory.ram import PAGE_SIZE, GuestRam
from emu.memory.userfault import Userfault, UserfaultError
from emu.migration import postcopy_native as native
from emu.migration.channels import SocketChannel
from emu.migration.ram import runs_of
from emu.migration.stream import MigrationError

_POLL_SECONDS = 0.1


class Outcome(enum.Enum):
    """Why pages do not come any more."""

    DONE = native.DONE
    STOPPED = native.STOPPED
    LOST = native.LOST
    NONSENSE = native.NONSENSE
    FAILED = native.FAILED


class PostcopyTarget:
    """Supplies the missing pages of a guest's RAM.  Any thread, if not said otherwise.

    ``missing`` has True for each page that the source still has.  Until :meth:`finish` or
    :meth:`abandon`, whoever touches one of these pages waits for it.
    """

    def __init__(
        self,
        ram: GuestRam,
        userfault: Userfault,
        missing: npt.NDArray[np.bool_],
        written: npt.NDArray[np.bool_],
    ) -> None:
        self.lost_because = ""
        self._ram = ram
        self._userfault = userfault
        self._missing = missing.astype(np.uint8)
        self._requested = np.zeros(ram.pages, np.uint8)
        self._buffer = np.zeros(native.BUFFER_SIZE, np.uint8)
        self._scratch = np.zeros(native.SCRATCH_SIZE, np.uint8)
        self._array = native.new_supply()
        self._record: Any = self._array[0]
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._go = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._outcome = Outcome.STOPPED
        self._watched = False
        self._fill_record()
        try:
            self._watch(missing & written)
        except UserfaultError as error:
            raise MigrationError(str(error)) from error

    def _fill_record(self) -> None:
        record = self._record
        record["ram"] = self._ram.address
        record["pages"] = self._ram.pages
        record["missing"] = self._missing.ctypes.data
        record["requested"] = self._requested.ctypes.data
        record["buffer"] = self._buffer.ctypes.data
        record["scratch"] = self._scratch.ctypes.data
        record["userfault"] = self._userfault.fd
        record["stop"] = self._stop
        record["announce"] = self._go
        record["left"] = int(np.count_nonzero(self._missing))

    def _watch(self, stale: npt.NDArray[np.bool_]) -> None:
        """Watch all of RAM, then drop the pages that have changed since they came.

        Not the other way round: the host may fill holes that nobody watches (huge pages).
        """
        from emu.memory.touch import touch

        self._userfault.register(self._ram.address, self._ram.size)
        self._watched = True
        self._ram.touch = touch
        for first, count in runs_of(np.flatnonzero(stale)):
            self._ram.discard_for_source(first * PAGE_SIZE, count * PAGE_SIZE)

    @property
    def requests(self) -> int:
        """Pages asked for so far."""
        return int(self._record["requests"])

    @property
    def left(self) -> int:
        """Pages that have not come."""
        return int(self._record["left"])

    def missing_pages(self) -> npt.NDArray[np.int64]:
        """Numbers of the pages that have not come; while none comes."""
        return np.flatnonzero(self._missing).astype(np.int64)

    def start(self, channel: SocketChannel, ended: Callable[[Outcome], None]) -> None:
        """Let pages come from a source; ``ended`` is called on a thread of its own."""
        connection = channel.detach_copy()
        self._record["connection"] = connection.fileno()
        self._record["filled"] = 0
        self._thread = threading.Thread(
            target=self._run, args=(connection, ended), name="postcopy", daemon=True
        )
        self._thread.start()

    def _run(self, connection: socket.socket, ended: Callable[[Outcome], None]) -> None:
        outcome = Outcome(native.supply(np.uint64(self._array.ctypes.data)))
        connection.close()
        self._outcome = outcome
        if outcome is Outcome.LOST:
            error = int(self._record["error"])
            self.lost_because = os.strerror(error) if error else "the source has closed it"
        elif outcome is Outcome.NONSENSE:
            self.lost_because = "the source sent nonsense"
        elif outcome is Outcome.FAILED:
            self.lost_because = f"userfaultfd: {os.strerror(int(self._record['error']))}"
        ended(outcome)

    def await_go(self, seconds: float) -> bool:
        """Wait until the source gives the guest away; False if pages stop coming before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self._go], [], [], _POLL_SECONDS)[0]:
                return True
            if self._thread is None or not self._thread.is_alive():
                break
        return False

    def stop(self) -> None:
        """Let no more pages come."""
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            self._thread = None
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._stop)

    def finish(self) -> None:
        """All have come, or what is missing does not matter: memory is as any other from now on."""
        if self._watched:
            self._watched = False
            self._ram.touch = None
            self._userfault.unregister(self._ram.address, self._ram.size)
        self._userfault.close()

    def close(self) -> None:
        """Give everything up; nobody runs the guest any more."""
        self.stop()
        self.finish()
        for fd in (self._stop, self._go):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._stop = self._go = -1


def check_host() -> Userfault:
    """What post-copy needs of the host; :class:`MigrationError` with the reason if it refuses."""
    if mmap.PAGESIZE != PAGE_SIZE:
        raise MigrationError(f"post-copy needs a host with pages of {PAGE_SIZE} bytes")
    try:
        return Userfault()
    except UserfaultError as error:
        raise MigrationError(f"post-copy is not possible here: {error}") from error
