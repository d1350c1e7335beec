"""Character device backends as the command line writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from emu.config import (
    KIB,
    ChardevConfig,
    ConfigError,
    FileConfig,
    MemoryConfig,
    NullConfig,
    PipeConfig,
    PtyConfig,
    SocketConfig,
    StdioConfig,
)
from emu.options.syntax import (
    check_identifier,
    parse_bool,
    parse_keyvals,
    parse_number,
    parse_size,
)

_RINGBUF_SIZE = 64 * KIB

#: Properties that change nothing here.
_IGNORED_SOCKET = ("ipv4", "ipv6", "nodelay", "delay")
_SOCKET = ("server", "wait", "reconnect", "telnet", "websocket", *_IGNORED_SOCKET)

_Keyvals = dict[str, str]


@dataclass(frozen=True)
class Backend:
    """A kind of backend: its properties for the help, their names, and what makes it."""

    form: str
    properties: tuple[str, ...]
    make: Callable[[_Keyvals], ChardevConfig]


def _stdio(given: _Keyvals) -> ChardevConfig:
    return StdioConfig(signal=parse_bool("signal", given.get("signal", "on")))


def _file(given: _Keyvals) -> ChardevConfig:
    if not given.get("path"):
        raise ConfigError("chardev: file: no filename given")
    return FileConfig(path=given["path"], append=parse_bool("append", given.get("append", "off")))


def _pipe(given: _Keyvals) -> ChardevConfig:
    if not given.get("path"):
        raise ConfigError("chardev: pipe: no device path given")
    return PipeConfig(path=given["path"])


def _ringbuf(given: _Keyvals) -> ChardevConfig:
    size = parse_size("size", given["size"]) if "size" in given else _RINGBUF_SIZE
    if size == 0 or size & (size - 1):
        raise ConfigError("size of ringbuf chardev must be power of two")
    return MemoryConfig(size=size)


def _socket(given: _Keyvals) -> ChardevConfig:
    for key in ("telnet", "websocket"):
        if parse_bool(key, given.get(key, "off")):
            raise ConfigError(f"{key} is not supported")
    server = parse_bool("server", given.get("server", "off"))
    if "wait" in given and not server:
        raise ConfigError("'wait' option is incompatible with socket in client connect mode")
    common = SocketConfig(
        path="-",
        server=server,
        wait=server and parse_bool("wait", given.get("wait", "on")),
        reconnect=parse_number("reconnect", given.get("reconnect", "0")),
    )
    if ("path" in given) == ("port" in given):
        raise ConfigError("chardev: socket: either a path or a port is needed")
    if "path" in given:
        return replace(common, path=given["path"])
    host, port = given.get("host", ""), _port(given["port"])
    return replace(common, path=None, host=host, port=port)


def _port(text: str) -> int:
    port = parse_number("port", text)
    if port > 65535:
        raise ConfigError(f"port {text} is out of range")
    return port


BACKENDS: Mapping[str, Backend] = {
    "null": Backend("", (), lambda given: NullConfig()),
    "stdio": Backend("[,signal=on|off]", ("signal",), _stdio),
    "file": Backend(",path=path[,append=on|off]", ("path", "append"), _file),
    "pipe": Backend(",path=path", ("path",), _pipe),
    "pty": Backend("", (), lambda given: PtyConfig()),
    "socket": Backend(
        ",path=path | [,host=host],port=port [,server=on|off][,wait=on|off][,reconnect=seconds]",
        ("path", "host", "port", *_SOCKET),
        _socket,
    ),
    "ringbuf": Backend("[,size=size]", ("size",), _ringbuf),
}


def chardev_from_keyvals(given: _Keyvals) -> ChardevConfig:
    """Return the backend of a -chardev, whose keys include "backend"."""
    rest = dict(given)
    kind = rest.pop("backend", "")
    if "id" not in rest:
        raise ConfigError("chardev: no id specified")
    label = check_identifier(rest.pop("id"))
    if kind not in BACKENDS:
        raise ConfigError(f"'{kind}' is not a valid char driver name (use -chardev help)")
    mux = parse_bool("mux", rest.pop("mux", "off"))
    backend = BACKENDS[kind]
    rest = _without_no(rest, backend.properties)
    for key in rest:
        if key not in backend.properties:
            raise ConfigError(f"Invalid parameter '{key}'")
    return replace(backend.make(rest), id=label, mux=mux)


def _without_no(given: _Keyvals, known: tuple[str, ...]) -> _Keyvals:
    """Undo the old short form of off: "nowait" for wait=off."""
    result: _Keyvals = {}
    for key, value in given.items():
        if key not in known and key.startswith("no") and key[2:] in known:
            result[key[2:]] = "off"
        else:
            result[key] = value
    return result


def serial_from_text(text: str) -> ChardevConfig:
    """Return the backend that -serial's short form means ("mon:stdio", "tcp:HOST:PORT,...")."""
    if text.startswith("mon:"):
        backend = replace(serial_from_text(text.removeprefix("mon:")), mux=True)
        # Ctrl-C is for the guest then, as in QEMU.
        return replace(backend, signal=False) if isinstance(backend, StdioConfig) else backend
    kind, colon, rest = text.partition(":")
    if not colon and kind in ("null", "stdio", "pty", "ringbuf"):
        return BACKENDS[kind].make({})
    if colon and kind == "file":
        return _file({"path": rest})
    if colon and kind == "pipe":
        return _pipe({"path": rest})
    if colon and kind == "unix":
        return _socket(parse_keyvals(rest, implied="path", known=("path", *_SOCKET)))
    if colon and kind == "tcp":
        return _socket(_tcp(rest))
    raise ConfigError(f"'{text}' is not a valid char driver")


def _tcp(text: str) -> _Keyvals:
    match = re.fullmatch(r"(\[[^]]*\]|[^:,]*):(\d+)((?:,.*)?)", text)
    if not match:
        raise ConfigError("expected tcp:HOST:PORT")
    host, port, options = match.groups()
    given = parse_keyvals(options[1:], known=_SOCKET)
    return {**given, "host": host.strip("[]"), "port": port}
