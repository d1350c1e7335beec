"""Virtio console, host side: flow control in both directions, and no byte lost or twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.virtio.console import SerialOptions, VirtioSerial
from devices.virtio.console_host import INPUT_SIZE, OUTPUT_SIZE, OutputPump
from devices.virtio.console_port import PortConfig
from emu.chardev import MemoryChardev
from emu.chardev.base import Chardev
from emu.chardev.config import SocketConfig
from emu.chardev.socket import SocketChardev
from emu.memory.endian import GuestEndian
from tests.unit.virtio_mock import KIND_NAMES, KINDS, MockDriver, MockHost

Kind = tuple[GuestEndian, bool]


class StuckChardev(MemoryChardev):
    """Takes output only while the gate is open."""

    def __init__(self) -> None:
        super().__init__("stuck")
        self.gate = threading.Event()
        self.started = threading.Event()

    def write(self, data: bytes) -> None:
        self.started.set()
        self.gate.wait()
        if not self.closed:
            super().write(data)

    def close(self) -> None:
        super().close()
        self.gate.set()


@pytest.fixture
def host() -> Iterator[MockHost]:
    with MockHost() as host:
        yield host


def console(host: MockHost, chardev: Chardev, kind: Kind = KINDS[0]) -> MockDriver:
    """A controller with port 0 alone, and a driver without MULTIPORT."""
    device = VirtioSerial("serial0", host, SerialOptions(max_ports=1))
    device.add_port(PortConfig(is_console=True, chardev=chardev))
    return MockDriver(host, device, *kind)


def until(host: MockHost, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Run posted work until something is so."""
    deadline = time.monotonic() + seconds
    while True:
        host.run()
        if condition():
            return
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_stuck_host_stops_output_without_stopping_the_guest(host: MockHost, kind: Kind) -> None:
    chardev = StuckChardev()
    driver = console(host, chardev, kind)
    queue = driver.queues[1]
    data = random.Random(1).randbytes(3 * OUTPUT_SIZE)
    piece = OUTPUT_SIZE // 4
    for offset in range(0, len(data), piece):
        queue.send(data[offset : offset + piece])
    assert 3 <= len(queue.take()) <= 4  # what fits, and no more
    chardev.gate.set()
    returned: list[tuple[int, int]] = []

    def all_returned() -> bool:
        returned.extend(queue.take())
        return len(returned) >= 8

    until(host, all_returned)
    until(host, lambda: len(chardev.transcript) == len(data))
    assert chardev.transcript == data
    driver.device.close()


def test_one_buffer_larger_than_the_hosts_goes_out_whole(host: MockHost) -> None:
    chardev = StuckChardev()
    driver = console(host, chardev)
    data = random.Random(2).randbytes(5 * OUTPUT_SIZE + 17)
    driver.queues[1].send(data)
    assert not driver.queues[1].take()
    chardev.gate.set()
    until(host, lambda: len(chardev.transcript) == len(data))
    until(host, lambda: bool(driver.queues[1].take()))
    assert chardev.transcript == data
    driver.device.close()


def test_notifications_while_the_host_is_stuck_change_nothing(host: MockHost) -> None:
    chardev = StuckChardev()
    driver = console(host, chardev)
    data = random.Random(3).randbytes(OUTPUT_SIZE + 100)
    driver.queues[1].send(data)
    for _ in range(10):
        driver.queues[1].kick()
        driver.write_config(8, b"!\0\0\0")  # no room for it: it is dropped
    chardev.gate.set()
    until(host, lambda: len(chardev.transcript) >= len(data))
    assert chardev.transcript == data
    driver.device.close()


def test_emergency_write_does_not_lose_the_call_for_more(host: MockHost) -> None:
    """Room that an emergency write finds must not make the device forget that output waits."""
    chardev = StuckChardev()
    calls: list[int] = []
    pump = OutputPump(chardev, lambda: calls.append(1), size=8)
    pump.put(b"12345678")
    assert pump.space() == 0
    chardev.started.wait(10)
    with pump._changed:
        pump._size = 100
    assert pump.space() > 0
    chardev.gate.set()
    pump.flush(10)
    pump.put(b".")
    pump.flush(10)
    assert calls == [1]
    pump.close()


def test_reset_drops_output_that_did_not_fit(host: MockHost) -> None:
    chardev = StuckChardev()
    driver = console(host, chardev)
    driver.queues[1].send(b"x" * (2 * OUTPUT_SIZE))
    chardev.started.wait(10)
    again = MockDriver(host, driver.device, GuestEndian.LITTLE, True)
    chardev.gate.set()
    until(host, lambda: len(chardev.transcript) == OUTPUT_SIZE)
    again.queues[1].send(b"new")
    until(host, lambda: len(chardev.transcript) == OUTPUT_SIZE + 3)
    assert again.queues[1].take() == [(0, 0)]
    driver.device.close()


