"""Virtio console and serial ports (virtio 1.2, 5.3).

Queues: receive and transmit of port 0, control receive and transmit, then receive and transmit
of the ports 1, 2, ...  The configuration space and control messages are in guest order for
legacy drivers, but ``emerg_wr``, which is little-endian for every driver, as in QEMU.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from devices.host import DeviceHost
from devices.virtio.console_control import ControlBacklog, ControlMessage, Event
from devices.virtio.console_host import InputBuffer, OutputPump
from devices.virtio.console_port import Port, PortConfig, choose_number
from devices.virtio.console_state import CONSOLE_STATE
from devices.virtio.constants import Status, VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import VirtQueue
from emu.chardev.base import Chardev
from emu.chardev.config import ConfigError
from emu.log import guest_error
from emu.memory.endian import GuestEndian

PORT_QUEUE_SIZE = 128
CONTROL_QUEUE_SIZE = 32
CONTROL_RECEIVE, CONTROL_TRANSMIT = 2, 3
MAX_PORTS = 511  # 1024 queues are the most a transport has

F_SIZE, F_MULTIPORT, F_EMERG_WRITE = 0, 1, 2
_EMERG_WR = 8  # offset in the configuration space


@dataclass(frozen=True, kw_only=True)
class SerialOptions:
    """Properties of virtio-serial.

    ``resize_as_specified`` sends columns before rows in RESIZE messages, as 5.3.6.2.2 has it;
    Linux has always read them the other way round (but for a few releases of 2025), and so does
    the default.  ConfigError for values out of range.
    """

    max_ports: int = 31
    emergency_write: bool = True
    resize_as_specified: bool = False

    def __post_init__(self) -> None:
        if self.max_ports < 1:
            raise ConfigError("maximum number of serial ports not specified")
        if self.max_ports > MAX_PORTS:
            raise ConfigError(f"maximum ports supported: {MAX_PORTS}")

    @property
    def features(self) -> int:
        """Feature bits they stand for."""
        return (
            1 << F_SIZE
            | (self.max_ports > 1) << F_MULTIPORT
            | self.emergency_write << F_EMERG_WRITE
        )


class VirtioSerial(VirtioDevice):
    """The controller that ports are plugged into.  vCPU thread, but for what says otherwise."""

    DEVICE_ID = VirtioId.CONSOLE
    STATE = CONSOLE_STATE

    def __init__(self, name: str, host: DeviceHost, options: SerialOptions) -> None:
        sizes = [PORT_QUEUE_SIZE] * 2 + [CONTROL_QUEUE_SIZE] * 2
        sizes += [PORT_QUEUE_SIZE] * (2 * (options.max_ports - 1))
        super().__init__(name, host, sizes, options.features)
        self.options = options
        self.cols = self.rows = 0  # of port 0's terminal; 0: not known
        self.ports: dict[int, Port] = {}
        self.driver_knows_ports = False  # it has sent DEVICE_READY
        # Each port needs at most DEVICE_ADD and, after PORT_READY, four more at a time.
        self.backlog = ControlBacklog(8 * (options.max_ports + 8))

    # For the host

    def add_port(self, config: PortConfig) -> Port:
        """Plug a port in, also while the guest runs.  ConfigError if that cannot be."""
        nr = choose_number(self.ports, config, self.options.max_ports)
        first = nr * 2 + 2 if nr else 0
        port = Port(nr, config, self.queues[first], self.queues[first + 1])
        self.ports[nr] = port
        if config.chardev is not None:
            self._connect(port, config.chardev)
        if self.driver_knows_ports:
            self._tell(ControlMessage(nr, Event.DEVICE_ADD))
        elif nr == 0:
            self._open_single_port()
        return port

    def remove_port(self, nr: int) -> None:
        """Unplug a port; its chardev is closed.  KeyError if there is none of that number."""
        port = self.ports.pop(nr)
        self._discard(port.transmit, port)
        self._guest_connected(port, False)
        if self.driver_knows_ports:
            self._tell(ControlMessage(nr, Event.DEVICE_REMOVE))
        port.close()

    def resize(self, cols: int, rows: int, nr: int = 0) -> None:
        """Tell the guest the size of a console's terminal, in characters.  Any thread."""
        self.host.post(lambda: self._resize(cols & 0xFFFF, rows & 0xFFFF, nr))

    def set_host_connected(self, nr: int, connected: bool) -> None:
        """Say whether somebody is at the host's end of a port.  Any thread."""
        self.host.post(lambda: self._host_connected(nr, connected))

    def flush(self, seconds: float) -> None:
        """Wait until all output is with the chardevs, each port at most so long.  Any thread."""
        for port in list(self.ports.values()):
            if port.output is not None:
                port.output.flush(seconds)

    # For the driver

    def config_space(self, endian: GuestEndian) -> bytes:
        """cols u16, rows u16, max_nr_ports u32, and emerg_wr u32, which always reads 0."""
        space = struct.pack(f"{endian.struct}HHI", self.cols, self.rows, self.options.max_ports)
        return space + bytes(4) if self.options.emergency_write else space

    def write_config(self, offset: int, data: bytes, endian: GuestEndian) -> None:
        """A write to emerg_wr sends its low byte to the first connected console (5.3.4)."""
        skip = max(_EMERG_WR - offset, 0)
        value = bytes(max(offset - _EMERG_WR, 0)) + data[skip:]
        if not self.options.emergency_write or not any(value[:4]):
            return
        for port in self.ports.values():
            if port.config.is_console and port.host_connected and port.output is not None:
                if port.output.space():
                    port.output.put(value[:1])
                return

    def handle_queue(self, queue: VirtQueue) -> None:
        """Output, room for input, or control messages."""
        if queue.index == CONTROL_TRANSMIT:
            self._take_control(queue)
        elif queue.index == CONTROL_RECEIVE:
            self._send_control()
        else:
            pair = queue.index // 2
            port = self.ports.get(max(pair - 1, 0))
            if queue.index % 2:
                self._transmit(queue, port)
            elif port is not None:
                self._receive(port)

    def set_status(self, value: int) -> None:
        """Also: a driver that is not ready any more has closed its ports."""
        super().set_status(value)
        if not self._driver_ok:
            self._close_ports()

    def on_driver_ok(self) -> None:
        """A driver without MULTIPORT has port 0 open from now on; others will say so."""
        self._open_single_port()

    def on_reset(self) -> None:
        """No port is open; output that did not fit yet is gone, input waits."""
        self._close_ports()
        self.backlog.clear()
        for port in self.ports.values():
            port.drop_element()

    def on_queue_reset(self, queue: VirtQueue) -> None:
        """Forget output of that queue that did not fit yet."""
        for port in self.ports.values():
            if port.transmit is queue:
                port.drop_element()

    def quiesce(self) -> None:
        """Give output back that did not fit yet; what of it is out stays known."""
        for port in self.ports.values():
            if port.element is not None:
                port.transmit.rewind([port.element])
                port.element = None

    def on_loaded(self) -> None:
        """Input of open ports is wanted again; the host's end is what it is here."""
        for port in self.ports.values():
            if port.input is not None:
                port.input.set_open(port.guest_connected)

    def resume(self) -> None:
        """Also tell the driver of ports whose host side differs from the source's."""
        super().resume()
        for port in self.ports.values():
            self._receive(port)
            chardev = port.config.chardev
            if chardev is not None and not port.config.is_console:
                self._host_connected(port.nr, chardev.peer_connected)

    def close(self) -> None:
        """Close every port and its chardev."""
        for port in self.ports.values():
            port.close()

    @property
    def _driver_ok(self) -> bool:
        return bool(self.status & Status.DRIVER_OK)

    @property
    def _multiport(self) -> bool:
        return self.has_feature(F_MULTIPORT)

    # Ports

    def _connect(self, port: Port, chardev: Chardev) -> None:
        """Consoles are always connected, serial ports while their chardev has a peer (QEMU)."""
        port.output = OutputPump(
            chardev, lambda: self.host.post(lambda: self.notify(port.transmit.index))
        )
        port.input = InputBuffer(chardev, lambda: self.host.post(lambda: self._receive(port)))
        port.host_connected = True
        if not port.config.is_console:
            chardev.set_connection_listener(
                lambda connected: self.set_host_connected(port.nr, connected)
            )
            port.host_connected = chardev.peer_connected
        chardev.set_receiver(port.input.receive)

    def _open_single_port(self) -> None:
        port = self.ports.get(0)
        if port is not None and self._driver_ok and not self._multiport:
            self._guest_connected(port, True)

    def _close_ports(self) -> None:
        self.driver_knows_ports = False
        for port in self.ports.values():
            port.guest_ready = False
            self._guest_connected(port, False)

    def _guest_connected(self, port: Port, connected: bool) -> None:
        port.guest_connected = connected
        if port.input is not None:
            port.input.set_open(connected)
            if connected:
                self._receive(port)

    def _host_connected(self, nr: int, connected: bool) -> None:
        port = self.ports.get(nr)
        if port is None or port.host_connected == connected or self.frozen:
            return
        port.host_connected = connected
        if not connected:
            self._discard(port.transmit, port)
        if port.guest_ready:
            self._tell(ControlMessage(nr, Event.PORT_OPEN, int(connected)))

    # Data

    def _transmit(self, queue: VirtQueue, port: Port | None) -> None:
        """Take output as long as the host has room; without a host side throw it away."""
        if port is None or not port.host_connected:
            self._discard(queue, port)
            return
        used = []
        while True:
            if port.element is None:
                elements = queue.pop(1)
                if not elements:
                    break
                port.element = elements[0]
            if not port.send(port.element):
                break
            used.append((port.element, 0))
            port.drop_element()
        self.push(queue, used)

    def _discard(self, queue: VirtQueue, port: Port | None) -> None:
        if port is not None and port.element is not None:
            self.push(queue, [(port.element, 0)])
            port.drop_element()
        while elements := queue.pop():
            self.push(queue, [(element, 0) for element in elements])

    def _receive(self, port: Port) -> None:
        """Give the driver what input there is, if it has the port open."""
        if self.frozen or port.input is None or not port.guest_connected:
            return
        if port.receive.enabled:
            self.push(port.receive, port.input.fill(port.receive))

    # Control messages

    def _tell(self, message: ControlMessage) -> None:
        if not self._multiport:
            return
        if not self.backlog.add(message):
            guest_error(self.name, "driver takes no control messages; one is lost")
            return
        self._send_control()

    def _send_control(self) -> None:
        queue = self.queues[CONTROL_RECEIVE]
        if len(self.backlog) and queue.enabled and not self.frozen:
            self.push(queue, self.backlog.deliver(queue, self.endian))

    def _take_control(self, queue: VirtQueue) -> None:
        while elements := queue.pop():
            for element in elements:
                message = ControlMessage.decode(element, self.endian)
                if message is None:
                    guest_error(self.name, "control message is too short")
                elif self._multiport:
                    self._control(message)
            self.push(queue, [(element, 0) for element in elements])

    def _control(self, message: ControlMessage) -> None:
        if message.event == Event.DEVICE_READY:
            self._device_ready(message.value)
            return
        port = self.ports.get(message.port)
        if port is None:
            guest_error(self.name, "control message for port %d, which is not there", message.port)
        elif message.event == Event.PORT_READY:
            self._port_ready(port, message.value)
        elif message.event == Event.PORT_OPEN:
            self._guest_connected(port, bool(message.value))
        else:
            guest_error(self.name, "control message %d is not for the device", message.event)

    def _device_ready(self, value: int) -> None:
        if not value:
            guest_error(self.name, "the driver could not set up the device")
            return
        self.driver_knows_ports = True
        for nr in self.ports:
            self._tell(ControlMessage(nr, Event.DEVICE_ADD))

    def _port_ready(self, port: Port, value: int) -> None:
        """Tell the driver what it needs to know of a port (5.3.6.2)."""
        if not value:
            guest_error(self.name, "the driver could not set up port %d", port.nr)
            return
        port.guest_ready = True
        if port.config.is_console:
            self._tell(ControlMessage(port.nr, Event.CONSOLE_PORT))
            self._tell_size(port)
        if port.name:
            self._tell(ControlMessage(port.nr, Event.PORT_NAME, name=port.name + b"\0"))
        if port.host_connected:
            self._tell(ControlMessage(port.nr, Event.PORT_OPEN))

    def _resize(self, cols: int, rows: int, nr: int) -> None:
        port = self.ports.get(nr)
        if port is None or (port.cols, port.rows) == (cols, rows):
            return
        port.cols, port.rows = cols, rows
        if nr == 0:
            self.cols, self.rows = cols, rows
            self.config_changed()
        if port.guest_ready:
            self._tell_size(port)

    def _tell_size(self, port: Port) -> None:
        if self.has_feature(F_SIZE) and port.cols and port.rows:
            sizes = (port.rows, port.cols)
            if self.options.resize_as_specified:
                sizes = (port.cols, port.rows)
            self._tell(ControlMessage(port.nr, Event.RESIZE, sizes=sizes))
