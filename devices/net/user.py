"""User-mode network: libslirp answers ARP, DHCP, DNS, pings, and opens sockets of the host.

What the guest sends is worked on at once, on the vCPU thread, so that answers which need nothing
from outside are there when its notification returns. A thread of our own waits for the sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import threading
import time
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_uint32
from typing import Any

from devices.net import slirp
from devices.net.addresses import HostForward
from devices.net.base import MAX_FRAME, NetBackend
from devices.net.config import UserNetConfig
from emu.chardev.config import ConfigError
from emu.events import EventLoop, Waker
from emu.log import guest_error

_log = logging.getLogger(__name__)

_TO_POLL = (
    (slirp.POLL_IN, select.POLLIN),
    (slirp.POLL_OUT, select.POLLOUT),
    (slirp.POLL_PRI, select.POLLPRI),
    (slirp.POLL_ERR, select.POLLERR),
    (slirp.POLL_HUP, select.POLLHUP),
)
_POLL_MASK = {events: sum(mask for flag, mask in _TO_POLL if events & flag) for events in range(32)}
_FOREVER = 0xFFFFFFFF


class _Timer:
    """A timer of the library; ``expiry`` in milliseconds of its clock, None: not set."""

    def __init__(self, number: int, function: int, argument: int | None) -> None:
        self.number = number
        self.function = function
        self.argument = argument
        self.expiry: int | None = None


class UserBackend(NetBackend):
    """A network of one guest behind NAT (`-netdev user`).

    ConfigError if libslirp is missing, a forwarding rule cannot be set up, or `tftp` is no
    directory.
    """

    large_tcp = True
    checksums_valid = True

    def __init__(self, config: UserNetConfig, loop: EventLoop) -> None:
        super().__init__(config.id, loop)
        if config.tftp is not None and not os.path.isdir(config.tftp):
            raise ConfigError(f"could not serve '{config.tftp}' by TFTP: not a directory")
        self._lock = threading.Lock()  # around every call of the library
        self._library = slirp.Library()
        self._output: list[bytes] = []  # frames for the guest, of the call in progress
        self._watched: list[tuple[int, int]] = []  # descriptor and POLL_ flags, by index
        self._filling: list[tuple[int, int]] = []
        self._generation = 0  # of _watched
        self._revents: dict[int, int] = {}
        self._timers: dict[int, _Timer] = {}
        self._paused = False
        self._waker = Waker()
        self._callbacks = self._make_callbacks()
        self._add_poll = slirp.AddPoll(self._on_add_poll)
        self._get_revents = slirp.GetRevents(self._on_get_revents)
        self._config, self._kept = _structure(config, self._library)
        self._slirp = self._library.new(byref(self._config), byref(self._callbacks), None)
        if not self._slirp:
            raise ConfigError("libslirp does not accept the network's configuration")
        # Sets the library's idea of now, without which the first sockets are long expired.
        self._poll({})
        try:
            for rule, forward in zip(config.hostfwd, config.host_forwards(), strict=True):
                self._forward(rule, forward)
        except BaseException:
            self._library.cleanup(self._slirp)
            self._waker.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"net-{self.name}", daemon=True)
        self._thread.start()

    def _forward(self, rule: str, forward: HostForward) -> None:
        host, guest = slirp.InAddr.of(forward.host), slirp.InAddr.of(forward.guest)
        if self._library.add_hostfwd(
            self._slirp, int(forward.udp), host, forward.host_port, guest, forward.guest_port
        ):
            raise ConfigError(f"Could not set up host forwarding rule '{rule}'")

    # What the device calls

    def send(self, frames: Sequence[bytes]) -> None:
        """Work on the guest's frames; answers are delivered before this returns."""
        if not self.link_up:
            return
        with self._lock:
            if self.closed:
                return
            for frame in frames:
                if len(frame) <= MAX_FRAME:
                    self._library.input(self._slirp, frame, len(frame))
                    if _tells_neighbour(frame):
                        self._poll({})  # sends what waited for the guest's address
            if self._fill()[0]:
                self._waker.set()  # the thread waits for the wrong things
            output = self._take_output()
        self.deliver(output)

    def pause(self) -> None:
        """Leave what the sockets have in the host's buffers."""
        self._paused = True
        self._waker.set()

    def resume(self) -> None:
        """Read the sockets again."""
        self._paused = False
        self._waker.set()

    def close(self) -> None:
        """Close every connection and end the thread."""
        if self.closed:
            return
        super().close()
        self._waker.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._lock:
            self._library.cleanup(self._slirp)
            self._slirp = None
        self._waker.close()

    # The thread

    def _run(self) -> None:
        while not self.closed:
            with self._lock:
                _, timeout = self._fill()
                watched, generation = self._watched, self._generation
                if self._paused:
                    watched = []
            ready = self._wait(watched, timeout)
            with self._lock:
                if self.closed:
                    return
                # After a change the indices mean other sockets; what is ready will still be.
                self._poll(ready if generation == self._generation else {})
                self._run_timers()
                output = self._take_output()
            self.deliver(output)

    def _wait(self, watched: list[tuple[int, int]], timeout: int) -> dict[int, int]:
        """Poll flags of the descriptors that are ready, after at most that many milliseconds."""
        poller = select.poll()
        for fd, events in watched:
            poller.register(fd, _POLL_MASK[events & 31])
        poller.register(self._waker.fileno(), select.POLLIN)
        ready = dict(poller.poll(timeout))
        if ready.pop(self._waker.fileno(), 0):
            self._waker.clear()
        return ready

    def _fill(self) -> tuple[bool, int]:
        """Ask what to wait for: whether that changed, and for how long (milliseconds)."""
        self._filling = []
        timeout = c_uint32(_FOREVER)
        self._library.pollfds_fill(self._slirp, byref(timeout), self._add_poll, None)
        changed = self._filling != self._watched
        if changed:
            self._watched = self._filling
            self._generation += 1
        return changed, min(timeout.value, self._timer_timeout())

    def _poll(self, ready: dict[int, int]) -> None:
        """Let the library work on descriptors that are ready."""
        self._revents = ready
        self._library.pollfds_poll(self._slirp, 0, self._get_revents, None)

    def _take_output(self) -> list[bytes]:
        output, self._output = self._output, []
        return output

    # Timers

    def _timer_timeout(self) -> int:
        expiries = [timer.expiry for timer in self._timers.values() if timer.expiry is not None]
        if not expiries:
            return _FOREVER
        return max(0, min(expiries) - time.monotonic_ns() // 1_000_000)

    def _run_timers(self) -> None:
        now = time.monotonic_ns() // 1_000_000
        for timer in list(self._timers.values()):
            if timer.expiry is None or timer.expiry > now:
                continue
            timer.expiry = None
            if self._library.numbered_timers:
                self._library.handle_timer(self._slirp, timer.number, timer.argument)
            else:
                slirp.TimerCallback(timer.function)(timer.argument)

    # What the library calls, under the lock

    def _make_callbacks(self) -> slirp.SlirpCb:
        return slirp.SlirpCb(
            send_packet=slirp.SendPacket(self._on_send_packet),
            guest_error=slirp.GuestError(self._on_guest_error),
            clock_get_ns=slirp.ClockGetNs(lambda _: time.monotonic_ns()),
            timer_new=slirp.TimerNew(lambda function, arg, _: self._on_timer_new(0, function, arg)),
            timer_free=slirp.TimerFree(lambda timer, _: self._on_timer_free(timer)),
            timer_mod=slirp.TimerMod(self._on_timer_mod),
            register_poll_fd=slirp.PollFd(lambda fd, _: None),
            unregister_poll_fd=slirp.PollFd(lambda fd, _: None),
            notify=slirp.Notify(lambda _: None),
            init_completed=slirp.InitCompleted(lambda instance, _: None),
            timer_new_opaque=slirp.TimerNewOpaque(
                lambda number, arg, _: self._on_timer_new(number, 0, arg)
            ),
        )

    def _on_send_packet(self, address: int, size: int, _: Any) -> int:
        self._output.append(ctypes.string_at(address, size))
        return size

    def _on_guest_error(self, message: bytes, _: Any) -> None:
        guest_error(self.name, "%s", message.decode("utf-8", "replace").strip())

    def _on_timer_new(self, number: int, function: int, argument: int | None) -> int:
        handle = max(self._timers, default=0) + 1
        self._timers[handle] = _Timer(number, function, argument)
        return handle

    def _on_timer_free(self, handle: int) -> None:
        self._timers.pop(handle, None)

    def _on_timer_mod(self, handle: int, expiry: int, _: Any) -> None:
        with contextlib.suppress(KeyError):
            self._timers[handle].expiry = expiry

    def _on_add_poll(self, fd: int, events: int, _: Any) -> int:
        self._filling.append((fd, events))
        return len(self._filling) - 1

    def _on_get_revents(self, index: int, _: Any) -> int:
        if not 0 <= index < len(self._watched):
            return 0
        ready = self._revents.get(self._watched[index][0], 0)
        return sum(flag for flag, mask in _TO_POLL if ready & mask) if ready else 0


def _tells_neighbour(frame: bytes) -> bool:
    """Whether a frame is ARP or ICMPv6, by which the library learns the guest's addresses."""
    kind = frame[12:14]
    return kind == b"\x08\x06" or (kind == b"\x86\xdd" and frame[20:21] == b"\x3a")


def _structure(
    config: UserNetConfig, library: slirp.Library
) -> tuple[slirp.SlirpConfig, list[object]]:
    """The library's configuration, and what must live as long as it."""

    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    ipv4, ipv6 = config.ipv4_addresses(), config.ipv6_addresses()
    search = (c_char_p * (len(config.dnssearch) + 1))(
        *(os.fsencode(name) for name in config.dnssearch), None
    )
    structure = slirp.SlirpConfig(
        version=4 if library.numbered_timers else 1,
        restricted=int(config.restrict),
        in_enabled=config.ipv4,
        vnetwork=slirp.InAddr.of(ipv4.network),
        vnetmask=slirp.InAddr.of(ipv4.mask),
        vhost=slirp.InAddr.of(ipv4.host),
        in6_enabled=config.ipv6,
        vprefix_addr6=slirp.In6Addr.of(ipv6.prefix),
        vprefix_len=ipv6.prefix_length,
        vhost6=slirp.In6Addr.of(ipv6.host),
        vhostname=text(config.hostname),
        tftp_server_name=text(config.tftp_server_name),
        tftp_path=text(config.tftp),
        bootfile=text(config.bootfile),
        vdhcp_start=slirp.InAddr.of(ipv4.dhcp_start),
        vnameserver=slirp.InAddr.of(ipv4.dns),
        vnameserver6=slirp.In6Addr.of(ipv6.dns),
        vdomainname=text(config.domainname),
    )
    if config.dnssearch:
        structure.vdnssearch = ctypes.cast(search, ctypes.POINTER(c_char_p))
    return structure, [search]