def test_host_that_leaves_frees_waiting_output(host: MockHost) -> None:
    chardev = StuckChardev()
    driver = console(host, chardev)
    device = driver.device
    assert isinstance(device, VirtioSerial)
    driver.queues[1].send(b"x" * (2 * OUTPUT_SIZE))
    driver.queues[1].send(b"y")
    device.set_host_connected(0, False)
    host.run()
    assert len(driver.queues[1].take()) == 2
    device.close()


def test_close_interrupts_a_stuck_host(host: MockHost) -> None:
    chardev = StuckChardev()
    driver = console(host, chardev)
    driver.queues[1].send(b"x" * OUTPUT_SIZE)
    chardev.started.wait(10)
    driver.device.close()
    driver.device.close()
    driver.queues[1].send(b"after the end")
    assert chardev.closed


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_input_of_any_size_arrives_once_and_in_order(
    host: MockHost, kind: Kind, looped: bool
) -> None:
    source = random.Random(4)
    chardev = MemoryChardev("memory", host.loop if looped else None)
    driver = console(host, chardev, kind)
    queue = driver.queues[0]
    data = source.randbytes(3 * INPUT_SIZE)
    got = bytearray()
    sent = 0
    room: list[int] = [driver.allocate(4096) for _ in range(16)]
    used = 0

    def step() -> bool:
        nonlocal sent, used
        if sent < len(data):
            size = source.randrange(1, 20_000)
            chardev.send(data[sent : sent + size])
            sent += size
        for piece in queue.data():
            got.extend(piece)
            used -= 1
        while used < 8:
            queue.add(writable=source.randrange(1, 4096), address=room[queue._next % 16])
            used += 1
        queue.kick()
        return len(got) >= len(data)

    until(host, step)
    assert bytes(got) == data
    assert chardev.pending_input == 0
    driver.device.close()


def test_input_without_buffers_is_held_back(host: MockHost) -> None:
    chardev = MemoryChardev()
    driver = console(host, chardev)
    data = random.Random(5).randbytes(INPUT_SIZE + 5000)
    chardev.send(data)
    host.run()
    assert chardev.pending_input == 5000
    driver.queues[0].send(writable=INPUT_SIZE)
    assert driver.queues[0].data() == [data[:INPUT_SIZE]]
    driver.queues[0].send(writable=INPUT_SIZE)
    assert driver.queues[0].data() == [data[INPUT_SIZE:]]


def test_input_survives_a_reset(host: MockHost) -> None:
    chardev = MemoryChardev()
    driver = console(host, chardev)
    chardev.send(b"typed ahead")
    host.run()
    again = MockDriver(host, driver.device, GuestEndian.LITTLE, False)
    again.queues[0].send(writable=64)
    assert again.queues[0].data() == [b"typed ahead"]


def test_unplugged_port_gets_no_input(host: MockHost) -> None:
    chardev = MemoryChardev()
    driver = console(host, chardev)
    device = driver.device
    assert isinstance(device, VirtioSerial)
    chardev.send(b"late")
    driver.queues[0].add(writable=64)
    device.remove_port(0)
    host.run()
    assert not driver.queues[0].take()
    with pytest.raises(KeyError):
        device.remove_port(0)


def test_echo_over_a_socket(host: MockHost, tmp_path: Path) -> None:
    """Both directions at once through a real chardev and its loop."""
    path = str(tmp_path / "socket")
    server = SocketChardev(SocketConfig(id="server", path=path, server=True), host.loop)
    driver = console(host, server)
    client = SocketChardev(SocketConfig(id="client", path=path), host.loop)
    got = bytearray()
    client.set_receiver(lambda data: got.extend(data) or len(data))  # type: ignore[func-returns-value]
    until(host, lambda: server.peer_connected)
    data = random.Random(6).randbytes(600_000)
    writer = threading.Thread(target=client.write, args=(data,), daemon=True)
    writer.start()
    receive, transmit = driver.queues[:2]
    places = [driver.allocate(4096) for _ in range(64)]
    for place in places:
        receive.add(writable=4096, address=place)
    receive.kick()
    position = outstanding = 0

    def echo() -> bool:
        nonlocal position, outstanding
        outstanding -= len(transmit.take())
        while receive.waiting() and outstanding < 100:
            transmit.send(receive.data(1)[0])
            outstanding += 1
            receive.send(writable=4096, address=places[position % 64])
            position += 1
        return len(got) >= len(data)

    until(host, echo)
    assert bytes(got) == data
    writer.join(10)
    driver.device.close()
    client.close()
