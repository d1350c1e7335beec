"""An interface of the host's kernel (tun/tap)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Sequence

from devices.net.base import MAX_FRAME, VNET_HEADER, NetBackend
from devices.net.config import TapConfig
from emu.chardev.config import ConfigError
from emu.events import EventLoop

_DEVICE = "/dev/net/tun"
_BATCH = 64  # frames read before others get their turn

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNGETFEATURES = 0x800454CF
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN, _TUN_F_UFO = 1, 2, 4, 8, 16

_IFREQ = struct.Struct("16sH22x")


class TapBackend(NetBackend):
    """A tap interface; ConfigError without permission or when it cannot be set up.

    With ``vnet_header`` the kernel completes checksums and cuts large segments.
    """

    def __init__(self, config: TapConfig, loop: EventLoop) -> None:
        super().__init__(config.id, loop)
        self._lock = threading.Lock()
        if config.fd is not None:
            self._fd, self.ifname, self.vnet_header = _adopt(config.fd)
        else:
            self._fd, self.ifname, self.vnet_header = _open(config)
        os.set_blocking(self._fd, False)
        if self.vnet_header:
            fcntl.ioctl(self._fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER))
        loop.add_reader(self._fd, self._readable)

    def send(self, frames: Sequence[bytes]) -> None:
        """Write the frames; those for which the interface has no room are lost."""
        with self._lock:
            if self._fd < 0 or not self.link_up:
                return
            for frame in frames:
                with contextlib.suppress(OSError):
                    os.write(self._fd, frame)

    def set_offload(self, *, csum: bool, tso4: bool, tso6: bool, ecn: bool, ufo: bool) -> None:
        """Which incomplete frames the kernel may hand to the guest."""
        flags = _TUN_F_CSUM if csum else 0
        for wanted, flag in ((tso4, _TUN_F_TSO4), (tso6, _TUN_F_TSO6), (ufo, _TUN_F_UFO)):
            flags |= flag if wanted and csum else 0
        if ecn and (tso4 or tso6) and csum:
            flags |= _TUN_F_TSO_ECN
        with self._lock:
            if self._fd < 0 or not self.vnet_header:
                return
            for attempt in (flags, flags & ~_TUN_F_UFO):  # newer kernels have no UFO
                with contextlib.suppress(OSError):
                    fcntl.ioctl(self._fd, _TUNSETOFFLOAD, attempt)
                    return

    def _readable(self) -> None:
        frames: list[bytes] = []
        with self._lock, contextlib.suppress(OSError):  # nothing more, or the interface is down
            while self._fd >= 0 and len(frames) < _BATCH:
                frames.append(os.read(self._fd, MAX_FRAME + VNET_HEADER))
        self.deliver(frames)

    def pause(self) -> None:
        """Leave frames in the interface's queue, which drops them when it is full."""
        with self._lock:
            if self._fd >= 0:
                self.loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
        with self._lock:
            if self._fd >= 0:
                self.loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Close the interface."""
        if self.closed:
            return
        super().close()
        with self._lock:
            fd, self._fd = self._fd, -1
        self.loop.close_fd(fd)


def _open(config: TapConfig) -> tuple[int, str, bool]:
    """Descriptor, interface name, and whether frames have headers."""
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"could not open {_DEVICE}: {error.strerror}") from None
    try:
        flags = _IFF_TAP | _IFF_NO_PI
        (features,) = struct.unpack("I", fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4)))
        if config.vnet_hdr and not features & _IFF_VNET_HDR:
            raise ConfigError("vnet_hdr=1 requested, but no kernel support for IFF_VNET_HDR")
        if config.vnet_hdr is not False:
            flags |= features & _IFF_VNET_HDR
        request = _IFREQ.pack(os.fsencode(config.ifname), flags)
        name, _ = _IFREQ.unpack(fcntl.ioctl(fd, _TUNSETIFF, request))
    except OSError as error:
        os.close(fd)
        raise ConfigError(
            f"could not configure {_DEVICE} ({config.ifname or 'tap%d'}): {error.strerror}"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd, os.fsdecode(name.rstrip(b"\0")), bool(flags & _IFF_VNET_HDR)


def _adopt(fd: int) -> tuple[int, str, bool]:
    """The same of a descriptor that the parent process has opened."""
    try:
        name, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    except OSError as error:
        raise ConfigError(f"Can't use file descriptor {fd}: {error.strerror}") from None
    return fd, os.fsdecode(name.rstrip(b"\0")), bool(flags & _IFF_VNET_HDR)
