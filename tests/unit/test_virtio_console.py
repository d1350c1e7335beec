"""Virtio console: control messages, configuration and data in both byte orders."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.virtio.console import (
    CONTROL_RECEIVE,
    CONTROL_TRANSMIT,
    F_EMERG_WRITE,
    F_MULTIPORT,
    F_SIZE,
    SerialOptions,
    VirtioSerial,
)
from devices.virtio.console_control import Event
from devices.virtio.console_port import PortConfig
from devices.virtio.constants import Status
from emu.chardev import MemoryChardev
from emu.chardev.config import ConfigError
from emu.memory.endian import GuestEndian
from tests.unit.virtio_mock import KIND_NAMES, KINDS, MockDriver, MockHost

Kind = tuple[GuestEndian, bool]
MULTIPORT = 1 << F_MULTIPORT | 1 << F_SIZE
Message = tuple[int, int, int, bytes]


class SwitchedChardev(MemoryChardev):
    """A chardev whose peer comes and goes."""

    def __init__(self) -> None:
        super().__init__("switched")
        self.peer = False

    @property
    def peer_connected(self) -> bool:
        return self.peer

    def switch(self, connected: bool) -> None:
        self.peer = connected
        self._tell_connection(connected)


class Guest(MockDriver):
    """A console driver."""

    def control(self, port: int, event: int, value: int = 1) -> None:
        queue = self.queues[CONTROL_TRANSMIT]
        queue.send(queue.pack("IHH", port, event, value))

    def give_control_buffers(self, count: int, size: int = 64) -> None:
        for _ in range(count):
            self.queues[CONTROL_RECEIVE].add(writable=size)
        self.queues[CONTROL_RECEIVE].kick()

    def messages(self) -> list[Message]:
        form = self.order + "IHH"
        return [
            (*struct.unpack(form, data[:8]), data[8:])
            for data in self.queues[CONTROL_RECEIVE].data()
        ]

    def ready(self) -> None:
        """Set up every port as Linux does."""
        self.give_control_buffers(24)
        self.control(0, Event.DEVICE_READY)
        for port, event, _, _ in self.messages():
            assert event == Event.DEVICE_ADD
            self.control(port, Event.PORT_READY)
        self.messages()

    def receive(self, port: int) -> int:
        return 0 if port == 0 else 2 + 2 * port

    def output(self, port: int, data: bytes) -> None:
        self.queues[self.receive(port) + 1].send(data)

    def input(self, port: int) -> bytes:
        return b"".join(self.queues[self.receive(port)].data())

    def give_input_buffers(self, port: int, count: int = 1, size: int = 64) -> None:
        for _ in range(count):
            self.queues[self.receive(port)].add(writable=size)
        self.queues[self.receive(port)].kick()


class Rig:
    """A controller with a console, a named port and an unconnected one, and its driver."""

    def __init__(self, kind: Kind = KINDS[0], features: int = MULTIPORT, **options: int) -> None:
        self.host = MockHost()
        settings = SerialOptions(**{"max_ports": 4, **options})  # type: ignore[arg-type]
        self.device = VirtioSerial("serial0", self.host, settings)
        self.console, self.port = MemoryChardev("console"), MemoryChardev("port")
        self.device.add_port(PortConfig(is_console=True, chardev=self.console))
        if settings.max_ports > 2:
            self.device.add_port(PortConfig(name="org.test.0", chardev=self.port))
            self.device.add_port(PortConfig())
        self.guest = self.drive(kind, features)

    def drive(self, kind: Kind, features: int = MULTIPORT) -> Guest:
        self.guest = Guest(self.host, self.device, *kind, features=features)
        return self.guest

    def flush(self) -> None:
        self.device.flush(10)


# Configuration space


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_configuration_has_the_drivers_order(kind: Kind) -> None:
    rig = Rig(kind)
    rig.device.resize(132, 43)
    rig.host.run()
    expected = struct.pack(rig.guest.order + "HHI", 132, 43, 4) + bytes(4)
    assert rig.guest.read_config(0, 12) == expected
    assert rig.guest.read_config(4, 4) == expected[4:8]
    assert rig.guest.transport.config_interrupts == 1


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, 3), (3, 0), (1, 3), (3, 1)])
def test_max_nr_ports_follows_a_reset_into_the_other_order(first: int, second: int) -> None:
    rig = Rig(KINDS[first], max_ports=31)
    assert rig.guest.read_config(4, 4) == struct.pack(rig.guest.order + "I", 31)
    rig.drive(KINDS[second])
    assert rig.guest.read_config(4, 4) == struct.pack(rig.guest.order + "I", 31)
    rig.guest.ready()
    rig.guest.output(1, b"still there")
    rig.flush()
    assert rig.port.transcript == b"still there"


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_emergency_write_is_little_endian_for_everybody(kind: Kind) -> None:
    rig = Rig(kind, features=1 << F_EMERG_WRITE)
    rig.guest.write_config(8, struct.pack("<I", ord("!")))
    rig.guest.write_config(8, b"?")
    rig.guest.write_config(8, bytes(4))
    rig.guest.write_config(4, b"\0\0\0\0.\0\0\0")
    rig.flush()
    assert rig.console.transcript == b"!?."
    assert rig.guest.read_config(8, 4) == bytes(4)


def test_emergency_write_can_be_absent() -> None:
    rig = Rig(emergency_write=False)
    assert not rig.device.device_features >> F_EMERG_WRITE & 1
    assert len(rig.device.config_space(GuestEndian.BIG)) == 8
    rig.guest.write_config(8, b"xxxx")
    rig.flush()
    assert rig.console.transcript == b""


@given(offset=st.integers(0, 64), data=st.binary(max_size=16))
def test_any_configuration_write_leaves_the_device_alone(offset: int, data: bytes) -> None:
    rig = Rig()
    rig.guest.write_config(offset, data)
    assert rig.guest.read_config(0, 12) == struct.pack(">HHII", 0, 0, 4, 0)
    rig.device.close()


# Control messages


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_driver_learns_of_every_port(kind: Kind) -> None:
    rig = Rig(kind)
    guest = rig.guest
    guest.give_control_buffers(16)
    guest.control(0, Event.DEVICE_READY)
    assert guest.messages() == [(nr, Event.DEVICE_ADD, 1, b"") for nr in range(3)]
    guest.control(0, Event.PORT_READY)
    assert guest.messages() == [
        (0, Event.CONSOLE_PORT, 1, b""),
        (0, Event.PORT_OPEN, 1, b""),
    ]
    guest.control(1, Event.PORT_READY)
    assert guest.messages() == [
        (1, Event.PORT_NAME, 1, b"org.test.0\0"),
        (1, Event.PORT_OPEN, 1, b""),
    ]
    guest.control(2, Event.PORT_READY)
    assert guest.messages() == []  # nobody at the other end, no name


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_size_of_the_terminal_is_told(kind: Kind) -> None:
    rig = Rig(kind)
    rig.device.resize(80, 25)
    rig.host.run()
    guest = rig.guest
    guest.give_control_buffers(20)
    guest.control(0, Event.DEVICE_READY)
    guest.control(0, Event.PORT_READY)
    size = struct.pack(guest.order + "HH", 25, 80)
    assert (0, Event.RESIZE, 1, size) in guest.messages()
    rig.device.resize(80, 25)
    rig.device.resize(100, 30)
    rig.host.run()
    assert guest.messages() == [(0, Event.RESIZE, 1, struct.pack(guest.order + "HH", 30, 100))]


def test_size_can_be_told_as_specified() -> None:
    rig = Rig(resize_as_specified=True)
    rig.guest.ready()
    rig.device.resize(100, 30)
    rig.host.run()
    rig.guest.give_control_buffers(1)
    assert rig.guest.messages() == [(0, Event.RESIZE, 1, struct.pack(">HH", 100, 30))]


def test_messages_wait_for_buffers_in_order() -> None:
    rig = Rig()
    guest = rig.guest
    guest.control(0, Event.DEVICE_READY)
    guest.control(1, Event.PORT_READY)
    got: list[Message] = []
    while len(got) < 5:
        guest.give_control_buffers(1)
        (message,) = guest.messages()
        got.append(message)
    assert [(nr, event) for nr, event, _, _ in got] == [
        (0, Event.DEVICE_ADD),
        (1, Event.DEVICE_ADD),
        (2, Event.DEVICE_ADD),
        (1, Event.PORT_NAME),
        (1, Event.PORT_OPEN),
    ]


def test_messages_of_before_a_reset_are_gone() -> None:
    rig = Rig()
    rig.guest.control(0, Event.DEVICE_READY)
    guest = rig.drive(KINDS[1])
    guest.give_control_buffers(4)
    assert guest.messages() == []


def test_long_name_is_cut_to_the_buffer() -> None:
    rig = Rig()
    guest = rig.guest
    guest.control(0, Event.DEVICE_READY)
    guest.control(1, Event.PORT_READY)
    guest.give_control_buffers(5, size=11)
    assert (1, Event.PORT_NAME, 1, b"org") in guest.messages()


def test_hotplug_and_unplug() -> None:
    rig = Rig()
    guest = rig.guest
    guest.ready()
    chardev = MemoryChardev("late")
    rig.device.add_port(PortConfig(name="late", chardev=chardev))
    assert guest.messages() == [(3, Event.DEVICE_ADD, 1, b"")]
    guest.control(3, Event.PORT_READY)
    guest.output(3, b"hello")
    rig.flush()
    assert chardev.transcript == b"hello"
    guest.messages()
    rig.device.remove_port(3)
    assert guest.messages() == [(3, Event.DEVICE_REMOVE, 1, b"")]
    assert chardev.closed
    guest.output(3, b"lost")
    assert len(guest.queues[guest.receive(3) + 1].take()) == 2


def test_host_connection_is_told() -> None:
    rig = Rig()
    chardev = SwitchedChardev()
    rig.device.add_port(PortConfig(nr=3, chardev=chardev))
    guest = rig.guest
    guest.ready()
    guest.output(3, b"nobody hears this")
    rig.flush()
    assert chardev.transcript == b""
    chardev.switch(True)
    rig.host.run()
    chardev.switch(True)
    rig.host.run()
    assert guest.messages() == [(3, Event.PORT_OPEN, 1, b"")]
    guest.output(3, b"heard")
    rig.flush()
    assert chardev.transcript == b"heard"
    chardev.switch(False)
    rig.host.run()
    assert guest.messages() == [(3, Event.PORT_OPEN, 0, b"")]


# Hostile control messages


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize("size", [1, 7])
def test_short_control_messages_are_ignored(kind: Kind, size: int) -> None:
    rig = Rig(kind)
    queue = rig.guest.queues[CONTROL_TRANSMIT]
    queue.send(bytes(size))
    assert len(queue.take()) == 1
    rig.guest.ready()  # the device works on


def test_huge_control_message_is_read_no_further_than_its_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()
    queue = rig.guest.queues[CONTROL_TRANSMIT]
    read: list[int] = []
    view = rig.host.dma.view

    def watch(address: int, size: int) -> memoryview:
        read.append(size)
        return view(address, size)

    monkeypatch.setattr(rig.host.dma, "view", watch)
    queue.send(queue.pack("IHH", 0, Event.DEVICE_READY, 1) + bytes(1 << 20))
    assert read == [8]
    rig.guest.give_control_buffers(3)
    assert len(rig.guest.messages()) == 3


@pytest.mark.parametrize("port", [3, 4, 0xFFFFFFFF])
@pytest.mark.parametrize("event", list(Event))
def test_unknown_ports_are_ignored(port: int, event: Event) -> None:
    rig = Rig()
    rig.guest.give_control_buffers(8)
    if event is not Event.DEVICE_READY:
        rig.guest.control(port, event)
        assert rig.guest.messages() == []


def test_driver_that_failed_hears_nothing() -> None:
    rig = Rig()
    rig.guest.give_control_buffers(8)
    rig.guest.control(0, Event.DEVICE_READY, 0)
    rig.guest.control(0, Event.PORT_READY, 0)
    assert rig.guest.messages() == []


def test_endless_requests_do_not_grow_the_backlog() -> None:
    rig = Rig(max_ports=3)
    for _ in range(500):
        rig.guest.control(0, Event.DEVICE_READY)
    assert len(rig.device.backlog) <= 8 * (3 + 8)


@given(
    messages=st.lists(
        st.tuples(st.integers(0, 67), st.binary(min_size=1, max_size=20)), max_size=20
    )
)
def test_any_bytes_on_any_queue_do_no_harm(messages: list[tuple[int, bytes]]) -> None:
    rig = Rig()
    rig.guest.give_control_buffers(8)
    for number, data in messages:
        index = number % len(rig.guest.queues)
        if number >= 60:  # a control message that is nearly right
            data = struct.pack(">IHH", data[0] % 6, data[-1] % 9, number % 2)
            index = CONTROL_TRANSMIT
        rig.guest.queues[index].send(data, writable=number % 3)
    rig.host.run()
    assert not rig.device.broken
    rig.device.close()


@pytest.mark.parametrize("index", range(10))
def test_bad_ring_breaks_the_device_until_reset(index: int) -> None:
    rig = Rig()
    rig.guest.control(0, Event.PORT_OPEN)
    rig.guest.control(1, Event.PORT_OPEN)
    rig.console.send(b"x")
    rig.port.send(b"x")
    rig.guest.control(0, Event.DEVICE_READY)
    rig.host.run()
    rig.guest.queues[index].send(writable=16, address=1 << 60)
    served = index in (0, 1, 2, 3, 4, 5, 7, 9)
    assert rig.device.broken == served  # input queues are looked at when there is input
    rig.drive(KINDS[3]).ready()
    assert not rig.device.broken


# Data


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_bytes_go_both_ways(kind: Kind) -> None:
    rig = Rig(kind)
    guest = rig.guest
    guest.ready()
    for nr, chardev in ((0, rig.console), (1, rig.port)):
        guest.control(nr, Event.PORT_OPEN)
        guest.output(nr, f"from {nr}".encode())
        guest.output(nr, b", more")
        rig.flush()
        assert chardev.transcript == f"from {nr}, more".encode()
        chardev.send(f"to {nr}")
        guest.give_input_buffers(nr)
        rig.host.run()
        assert guest.input(nr) == f"to {nr}".encode()


def test_output_that_is_empty_or_not_readable_is_returned() -> None:
    rig = Rig()
    queue = rig.guest.queues[1]
    queue.send(writable=8)
    assert queue.take() == [(0, 0)]


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_driver_without_multiport_has_port_0(kind: Kind) -> None:
    rig = Rig(kind, features=0)
    guest = rig.guest
    guest.give_input_buffers(0)
    rig.console.send(b"input")
    rig.host.run()
    assert guest.input(0) == b"input"
    guest.output(0, b"output")
    rig.flush()
    assert rig.console.transcript == b"output"
    guest.give_control_buffers(4)
    guest.control(0, Event.DEVICE_READY)
    assert guest.messages() == []


def test_input_waits_until_the_driver_is_ready() -> None:
    rig = Rig(features=0)
    rig.device.set_status(0)
    rig.console.send(b"early")
    rig.host.run()
    assert rig.console.pending_input == 5
    guest = rig.drive(KINDS[1], features=0)
    guest.give_input_buffers(0)
    rig.host.run()
    assert guest.input(0) == b"early"


def test_input_waits_until_the_guest_opens_the_port() -> None:
    rig = Rig()
    guest = rig.guest
    guest.ready()
    guest.give_input_buffers(1, 4)
    rig.port.send(b"first")
    rig.host.run()
    assert guest.input(1) == b""
    assert rig.port.pending_input == 5
    guest.control(1, Event.PORT_OPEN)
    rig.host.run()
    assert guest.input(1) == b"first"
    guest.control(1, Event.PORT_OPEN, 0)
    rig.port.send(b"second")
    rig.host.run()
    assert guest.input(1) == b""
    guest.control(1, Event.PORT_OPEN)
    rig.host.run()
    assert guest.input(1) == b"second"


def test_driver_that_steps_back_closes_its_ports() -> None:
    rig = Rig()
    rig.guest.ready()
    rig.guest.control(1, Event.PORT_OPEN)
    rig.device.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
    rig.port.send(b"x")
    assert rig.port.pending_input == 1


def test_output_to_a_port_without_a_host_is_thrown_away() -> None:
    rig = Rig()
    rig.guest.ready()
    rig.guest.output(2, b"nobody")
    rig.guest.output(3, b"no port")
    for nr in (2, 3):
        assert len(rig.guest.queues[rig.guest.receive(nr) + 1].take()) == 1


def test_notification_without_buffers_is_harmless() -> None:
    rig = Rig()
    for queue in rig.guest.queues:
        queue.kick()
    rig.device.notify(99)
    assert not rig.device.broken


# Ports


def test_ports_are_numbered_as_in_qemu() -> None:
    device = VirtioSerial("serial0", MockHost(), SerialOptions(max_ports=5))
    numbers = [
        device.add_port(PortConfig()).nr,
        device.add_port(PortConfig(is_console=True)).nr,
        device.add_port(PortConfig(is_console=True)).nr,
        device.add_port(PortConfig(nr=4)).nr,
        device.add_port(PortConfig()).nr,
    ]
    assert numbers == [1, 0, 2, 4, 3]
    with pytest.raises(ConfigError, match="maximum port limit"):
        device.add_port(PortConfig())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PortConfig(nr=1), "a port already exists at id 1"),
        (PortConfig(nr=4), "out-of-range port id specified, max. allowed: 3"),
        (PortConfig(nr=-1), "out-of-range"),
        (PortConfig(name="org.test.0"), r"a port already exists by name org\.test\.0"),
    ],
)
def test_bad_ports_are_refused(config: PortConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rig().device.add_port(config)


def test_port_0_is_for_consoles() -> None:
    device = VirtioSerial("serial0", MockHost(), SerialOptions())
    with pytest.raises(ConfigError, match="reserved for virtconsole"):
        device.add_port(PortConfig(nr=0))


def test_options_and_features() -> None:
    for bad, message in ((0, "not specified"), (512, "maximum ports supported: 511")):
        with pytest.raises(ConfigError, match=message):
            SerialOptions(max_ports=bad)
    single = VirtioSerial("s", MockHost(), SerialOptions(max_ports=1))
    assert single.device_features == 1 << F_SIZE | 1 << F_EMERG_WRITE
    assert [queue.max_size for queue in single.queues] == [128, 128, 32, 32]
    full = VirtioSerial("s", MockHost(), SerialOptions())
    assert full.device_features >> F_MULTIPORT & 1
    assert len(full.queues) == 64
    for name in ("x" * 256, "a\0b"):
        with pytest.raises(ConfigError, match="name"):
            PortConfig(name=name)


def test_names_and_numbers_come_from_the_specification() -> None:
    assert [event.name for event in Event] == [
        "DEVICE_READY",
        "DEVICE_ADD",
        "DEVICE_REMOVE",
        "PORT_READY",
        "CONSOLE_PORT",
        "RESIZE",
        "PORT_OPEN",
        "PORT_NAME",
    ]
