"""VIO virtual terminals (LoPAPR 1.1, 16.6): H_PUT_TERM_CHAR, H_GET_TERM_CHAR and their interrupt.

Each terminal has two rings in host memory, shared by the vCPU thread and one host thread per
direction.  Counters only grow; each is written by one side.  Hypercalls append to the output
ring and take from the input ring natively; a full output ring sends the hypercall to Python,
which waits for the host.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from emu.chardev.base import Chardev
from emu.cpu.clock import eventfd_signal
from emu.memory.native import fence, load_u8, record_pointer, store_u8
from machines.pseries import papr
from machines.pseries.hpt import PARAMETER, SUCCESS, set_result
from machines.pseries.xics import Xics

OUTPUT_SIZE = 1 << 20
INPUT_SIZE = 1 << 12
MAX_TRANSFER = 16
_RETURN = np.uint64(13)
RING_FULL = np.uint64(0x7FFF_FFFF)  # not a PAPR return code
_WAIT_SLICE = 0.05

TTY_DTYPE = np.dtype(
    [
        ("unit", "u8"),
        ("output", "u8"),  # host addresses of the rings
        ("input", "u8"),
        ("written", "u8"),  # bytes ever put by the guest, and taken by the host
        ("drained", "u8"),
        ("received", "u8"),  # bytes ever put by the host, and taken by the guest
        ("taken", "u8"),
        ("output_fd", "i4"),  # eventfd: the output ring is no longer empty
        ("input_fd", "i4"),  # eventfd: the input ring has room again
        ("interrupts", "u4"),  # on unless H_VIO_SIGNAL switched them off
        ("starved", "u4"),  # the host has more input than fitted
    ],
    align=True,
)
tty_at = record_pointer(TTY_DTYPE)
_TTY_SIZE = TTY_DTYPE.itemsize


@njit(cache=True)
def _find(machine, unit):  # type: ignore[no-untyped-def]
    """Address of the terminal's record, 0 if there is none; unit 0 is the lowest one."""
    lowest = np.uint64(0)
    for i in range(machine.tty_count):
        address = machine.ttys + np.uint64(i * _TTY_SIZE)
        if tty_at(address).unit == unit:
            return address
        if lowest == np.uint64(0) or tty_at(address).unit < tty_at(lowest).unit:
            lowest = address
    return lowest if unit == np.uint64(0) else np.uint64(0)


@njit(cache=True)
def h_put_term_char(machine, unit, length, first, second):  # type: ignore[no-untyped-def]
    """H_PUT_TERM_CHAR(unit, length, two registers): or :data:`RING_FULL`, nothing taken."""
    address = _find(machine, unit)
    if address == 0 or length > np.uint64(MAX_TRANSFER):
        return PARAMETER
    tty = tty_at(address)
    held = tty.written - tty.drained
    if held + length > np.uint64(OUTPUT_SIZE):
        return RING_FULL
    position = tty.written
    for i in range(np.int64(length)):
        word = first if i < 8 else second
        byte = (word >> np.uint64(56 - 8 * (i & 7))) & np.uint64(0xFF)
        store_u8(tty.output + (position & np.uint64(OUTPUT_SIZE - 1)), byte)
        position += np.uint64(1)
    fence()
    tty.written = position
    fence()
    if position - tty.drained <= length:
        eventfd_signal(tty.output_fd)
    return SUCCESS


