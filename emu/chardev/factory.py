"""From configuration to open character device."""

from __future__ import annotations

from collections.abc import Callable

from emu.chardev.base import Chardev
from emu.chardev.config import (
    ChardevConfig,
    FileConfig,
    MemoryConfig,
    PipeConfig,
    PtyConfig,
    SocketConfig,
    StdioConfig,
)
from emu.chardev.memory import MemoryChardev
from emu.chardev.mux import MuxChardev
from emu.chardev.simple import FileChardev, NullChardev
from emu.events import EventLoop


def open_chardev(
    config: ChardevConfig,
    loop: EventLoop,
    *,
    on_quit: Callable[[], object] | None = None,
    on_monitor: Callable[[], object] | None = None,
) -> Chardev:
    """Open the backend, with the Ctrl-A escapes around it if `config.mux`.

    To be called on the main thread, before the guest runs; ConfigError if the host refuses.
    `on_quit` and `on_monitor` answer Ctrl-A x and Ctrl-A c, on the loop's thread.
    """
    backend = _open_backend(config, loop)
    if not config.mux:
        return backend
    return MuxChardev(backend, loop, on_quit=on_quit, on_monitor=on_monitor)


def _open_backend(config: ChardevConfig, loop: EventLoop) -> Chardev:
    # The rarer backends are imported when used: they would cost every start a few milliseconds.
    match config:
        case StdioConfig():
            from emu.chardev.stdio import StdioChardev

            return StdioChardev(config.id, loop, signals=config.signal)
        case FileConfig():
            return FileChardev(config.id, loop, config.path, append=config.append)
        case MemoryConfig():
            return MemoryChardev(config.id, loop, capacity=config.size)
        case PipeConfig():
            from emu.chardev.pipe import PipeChardev

            return PipeChardev(config.id, loop, config.path)
        case PtyConfig():
            from emu.chardev.pty import PtyChardev

            return PtyChardev(config.id, loop)
        case SocketConfig():
            from emu.chardev.socket import SocketChardev

            return SocketChardev(config, loop)
        case _:
            return NullChardev(config.id)
