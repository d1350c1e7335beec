"""The host side of a network device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from emu.events import EventLoop

Receiver = Callable[[list[bytes]], None]
"""Takes a batch of frames from the network; any thread; must not block."""

MAX_FRAME = 65536 + 4096
"""Longest frame in bytes: 64 KiB of payload and headers, as QEMU's buffers."""

VNET_HEADER = 10
"""Bytes of the virtio_net_hdr before each frame where ``vnet_header`` is set, host byte order."""


class NetBackend(ABC):
    """One connection to a network of the host.

    A frame is an Ethernet frame without preamble and check sequence. Threads: :meth:`send` on the
    vCPU thread only, the rest on any. Frames that come while no receiver is set, or while the link
    is down, are dropped.
    """

    #: Frames carry a virtio_net_hdr of VNET_HEADER bytes, in both directions.
    vnet_header: bool = False
    #: Takes a TCP segment of up to 64 KiB whole, whatever the MTU.
    large_tcp: ClassVar[bool] = False
    #: Checksums of the frames it delivers are right: nobody need verify them.
    checksums_valid: ClassVar[bool] = False

    def __init__(self, name: str, loop: EventLoop) -> None:
        self.name = name
        self.loop = loop
        self.link_up = True
        self.closed = False
        self._receiver: Receiver | None = None

    @abstractmethod
    def send(self, frames: Sequence[bytes]) -> None:
        """Send the guest's frames; never blocks, drops what the host does not take soon."""

    def set_receiver(self, receiver: Receiver | None) -> None:
        """Choose who gets the frames."""
        self._receiver = receiver

    def set_link(self, up: bool) -> None:
        """Pull the cable or put it back (QEMU's `set_link`)."""
        self.link_up = up

    def set_offload(self, *, csum: bool, tso4: bool, tso6: bool, ecn: bool, ufo: bool) -> None:  # noqa: B027
        """Which incomplete frames the guest takes; for back ends with ``vnet_header``."""

    def pause(self) -> None:  # noqa: B027 (optional)
        """Stop reading: the receiver has no room. Frames already read still come."""

    def resume(self) -> None:  # noqa: B027 (optional)
        """Read again."""

    def close(self) -> None:
        """Give back host resources; no frame comes afterwards. Idempotent."""
        self.closed = True
        self._receiver = None

    def deliver(self, frames: list[bytes]) -> None:
        """Hand a batch to the receiver."""
        receiver = self._receiver
        if frames and receiver is not None and self.link_up:
            receiver(frames)
