"""One port of a virtio console, and where it may be plugged in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from devices.virtio.console_host import InputBuffer, OutputPump
from devices.virtio.queue import Element, VirtQueue
from emu.chardev.base import Chardev
from emu.chardev.config import ConfigError

MAX_NAME = 255


@dataclass(frozen=True, kw_only=True)
class PortConfig:
    """Properties of virtconsole (``is_console``) and virtserialport.

    ``nr`` None: the first free one.  Without ``chardev`` output is thrown away.
    """

    nr: int | None = None
    name: str = ""
    is_console: bool = False
    chardev: Chardev | None = None

    def __post_init__(self) -> None:
        if len(os.fsencode(self.name)) > MAX_NAME:
            raise ConfigError(f"virtserialport name is longer than {MAX_NAME} bytes")
        if "\0" in self.name:
            raise ConfigError("virtserialport name contains a NUL")


class Port:
    """A port as the driver sees it.  vCPU thread."""

    def __init__(
        self, nr: int, config: PortConfig, receive: VirtQueue, transmit: VirtQueue
    ) -> None:
        self.nr = nr
        self.config = config
        self.receive = receive
        self.transmit = transmit
        self.guest_ready = False  # the driver knows it (PORT_READY)
        self.guest_connected = False  # somebody in the guest has it open
        self.host_connected = False
        self.cols = self.rows = 0  # of its terminal; 0: not known
        self.element: Element | None = None  # output that did not fit yet
        self.offset = 0  # bytes of it that are out
        self.output: OutputPump | None = None
        self.input: InputBuffer | None = None

    @property
    def name(self) -> bytes:
        """Its name, as the driver gets it."""
        return os.fsencode(self.config.name)

    def drop_element(self) -> None:
        """Forget output that did not fit yet."""
        self.element = None
        self.offset = 0

    def send(self, element: Element) -> bool:
        """Copy a buffer to the host from ``offset`` on; False if not all of it fitted."""
        if self.output is None:
            return True
        for view in element.readable_views(self.offset):
            while view:
                space = self.output.space()
                if not space:
                    return False
                self.output.put(view[:space])
                self.offset += min(space, len(view))
                view = view[space:]
        return True

    def close(self) -> None:
        """Give back the host's resources."""
        chardev = self.config.chardev
        if chardev is None:
            return
        chardev.set_receiver(None)
        chardev.set_connection_listener(None)
        if self.output is not None:
            self.output.close()


def choose_number(ports: Mapping[int, Port], config: PortConfig, max_ports: int) -> int:
    """The number of a new port; ConfigError if there is no place for it, or its name is taken.

    Port 0 is for consoles only: that is where drivers without MULTIPORT look for one.
    """
    if config.name and any(port.config.name == config.name for port in ports.values()):
        raise ConfigError(f"a port already exists by name {config.name}")
    nr = config.nr
    if nr is None:
        first = 0 if config.is_console else 1
        nr = next((free for free in range(first, max_ports) if free not in ports), None)
        if nr is None:
            raise ConfigError("maximum port limit for this device reached")
    if nr in ports:
        raise ConfigError(f"a port already exists at id {nr}")
    if not 0 <= nr < max_ports:
        raise ConfigError(f"out-of-range port id specified, max. allowed: {max_ports - 1}")
    if nr == 0 and not config.is_console:
        raise ConfigError(
            "port number 0 on virtio-serial devices reserved for virtconsole devices "
            "for backward compatibility"
        )
    return nr
