"""Virtual terminals: their hypercalls, their interrupt, and slow hosts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.chardev.base import Chardev
from emu.chardev.memory import MemoryChardev
from emu.cpu.record import Hcall
from emu.events import EventLoop
from machines.pseries import papr
from machines.pseries.dispatch import serve_native
from machines.pseries.papr import HcallNumber
from machines.pseries.record import PSERIES_DTYPE
from machines.pseries.vty import INPUT_SIZE, OUTPUT_SIZE, Ttys, Vty
from machines.pseries.xics import Xics
from machines.pseries.xics_record import IRQ_BASE
from tests.support.bare import BareMachine
from tests.unit.chardev_tools import PASTE, TIMEOUT, poll_until

UNIT, OTHER = 0x71000000, 0x71000001
IRQ = IRQ_BASE + 0x100
FULL = None  # what put() says when the hypercall left for Python
ALL_ONES = (1 << 64) - 1


class StuckChardev(Chardev):
    """A host that takes nothing until it is let go or closed, and then takes its time."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__("stuck", None)
        self.data = bytearray()
        self.go = threading.Event()
        self._delay = delay

    def write(self, data: bytes) -> None:
        assert self.go.wait(TIMEOUT)
        if not self.closed:
            time.sleep(self._delay)
            self.data += data

    def close(self) -> None:
        super().close()
        self.go.set()


class Guest:
    """A vCPU that makes terminal hypercalls; the test's thread is the vCPU thread."""

    def __init__(self) -> None:
        self.bare = BareMachine(ram=1 << 20)
        self.vcpu = self.bare.vcpu
        self._machine = np.zeros(1, PSERIES_DTYPE)
        self.bare.partition.record["machine"] = self._machine.ctypes.data
        self.posted: deque[Callable[[], None]] = deque()
        self.ttys: list[Vty] = []

    def connect(self, *consoles: tuple[int, Chardev]) -> list[Vty]:
        """Give the guest new terminals."""
        self.disconnect()
        self.xics = Xics(self.bare.partition)
        self._records = Ttys(len(consoles))
        self._machine[0]["xics"] = self.xics.address
        self._machine[0]["ttys"] = self._records.address
        self._machine[0]["tty_count"] = len(consoles)
        self.ttys = [
            Vty(record, unit, IRQ + i, chardev, self.xics, self.posted.append)
            for i, (record, (unit, chardev)) in enumerate(
                zip(self._records.array, consoles, strict=False)
            )
        ]
        return self.ttys

    def disconnect(self) -> None:
        for vty in self.ttys:
            vty.close()
        self.ttys = []
        self.posted.clear()
        self._machine[0]["tty_count"] = 0

    def hcall(self, number: HcallNumber, *arguments: int) -> int | None:
        """A hypercall's return code; None when it left for Python."""
        for register, value in enumerate((number, *arguments), 3):
            self.vcpu.set_gpr(register, value)
        if serve_native(self.vcpu.address) == Hcall.EXIT:
            return None
        code = self.vcpu.gpr(3)
        return code - (1 << 64) if code >> 63 else code

    def put(self, data: bytes, unit: int = UNIT) -> int | None:
        padded = data.ljust(16, b"\xee")
        high, low = int.from_bytes(padded[:8], "big"), int.from_bytes(padded[8:], "big")
        return self.hcall(HcallNumber.H_PUT_TERM_CHAR, unit, len(data), high, low)

    def put_all(self, data: bytes, vty: Vty) -> int:
        """Put everything as the machine does; how often the ring was full."""
        full = 0
        for start in range(0, len(data), 16):
            piece = data[start : start + 16]
            if self.put(piece) is FULL:
                full += 1
                assert vty.put_slow(piece, lambda: False)
        return full

    def get(self, unit: int = UNIT) -> bytes:
        """One H_GET_TERM_CHAR, registers as they are."""
        assert self.hcall(HcallNumber.H_GET_TERM_CHAR, unit) == papr.H_SUCCESS
        length, high, low = (self.vcpu.gpr(register) for register in (4, 5, 6))
        data = high.to_bytes(8, "big") + low.to_bytes(8, "big")
        assert length <= 16
        assert not any(data[length:])
        return data[:length]

    def linux_get(self) -> bytes:
        """As Linux reads: it drops a NUL that follows a carriage return in the same call."""
        return self.get().replace(b"\r\0", b"\r")

    def listen(self) -> None:
        """Admit interrupts and route the first terminal's here."""
        self.hcall(HcallNumber.H_CPPR, 0xFF)
        self.xics.set_xive(IRQ, 0, 5)

    def interrupted(self) -> bool:
        """Do posted work, then take an interrupt if there is one."""
        while self.posted:
            self.posted.popleft()()
        self.hcall(HcallNumber.H_XIRR)
        xirr = self.vcpu.gpr(4)
        if not xirr & 0xFFFFFF:
            return False
        assert xirr & 0xFFFFFF == IRQ
        self.hcall(HcallNumber.H_EOI, xirr)
        return True