@njit(cache=True)
def h_get_term_char(vcpu, machine, unit):  # type: ignore[no-untyped-def]
    """H_GET_TERM_CHAR(unit): r4 length, r5 and r6 up to 16 bytes.

    A NUL follows each carriage return.  PowerVM adds one, and guests drop a NUL that follows a
    carriage return in the same 16 bytes: without ours they would drop those of binary data.
    """
    address = _find(machine, unit)
    if address == 0:
        return PARAMETER
    tty = tty_at(address)
    words = np.zeros(2, np.uint64)
    received, position = tty.received, tty.taken
    count = 0
    while position != received and count < MAX_TRANSFER:
        byte = np.uint64(load_u8(tty.input + (position & np.uint64(INPUT_SIZE - 1))))
        if byte == _RETURN and count == MAX_TRANSFER - 1:
            break  # no room for its NUL
        words[count >> 3] |= byte << np.uint64(56 - 8 * (count & 7))
        count += 2 if byte == _RETURN else 1
        position += np.uint64(1)
    fence()
    tty.taken = position
    set_result(vcpu, 0, np.uint64(count))
    set_result(vcpu, 1, words[0])
    set_result(vcpu, 2, words[1])
    fence()
    if tty.starved and tty.received - position <= np.uint64(INPUT_SIZE // 2):
        tty.starved = 0
        eventfd_signal(tty.input_fd)
    return SUCCESS


class Ttys:
    """The records of all terminals of a machine, side by side as :func:`_find` wants them."""

    def __init__(self, count: int) -> None:
        self.array = np.zeros(max(count, 1), TTY_DTYPE)
        self.address: int = self.array.ctypes.data


class Vty:
    """One terminal and its host side.

    ``post`` runs work on the vCPU thread.  The constructor starts the output thread; input
    comes on the chardev's threads.
    """

    def __init__(
        self,
        record: Any,
        unit: int,
        irq: int,
        chardev: Chardev,
        xics: Xics,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self.unit, self.irq, self.record = unit, irq, record
        self._chardev, self._xics, self._post = chardev, xics, post
        self._output = np.zeros(OUTPUT_SIZE, np.uint8)
        self._input = np.zeros(INPUT_SIZE, np.uint8)
        self._closing = False
        self._restored = b""
        self._drained = threading.Condition()
        record["unit"] = unit
        record["interrupts"] = 1
        record["output"] = self._output.ctypes.data
        record["input"] = self._input.ctypes.data
        record["output_fd"] = os.eventfd(0, os.EFD_CLOEXEC)
        record["input_fd"] = os.eventfd(0, os.EFD_CLOEXEC)
        xics.claim(irq, lsi=False, name=f"vty@{unit:x}")
        self._threads = [
            threading.Thread(target=target, name=f"tty {unit:#x} {name}", daemon=True)
            for name, target in (("output", self._drain), ("input", self._refill))
        ]
        for thread in self._threads:
            thread.start()
        chardev.set_receiver(self._receive)

    def reset(self) -> None:
        """Interrupts on, as guests that never call H_VIO_SIGNAL need; output and input stay."""
        self.record["interrupts"] = 1
        self._interrupt()  # for input that waits; the reset of XICS has forgotten the first one

    @property
    def input(self) -> bytes:
        """Input the guest has not taken, in the ring and with the chardev."""
        received, taken = int(self.record["received"]), int(self.record["taken"])
        ring = bytes(int(self._input[at % INPUT_SIZE]) for at in range(taken, received))
        return ring + self._chardev.peek_input()

    @input.setter
    def input(self, data: bytes) -> None:
        self._restored = data

    def resume(self) -> None:
        """Offer the guest the input that came with its state, before any other."""
        data, self._restored = self._restored, b""
        self._chardev.prepend_input(data)
        self._chardev.accept_input()
        self._interrupt()

    def vio_signal(self, mode: int) -> int:
        """H_VIO_SIGNAL: mode 0 switches the interrupt off, 1 on."""
        if mode > 1:
            return papr.H_PARAMETER
        self.record["interrupts"] = mode
        if mode and self.record["received"] != self.record["taken"]:
            self._interrupt()
        return papr.H_SUCCESS

    def put_slow(self, data: bytes, stop: Callable[[], bool]) -> bool:
        """Append output when the ring was full: wait for room, or give up when ``stop()``."""
        while not stop():
            with self._drained:
                written, drained = int(self.record["written"]), int(self.record["drained"])
                if written - drained + len(data) <= OUTPUT_SIZE:
                    for offset, byte in enumerate(data):
                        self._output[(written + offset) % OUTPUT_SIZE] = byte
                    self.record["written"] = written + len(data)
                    break
                self._drained.wait(_WAIT_SLICE)
        else:
            return False
        os.eventfd_write(int(self.record["output_fd"]), 1)
        return True

    def flush(self, seconds: float) -> None:
        """Wait until all output is with the chardev, at most so long."""
        deadline = time.monotonic() + seconds
        with self._drained:
            while self.record["written"] != self.record["drained"]:
                left = deadline - time.monotonic()
                if left <= 0 or self._closing:
                    return
                self._drained.wait(left)

    def close(self) -> None:
        """End the threads; the chardev is closed or will be by its owner."""
        self._closing = True
        self._chardev.set_receiver(None)
        for name in ("output_fd", "input_fd"):
            os.eventfd_write(int(self.record[name]), 1)
        self._chardev.close()
        for thread in self._threads:
            thread.join()
        for name in ("output_fd", "input_fd"):
            os.close(int(self.record[name]))

    def _drain(self) -> None:
        descriptor = int(self.record["output_fd"])
        while True:
            os.eventfd_read(descriptor)
            while data := self._pending_output():
                self._chardev.write(data)
                with self._drained:
                    self.record["drained"] += len(data)
                    self._drained.notify_all()
            if self._closing:
                return

    def _pending_output(self) -> bytes:
        drained = int(self.record["drained"])
        start = drained % OUTPUT_SIZE
        count = min(int(self.record["written"]) - drained, OUTPUT_SIZE - start)
        return self._output[start : start + count].tobytes()

    def _receive(self, data: bytes) -> int:
        """Chardev receiver: put what fits into the input ring and interrupt the guest."""
        received = int(self.record["received"])
        if len(data) > INPUT_SIZE - (received - int(self.record["taken"])):
            self.record["starved"] = 1
        room = INPUT_SIZE - (received - int(self.record["taken"]))
        accepted = min(room, len(data))
        for offset in range(accepted):
            self._input[(received + offset) % INPUT_SIZE] = data[offset]
        if accepted:
            self.record["received"] = received + accepted
            if self.record["interrupts"]:
                self._post(self._interrupt)
        return accepted

    def _interrupt(self) -> None:
        if self.record["interrupts"] and self.record["received"] != self.record["taken"]:
            self._xics.set_irq(self.irq, 1)

    def _refill(self) -> None:
        """Ask the chardev for more whenever the guest has made room."""
        descriptor = int(self.record["input_fd"])
        while True:
            os.eventfd_read(descriptor)
            if self._closing:
                return
            self._chardev.accept_input()
