"""The human monitor: a line editor on a character device and the commands people type."""

from __future__ import annotations

import queue
import shlex
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu import snapshots
from emu.chardev.base import Chardev
from emu.chardev.config import ConfigError
from emu.migration.stream import MigrationError
from emu.monitor import (
    commands,  # noqa: F401 (it declares)
    device_commands,  # noqa: F401 (it declares)
    info,
    inspect,
)
from emu.monitor.registry import COMMANDS, Arguments, QmpError, command

if TYPE_CHECKING:
    from emu.machine import Machine

PROMPT = "(ppc64emu) "
_BACKSPACES = (0x08, 0x7F)
_MAX_LINE = 4096
Handler = Callable[["Machine", list[str]], str]


class HumanMonitor:
    """Serves one character device.  Lines run on the monitor's own thread."""

    def __init__(self, machine: Machine, chardev: Chardev) -> None:
        self._machine = machine
        self._chardev = chardev
        self._line = bytearray()
        self._queue: queue.Queue[bytes | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        """Listen to the user; once."""
        self._thread.start()
        self._chardev.set_receiver(self.receive)
        self._chardev.set_connection_listener(self._peer_changed)

    def _peer_changed(self, connected: bool) -> None:
        if connected:
            self.show_prompt()

    def show_prompt(self) -> None:
        """Greet the user.  Any thread."""
        self._queue.put(b"")

    def close(self) -> None:
        """End."""
        self._queue.put(None)
        self._thread.join(1.0)

    def event(self, name: str, data: dict[str, object] | None = None) -> None:
        """People are not told of events."""

    def receive(self, data: bytes) -> int:
        """Edit the line: backspace, Ctrl-U, Ctrl-C; return runs it."""
        for byte in data:
            if byte in b"\r\n":
                self._chardev.write(b"\r\n")
                line, self._line = bytes(self._line), bytearray()
                self._queue.put(line)
            elif byte in _BACKSPACES:
                if self._line:
                    del self._line[-1]
                    self._chardev.write(b"\b \b")
            elif byte in (0x03, 0x15):
                self._chardev.write(b"\b \b" * len(self._line))
                self._line.clear()
            elif byte >= 0x20 and len(self._line) < _MAX_LINE:
                self._line.append(byte)
                self._chardev.write(bytes((byte,)))
        return len(data)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            answer = self.execute(line.decode("utf-8", "replace"))
            text = answer + "\n" if answer and not answer.endswith("\n") else answer
            self._chardev.write(_bytes(text.replace("\n", "\r\n") + PROMPT))

    def execute(self, line: str) -> str:
        """What a command line prints."""
        return execute(self._machine, line)


def _bytes(text: str) -> bytes:
    # names of files may have bytes that are no UTF-8
    return text.encode("utf-8", "surrogateescape")


def execute(machine: Machine, line: str) -> str:
    """Run one line of the human monitor; errors are text too."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        return f"Error: {error}"
    if not words:
        return ""
    words = inspect.split_format(words)
    handler = _HANDLERS.get(words[0])
    if handler is None:
        return f"unknown command: '{words[0]}'"
    try:
        return handler[0](machine, words[1:])
    except (QmpError, ConfigError, MigrationError, ValueError) as error:
        return f"Error: {error}"


@command("human-monitor-command", command_line=str, cpu_index_opt=int)
def _human_monitor_command(machine: Machine, arguments: Arguments) -> str:
    text = execute(machine, arguments["command-line"])
    return text.replace("\n", "\r\n") + ("\r\n" if text else "")


def _qmp(name: str) -> Handler:
    def run(machine: Machine, words: list[str]) -> str:
        if words:
            raise ValueError(f"{name}: extraneous characters at the end of line")
        COMMANDS[name].handler(machine, {})
        return ""

    return run


def _migrate(machine: Machine, words: list[str]) -> str:
    detach = "-d" in words
    uris = [word for word in words if word not in ("-d", "-r")]
    if len(uris) != 1:
        raise ValueError("migrate: expected [-d] [-r] uri")
    if "-r" in words:
        machine.migration.resume(uris[0])
    else:
        machine.migration.migrate(uris[0])
    if not detach:
        machine.migration.wait()
        return info.migrate(machine, [])
    return ""


def _set_parameter(machine: Machine, words: list[str]) -> str:
    if len(words) != 2:
        raise ValueError("migrate_set_parameter: expected a name and a value")
    known = machine.migration.parameters.as_dict()
    if words[0] not in known:
        raise ValueError(f"invalid parameter '{words[0]}'")
    is_number = isinstance(known[words[0]], int)
    if is_number and not words[1].isdigit():
        raise ValueError(f"Parameter '{words[0]}' expects a number")
    machine.migration.parameters.update({words[0]: int(words[1]) if is_number else words[1]})
    return ""


def _migrate_recover(machine: Machine, words: list[str]) -> str:
    if len(words) != 1:
        raise ValueError("migrate_recover: expected uri")
    machine.migration.recover(words[0])
    return ""


def _savevm(machine: Machine, words: list[str]) -> str:
    if len(words) > 1:
        raise ValueError("savevm: expected [name|file]")
    name = snapshots.save(machine, *words)
    return "" if words else f"saved as {name}"


def _loadvm(machine: Machine, words: list[str]) -> str:
    if len(words) != 1:
        raise ValueError("loadvm: expected name|file")
    snapshots.load(machine, words[0])
    return ""


def _delvm(_machine: Machine, words: list[str]) -> str:
    if len(words) != 1:
        raise ValueError("delvm: expected name|file")
    snapshots.delete(words[0])
    return ""


def _set_capability(machine: Machine, words: list[str]) -> str:
    if len(words) != 2 or words[1] not in ("on", "off"):
        raise ValueError("migrate_set_capability: expected a name and on or off")
    entry = {"capability": words[0], "state": words[1] == "on"}
    COMMANDS["migrate-set-capabilities"].handler(machine, {"capabilities": [entry]})
    return ""


def _balloon(machine: Machine, words: list[str]) -> str:
    if len(words) != 1 or not words[0].isdigit():
        raise ValueError("balloon: expected a size in MiB")
    COMMANDS["balloon"].handler(machine, {"value": int(words[0]) << 20})
    return ""


def _set_link(machine: Machine, words: list[str]) -> str:
    if len(words) != 2 or words[1] not in ("on", "off"):
        raise ValueError("set_link: expected a name and on or off")
    COMMANDS["set_link"].handler(machine, {"name": words[0], "up": words[1] == "on"})
    return ""


def _gdbserver(machine: Machine, words: list[str]) -> str:
    from emu.options.gdb import DEFAULT_DEVICE, gdb_device

    if len(words) > 1:
        raise ValueError("gdbserver: expected at most a device")
    device = words[0] if words else DEFAULT_DEVICE
    machine.serve_gdb(gdb_device(device, machine.config.chardevs))
    return "Disabled gdbserver" if device == "none" else f"Waiting for gdb connection on '{device}'"


def _info(machine: Machine, words: list[str]) -> str:
    if not words or words[0] not in info.TOPICS:
        lines = (f"info {name:12} -- {text}" for name, (_, text) in info.TOPICS.items())
        return "\n".join(lines)
    return info.TOPICS[words[0]][0](machine, words[1:])


def _help(_machine: Machine, _words: list[str]) -> str:
    return "\n".join(f"{name:24} -- {text}" for name, (_, text) in _HANDLERS.items())


_HANDLERS: dict[str, tuple[Handler, str]] = {
    "help": (_help, "show this help"),
    "?": (_help, "show this help"),
    "info": (_info, "show information about the machine"),
    "stop": (_qmp("stop"), "stop the guest"),
    "cont": (_qmp("cont"), "let the guest run"),
    "c": (_qmp("cont"), "let the guest run"),
    "system_reset": (_qmp("system_reset"), "reset the machine"),
    "system_powerdown": (_qmp("system_powerdown"), "ask the guest to shut down"),
    "quit": (_qmp("quit"), "end the emulator"),
    "q": (_qmp("quit"), "end the emulator"),
    "balloon": (_balloon, "size: ask the guest to keep so many MiB"),
    "set_link": (_set_link, "name on|off: plug the network cable in or out"),
    "gdbserver": (_gdbserver, "[device]: let gdb connect (tcp::1234), none: no more"),
    "migrate": (_migrate, "[-d] [-r] uri: send the guest; -d: do not wait; -r: go on sending"),
    "migrate_cancel": (_qmp("migrate_cancel"), "cancel the migration"),
    "migrate_start_postcopy": (_qmp("migrate-start-postcopy"), "let it run there at once"),
    "migrate_pause": (_qmp("migrate-pause"), "break the connection of a post-copy"),
    "migrate_recover": (_migrate_recover, "uri: wait there for its source to come back"),
    "savevm": (_savevm, "[name|file]: save the guest, which goes on"),
    "loadvm": (_loadvm, "name|file: go on where it was saved"),
    "delvm": (_delvm, "name|file: remove a saved guest"),
    "migrate_set_parameter": (_set_parameter, "name value"),
    "migrate_set_capability": (_set_capability, "name on|off"),
    **inspect.HANDLERS,
}