@pytest.fixture(scope="module")
def machine() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.disconnect()
    guest.bare.close()


@pytest.fixture
def guest(machine: Guest) -> Iterator[Guest]:
    yield machine
    machine.disconnect()


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    loop.start()
    yield loop
    loop.stop()


def pattern(size: int) -> bytes:
    """Bytes in which a shift or a repetition shows."""
    return b"".join(i.to_bytes(4, "big") for i in range(-(-size // 4)))[:size]


@pytest.mark.parametrize("length", range(17))
def test_put_length(guest: Guest, length: int) -> None:
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    data = b"0123456789abcdef"[:length]
    assert guest.put(data) == papr.H_SUCCESS
    vty.flush(TIMEOUT)
    assert console.transcript == data


@pytest.mark.parametrize("length", [17, 1 << 31, 1 << 32, 1 << 63, ALL_ONES])
def test_put_too_much(guest: Guest, length: int) -> None:
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    code = guest.hcall(HcallNumber.H_PUT_TERM_CHAR, UNIT, length, 0x41 << 56, 0)
    assert code == papr.H_PARAMETER
    vty.flush(TIMEOUT)
    assert console.transcript == b""


@pytest.mark.parametrize("unit", [1, UNIT - 1, OTHER, UNIT | 1 << 32, ALL_ONES])
def test_unknown_unit(guest: Guest, unit: int) -> None:
    guest.connect((UNIT, MemoryChardev()))
    assert guest.put(b"x", unit) == papr.H_PARAMETER
    assert guest.hcall(HcallNumber.H_GET_TERM_CHAR, unit) == papr.H_PARAMETER


def test_machine_without_terminals(guest: Guest) -> None:
    guest.connect()
    assert guest.put(b"x", 0) == papr.H_PARAMETER
    assert guest.hcall(HcallNumber.H_GET_TERM_CHAR, 0) == papr.H_PARAMETER


def test_two_terminals(guest: Guest) -> None:
    first, second = MemoryChardev(), MemoryChardev()
    for vty in guest.connect((UNIT, first), (OTHER, second)):
        guest.put(f"{vty.unit:x}".encode(), vty.unit)
        vty.flush(TIMEOUT)
    guest.put(b"!", 0)
    guest.ttys[0].flush(TIMEOUT)
    assert (first.text, second.text) == ("71000000!", "71000001")
    second.send("b")
    assert (guest.get(UNIT), guest.get(OTHER)) == (b"", b"b")


def test_unit_0_is_the_lowest(guest: Guest) -> None:
    low, high = MemoryChardev(), MemoryChardev()
    guest.connect((OTHER, high), (UNIT, low))
    guest.put(b"early", 0)
    for vty in guest.ttys:
        vty.flush(TIMEOUT)
    assert (low.text, high.text) == ("early", "")


def test_output_wraps_around(guest: Guest) -> None:
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    data = pattern(OUTPUT_SIZE + 100_000)
    for start in range(0, len(data), 15):  # so that a call crosses the end of the ring
        while guest.put(data[start : start + 15]) is FULL:
            vty.flush(0.01)
    vty.flush(TIMEOUT)
    assert console.transcript == data


def test_slow_host_gets_everything(guest: Guest) -> None:
    console = StuckChardev(delay=0.05)
    (vty,) = guest.connect((UNIT, console))
    data = pattern(2 * OUTPUT_SIZE + 999)
    full = False
    for start in range(0, len(data), 16):
        piece = data[start : start + 16]
        if guest.put(piece) is FULL:
            full = True
            console.go.set()
            assert vty.put_slow(piece, lambda: False)
    assert full
    vty.flush(TIMEOUT)
    assert console.data == data


def test_full_ring_takes_all_or_nothing(guest: Guest) -> None:
    console = StuckChardev()
    (vty,) = guest.connect((UNIT, console))
    data = pattern(OUTPUT_SIZE - 5)
    assert guest.put_all(data, vty) == 0
    assert guest.put(b"123456") is FULL
    assert guest.put(b"") == papr.H_SUCCESS
    assert guest.put(b"12345") == papr.H_SUCCESS
    assert guest.put(b"1") is FULL
    console.go.set()
    vty.flush(TIMEOUT)
    assert console.data == data + b"12345"


def test_waiting_for_room_can_be_given_up(guest: Guest) -> None:
    console = StuckChardev()
    (vty,) = guest.connect((UNIT, console))
    assert guest.put_all(bytes(OUTPUT_SIZE), vty) == 0
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    assert not vty.put_slow(b"lost", stop.is_set)
    console.go.set()
    vty.flush(TIMEOUT)
    assert console.data == bytes(OUTPUT_SIZE)


def test_waiting_for_room_ends_with_room(guest: Guest) -> None:
    console = StuckChardev()
    (vty,) = guest.connect((UNIT, console))
    assert guest.put_all(bytes(OUTPUT_SIZE), vty) == 0
    threading.Timer(0.2, console.go.set).start()
    assert vty.put_slow(b"saved", lambda: False)
    vty.flush(TIMEOUT)
    assert console.data == bytes(OUTPUT_SIZE) + b"saved"


def test_flush_gives_up(guest: Guest) -> None:
    console = StuckChardev()
    (vty,) = guest.connect((UNIT, console))
    guest.put(b"x")
    start = time.monotonic()
    vty.flush(0.2)
    assert 0.1 < time.monotonic() - start < TIMEOUT
    assert not console.data


def test_close_frees_a_stuck_writer(guest: Guest) -> None:
    guest.connect((UNIT, StuckChardev()))
    guest.put(b"x")
    guest.disconnect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tty")]


def test_every_output_wakes_the_host(guest: Guest) -> None:
    """The wake-up is sent only for an empty ring: none may be lost."""
    console = MemoryChardev()
    guest.connect((UNIT, console))
    for i in range(3000):
        guest.put(b".")
        if i % 3 == 0:
            poll_until(lambda sent=i + 1: len(console.transcript) == sent)  # type: ignore[misc]
    poll_until(lambda: len(console.transcript) == 3000)


def test_input_by_register(guest: Guest) -> None:
    console = MemoryChardev()
    guest.connect((UNIT, console))
    assert guest.get() == b""
    console.send("0123456789abcdefXYZ")
    assert guest.get() == b"0123456789abcdef"
    assert guest.get() == b"XYZ"
    assert guest.get() == b""


def test_input_waits_for_room(guest: Guest) -> None:
    console = MemoryChardev()
    guest.connect((UNIT, console))
    data = b"x" * (INPUT_SIZE + 100)
    console.send(data)
    assert console.pending_input == 100
    received = b""
    while len(received) < len(data):
        received += guest.get()
        if len(received) == INPUT_SIZE // 2:
            poll_until(lambda: console.pending_input == 0)
    assert received == data


def test_paste_of_100_kib(guest: Guest, loop: EventLoop) -> None:
    console = MemoryChardev(loop=loop)
    guest.connect((UNIT, console))
    console.send(PASTE)
    received = bytearray()
    deadline = time.monotonic() + TIMEOUT
    while len(received) < len(PASTE):
        assert time.monotonic() < deadline, f"stuck at {len(received)}"
        received += guest.linux_get()
    assert received == PASTE


def test_paste_that_is_read_by_interrupts_only(guest: Guest) -> None:
    """Linux reads until nothing comes, then sleeps: a forgotten interrupt would end the paste."""
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    assert vty.vio_signal(1) == papr.H_SUCCESS
    guest.listen()

    def paste() -> None:
        for start in range(0, len(PASTE), 999):
            console.send(PASTE[start : start + 999])

    sender = threading.Thread(target=paste)
    sender.start()
    received = bytearray()
    deadline = time.monotonic() + TIMEOUT
    while len(received) < len(PASTE):
        assert time.monotonic() < deadline, f"stuck at {len(received)}"
        if not guest.interrupted():
            time.sleep(0.0005)
            continue
        while data := guest.linux_get():
            received += data
    sender.join()
    assert received == PASTE


def test_carriage_return_and_nul_stay_together(guest: Guest) -> None:
    """PowerVM puts a NUL after each carriage return; guests drop it, so binary needs it."""
    console = MemoryChardev()
    guest.connect((UNIT, console))
    data = b"\r\0\r\r\n" * 20 + b"123456789012345\r\0end\0"
    console.send(data)
    received = b""
    while piece := guest.get():
        assert piece.count(b"\r") == piece.count(b"\r\0")
        received += piece.replace(b"\r\0", b"\r")
    assert received == data


def test_interrupt_without_vio_signal(guest: Guest) -> None:
    """Linux's hvc_vio requests the interrupt, stops polling, and never calls H_VIO_SIGNAL."""
    console = MemoryChardev()
    guest.connect((UNIT, console))
    guest.listen()
    console.send("x")
    assert guest.interrupted()


def test_interrupt_after_reset(guest: Guest) -> None:
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    guest.xics.reset()
    vty.reset()
    guest.listen()
    console.send("x")
    assert guest.interrupted()


def test_input_before_the_interrupt_is_routed(guest: Guest) -> None:
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    vty.vio_signal(1)
    console.send("x")
    assert not guest.interrupted()
    guest.listen()
    assert guest.interrupted()


def test_vio_signal(guest: Guest) -> None:
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    guest.listen()
    assert vty.vio_signal(0) == papr.H_SUCCESS
    console.send("x")
    assert not guest.interrupted()
    assert vty.vio_signal(1) == papr.H_SUCCESS
    assert guest.interrupted()
    assert not guest.interrupted()
    for mode in (2, 3, 1 << 32, ALL_ONES):
        assert vty.vio_signal(mode) == papr.H_PARAMETER


def test_no_interrupt_for_what_was_read(guest: Guest) -> None:
    console = MemoryChardev()
    (vty,) = guest.connect((UNIT, console))
    vty.vio_signal(1)
    guest.listen()
    console.send("x")
    assert guest.get() == b"x"
    assert not guest.interrupted()


def test_reset_keeps_what_is_on_its_way(guest: Guest) -> None:
    console = StuckChardev()
    (vty,) = guest.connect((UNIT, console))
    guest.put(b"last words")
    vty.reset()
    console.go.set()
    vty.flush(TIMEOUT)
    assert console.data == b"last words"


operations = st.lists(
    st.one_of(st.binary(max_size=16), st.binary(min_size=1, max_size=700).map(bytearray)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(sequence=operations, reads=st.integers(1, 8))
def test_both_directions_at_once(machine: Guest, sequence: list[bytes], reads: int) -> None:
    """Output (bytes) and input (bytearray) in any order arrive as they were sent."""
    console = MemoryChardev()
    (vty,) = machine.connect((UNIT, console))
    received = bytearray()
    for data in sequence:
        if isinstance(data, bytearray):
            console.send(data.replace(b"\r", b"\n"))
        else:
            assert machine.put(data) == papr.H_SUCCESS
        for _ in range(reads):
            received += machine.get()
    expected = b"".join(data for data in sequence if isinstance(data, bytearray))
    expected = expected.replace(b"\r", b"\n")
    deadline = time.monotonic() + TIMEOUT
    while len(received) < len(expected):
        assert time.monotonic() < deadline
        received += machine.get()
    vty.flush(TIMEOUT)
    assert received == expected
    assert console.transcript == b"".join(d for d in sequence if not isinstance(d, bytearray))
    machine.disconnect()
