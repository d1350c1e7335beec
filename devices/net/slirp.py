"""The C interface of libslirp, by ctypes.

Facts of the public header of libslirp 4.7 (structure version 4): fields of later versions are at
the end and stay unread. Older libraries from 4.1 on get structure version 1.

The library is not thread safe; calls keep the interpreter lock (``PyDLL``), because every one is
short and most come back into Python, where taking the lock again would cost more.
"""

from __future__ import annotations

import ctypes
import re
import socket
from ctypes import (
    POINTER,
    PYFUNCTYPE,
    Structure,
    c_bool,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_uint8,
    c_uint32,
    c_void_p,
)
from typing import Any

from emu.chardev.config import ConfigError

LIBRARY = "libslirp.so.0"

POLL_IN, POLL_OUT, POLL_PRI, POLL_ERR, POLL_HUP = 1, 2, 4, 8, 16
"""Flags of the poll callbacks."""


class InAddr(Structure):
    """``struct in_addr``: four bytes in network order, aligned as an integer."""

    _fields_ = [("s_addr", c_uint32)]

    @classmethod
    def of(cls, address: int) -> InAddr:
        """From a 32-bit integer."""
        return cls(socket.htonl(address))


class In6Addr(Structure):
    """``struct in6_addr``: sixteen bytes, aligned as integers."""

    _fields_ = [("words", c_uint32 * 4)]

    @classmethod
    def of(cls, address: bytes) -> In6Addr:
        """From sixteen bytes."""
        return cls.from_buffer_copy(address)


SendPacket = PYFUNCTYPE(c_ssize_t, c_void_p, c_size_t, c_void_p)
GuestError = PYFUNCTYPE(None, c_char_p, c_void_p)
ClockGetNs = PYFUNCTYPE(c_int64, c_void_p)
TimerNew = PYFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p)
TimerFree = PYFUNCTYPE(None, c_void_p, c_void_p)
TimerMod = PYFUNCTYPE(None, c_void_p, c_int64, c_void_p)
PollFd = PYFUNCTYPE(None, c_int, c_void_p)
Notify = PYFUNCTYPE(None, c_void_p)
InitCompleted = PYFUNCTYPE(None, c_void_p, c_void_p)
TimerNewOpaque = PYFUNCTYPE(c_void_p, c_int, c_void_p, c_void_p)
AddPoll = PYFUNCTYPE(c_int, c_int, c_int, c_void_p)
GetRevents = PYFUNCTYPE(c_int, c_int, c_void_p)
TimerCallback = PYFUNCTYPE(None, c_void_p)


class SlirpCb(Structure):
    """What the library calls."""

    _fields_ = [
        ("send_packet", SendPacket),
        ("guest_error", GuestError),
        ("clock_get_ns", ClockGetNs),
        ("timer_new", TimerNew),  # function, its argument, opaque
        ("timer_free", TimerFree),
        ("timer_mod", TimerMod),  # timer, expiry in milliseconds, opaque
        ("register_poll_fd", PollFd),
        ("unregister_poll_fd", PollFd),
        ("notify", Notify),
        # version 4
        ("init_completed", InitCompleted),
        ("timer_new_opaque", TimerNewOpaque),  # timer id, its argument, opaque
    ]


class SlirpConfig(Structure):
    """How a network is set up."""

    _fields_ = [
        ("version", c_uint32),
        ("restricted", c_int),
        ("in_enabled", c_bool),
        ("vnetwork", InAddr),
        ("vnetmask", InAddr),
        ("vhost", InAddr),
        ("in6_enabled", c_bool),
        ("vprefix_addr6", In6Addr),
        ("vprefix_len", c_uint8),
        ("vhost6", In6Addr),
        ("vhostname", c_char_p),
        ("tftp_server_name", c_char_p),
        ("tftp_path", c_char_p),
        ("bootfile", c_char_p),
        ("vdhcp_start", InAddr),
        ("vnameserver", InAddr),
        ("vnameserver6", In6Addr),
        ("vdnssearch", POINTER(c_char_p)),
        ("vdomainname", c_char_p),
        ("if_mtu", c_size_t),  # 0: 1500
        ("if_mru", c_size_t),
        ("disable_host_loopback", c_bool),
        ("enable_emu", c_bool),
        # version 2
        ("outbound_addr", c_void_p),
        ("outbound_addr6", c_void_p),
        # version 3
        ("disable_dns", c_bool),
        # version 4
        ("disable_dhcp", c_bool),
    ]


class Library:
    """The loaded library; ConfigError if it is missing or too old."""

    def __init__(self, path: str = LIBRARY) -> None:
        try:
            lib = ctypes.PyDLL(path)
        except OSError:
            raise ConfigError(
                f"network backend 'user' needs {LIBRARY} (Debian package libslirp0)"
            ) from None
        self.version = _version(_function(lib, "slirp_version_string", c_char_p)())
        if self.version < (4, 1):
            raise ConfigError(f"libslirp {'.'.join(map(str, self.version))} is too old (4.1)")
        #: Timers by number rather than by function, and version 4 of the structures.
        self.numbered_timers = self.version >= (4, 7)
        slirp, int_ = c_void_p, c_int
        self.new = _function(lib, "slirp_new", slirp, c_void_p, c_void_p, c_void_p)
        self.cleanup = _function(lib, "slirp_cleanup", None, slirp)
        self.input = _function(lib, "slirp_input", None, slirp, c_char_p, int_)
        self.pollfds_fill = _function(
            lib, "slirp_pollfds_fill", None, slirp, POINTER(c_uint32), AddPoll, c_void_p
        )
        self.pollfds_poll = _function(
            lib, "slirp_pollfds_poll", None, slirp, int_, GetRevents, c_void_p
        )
        self.add_hostfwd = _function(
            lib, "slirp_add_hostfwd", int_, slirp, int_, InAddr, int_, InAddr, int_
        )
        self.remove_hostfwd = _function(
            lib, "slirp_remove_hostfwd", int_, slirp, int_, InAddr, int_
        )
        if self.numbered_timers:
            self.handle_timer = _function(lib, "slirp_handle_timer", None, slirp, int_, c_void_p)


def _function(lib: ctypes.PyDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(lib, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def _version(text: bytes) -> tuple[int, ...]:
    """(4, 7, 0) of b"4.7.0" or b"4.7.0-dirty"."""
    return tuple(int(number) for number in re.findall(r"\d+", text.decode("ascii", "replace"))[:3])
