"""What each character device backend can be told, as frozen dataclasses.

The module also holds `ConfigError`, because nothing lies below it; `emu.config` exports both.
"""

from __future__ import annotations

from dataclasses import dataclass


class ConfigError(Exception):
    """A configuration the emulator cannot run; the message is one line, meant for the user.

    `field` names what is wrong in `MachineConfig` ("ram_size", "devices[1]"), if one thing is.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, kw_only=True)
class ChardevConfig:
    """What every character device has; the subclasses are the backends.

    `id` is the label users see; `mux` puts QEMU's Ctrl-A escapes between the backend and the guest.
    """

    id: str = ""
    mux: bool = False


@dataclass(frozen=True, kw_only=True)
class NullConfig(ChardevConfig):
    """Output is thrown away and there is no input."""


@dataclass(frozen=True, kw_only=True)
class StdioConfig(ChardevConfig):
    """The process's standard input and output; `signal`: Ctrl-C ends the emulator."""

    signal: bool = True


@dataclass(frozen=True, kw_only=True)
class FileConfig(ChardevConfig):
    """Output goes to a file, truncated first unless `append`; there is no input."""

    path: str
    append: bool = False


@dataclass(frozen=True, kw_only=True)
class PipeConfig(ChardevConfig):
    """Two named pipes, `path`.in and `path`.out, or one file for both directions."""

    path: str


@dataclass(frozen=True, kw_only=True)
class PtyConfig(ChardevConfig):
    """A new pseudo terminal, whose name is printed."""


@dataclass(frozen=True, kw_only=True)
class SocketConfig(ChardevConfig):
    """A unix socket (`path`) or a TCP socket (`host` and `port`).

    `wait`: a server waits for its first client before the machine starts.
    `reconnect`: seconds between a client's attempts; 0: connect once, at start, or fail.
    """

    path: str | None = None
    host: str = ""
    port: int = 0
    server: bool = False
    wait: bool = False
    reconnect: float = 0.0

    def __post_init__(self) -> None:
        if self.path == "":
            raise ConfigError("socket path is empty")
        if self.path is None and not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is out of range")
        if self.path is None and self.port == 0 and not self.server:
            raise ConfigError("a client socket needs a port")
        if self.reconnect < 0:
            raise ConfigError("reconnect must not be negative")
        if self.server and self.reconnect:
            raise ConfigError("reconnect is for client sockets only")
        if self.wait and not self.server:
            raise ConfigError("wait is for server sockets only")

    @property
    def address(self) -> str:
        """The address in the command line's form ("unix:/run/s", "tcp:localhost:4444")."""
        return f"unix:{self.path}" if self.path is not None else f"tcp:{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(ChardevConfig):
    """Output is kept in memory for Python code; at most `size` bytes, or all if None."""

    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size <= 0:
            raise ConfigError("ring buffer size must be positive")
