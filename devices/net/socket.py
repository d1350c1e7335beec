"""From the configuration of a socket back end to the open one."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any

from devices.net.addresses import parse_host_port
from devices.net.base import NetBackend
from devices.net.config import DgramNetConfig, SocketAddress, SocketNetConfig, StreamNetConfig
from devices.net.dgram import DatagramBackend
from devices.net.stream import StreamBackend
from emu.chardev.config import ConfigError
from emu.events import EventLoop

_CONNECT_TIMEOUT = 5.0  # seconds


def open_socket(
    config: SocketNetConfig | StreamNetConfig | DgramNetConfig, loop: EventLoop
) -> NetBackend:
    """Open the sockets; ConfigError, one line, if the host refuses."""
    match config:
        case StreamNetConfig():
            return _open_stream(config, loop)
        case DgramNetConfig():
            return _open_dgram(config, loop)
        case SocketNetConfig():
            return _open_legacy(config, loop)


def _inet(text: str) -> SocketAddress:
    host, port = parse_host_port(text)
    return SocketAddress(type="inet", host=host, port=port)


def _open_legacy(config: SocketNetConfig, loop: EventLoop) -> NetBackend:
    name = config.id
    if config.listen is not None:
        address = _inet(config.listen)
        return StreamBackend(name, loop, listener=_listen(address))
    if config.connect is not None:
        address = _inet(config.connect)
        return StreamBackend(name, loop, connect=functools.partial(_connect, address))
    if config.mcast is not None:
        return _open_multicast(name, loop, _inet(config.mcast), config.localaddr or "")
    if config.udp is not None and config.localaddr is not None:
        local, remote = _inet(config.localaddr), _inet(config.udp)
        sock = _bind_udp(local)
        return DatagramBackend(name, loop, sock, _resolve(remote, socket.SOCK_DGRAM)[1])
    return _open_fd(name, loop, config.fd if config.fd is not None else -1)


def _open_stream(config: StreamNetConfig, loop: EventLoop) -> NetBackend:
    address = config.addr
    if address.type == "fd":
        return _open_fd(config.id, loop, address.fd, server=config.server)
    if config.server:
        return StreamBackend(
            config.id, loop, listener=_listen(address), on_close=_unlinker(address)
        )
    connect = functools.partial(_connect, address)
    return StreamBackend(config.id, loop, connect=connect, reconnect=config.reconnect)


def _open_dgram(config: DgramNetConfig, loop: EventLoop) -> NetBackend:
    name, local, remote = config.id, config.local, config.remote
    if config.multicast and remote is not None:
        return _open_multicast(name, loop, remote, local.host if local is not None else "")
    assert local is not None  # checked by the configuration
    if local.type == "fd" or remote is None:
        return _open_fd(name, loop, local.fd)
    if local.type == "unix":
        sock = _bind_unix(local.path, socket.SOCK_DGRAM)
        return DatagramBackend(name, loop, sock, remote.path, _unlinker(local))
    sock = _bind_udp(local)
    return DatagramBackend(name, loop, sock, _resolve(remote, socket.SOCK_DGRAM)[1])


def _open_fd(name: str, loop: EventLoop, fd: int, server: bool = False) -> NetBackend:
    """A socket that the parent process has opened; it is ours from here on."""
    try:
        sock = socket.socket(fileno=fd)
        kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{name}: Can't use file descriptor {fd}: {reason}") from None
    if kind == socket.SOCK_DGRAM:
        return DatagramBackend(name, loop, sock)
    if kind != socket.SOCK_STREAM:
        raise ConfigError(f"{name}: file descriptor {fd} is not a stream or datagram socket")
    if server or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return StreamBackend(name, loop, listener=sock)
    return StreamBackend(name, loop, connected=sock)


def _resolve(address: SocketAddress, kind: int, passive: bool = False) -> tuple[int, Any]:
    """Address family and address of a host and port; ConfigError if the name is not known."""
    flags = socket.AI_PASSIVE if passive else 0
    family = socket.AF_UNSPEC if address.host else socket.AF_INET
    try:
        found = socket.getaddrinfo(address.host or None, address.port, family, kind, 0, flags)
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a name
        reason = error.strerror if isinstance(error, OSError) else "Name or service not known"
        raise ConfigError(
            f"address resolution failed for {address.host}:{address.port}: {reason}"
        ) from None
    return found[0][0], found[0][4]


def _connect(address: SocketAddress) -> socket.socket:
    if address.type == "unix":
        family, target = int(socket.AF_UNIX), address.path
    else:
        family, target = _resolve(address, socket.SOCK_STREAM)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(_CONNECT_TIMEOUT)
        sock.connect(target)
    except OSError as error:
        sock.close()
        raise ConfigError(f"Failed to connect to '{address}': {error.strerror or error}") from None
    return sock


def _listen(address: SocketAddress) -> socket.socket:
    if address.type == "unix":
        sock = _bind_unix(address.path, socket.SOCK_STREAM)
    else:
        family, target = _resolve(address, socket.SOCK_STREAM, passive=True)
        sock = _bind(address, family, socket.SOCK_STREAM, target)
    sock.listen(1)
    return sock


def _bind_udp(address: SocketAddress) -> socket.socket:
    family, target = _resolve(address, socket.SOCK_DGRAM, passive=True)
    return _bind(address, family, socket.SOCK_DGRAM, target)


def _bind_unix(path: str, kind: int) -> socket.socket:
    # A name left behind by a process that ended is replaced; any other file is not.
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    return _bind(SocketAddress(type="unix", path=path), socket.AF_UNIX, kind, path)


def _bind(address: SocketAddress, family: int, kind: int, target: Any) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
    except OSError as error:
        sock.close()
        raise ConfigError(f"can't bind '{address}' to socket: {error.strerror or error}") from None
    return sock


def _open_multicast(name: str, loop: EventLoop, group: SocketAddress, interface: str) -> NetBackend:
    """Join a group; every emulator of this host hears the others, and itself."""
    target = _resolve(group, socket.SOCK_DGRAM)[1]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        local = socket.inet_aton(interface) if interface else b"\0\0\0\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
        membership = struct.pack("4s4s", socket.inet_aton(target[0]), local)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        if interface:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"can't join multicast group {group.host}:{group.port}: {error.strerror or error}"
        ) from None
    return DatagramBackend(name, loop, sock, target)


def _unlinker(address: SocketAddress) -> Callable[[], None]:
    def unlink() -> None:
        if address.type == "unix":
            with contextlib.suppress(OSError):
                os.unlink(address.path)

    return unlink
