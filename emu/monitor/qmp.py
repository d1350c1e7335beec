"""A QMP session over a character device (QEMU's docs/interop/qmp-spec)."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from emu.chardev.base import Chardev
from emu.chardev.config import ConfigError
from emu.migration.stream import MigrationError
from emu.monitor import hmp  # noqa: F401 (it declares)
from emu.monitor.commands import version
from emu.monitor.json_stream import JsonError, JsonStream
from emu.monitor.registry import COMMANDS, QmpError

if TYPE_CHECKING:
    from emu.machine import Machine

_log = logging.getLogger(__name__)
_MAX_QUEUED = 1024


class QmpSession:
    """Serves the peers of one character device, one after the other.

    Input is cut into commands on the event loop's thread; commands run, and answers and events
    are written, on the session's own thread, in order.  A new peer starts with the greeting.
    """

    def __init__(self, machine: Machine, chardev: Chardev) -> None:
        self._machine = machine
        self._chardev = chardev
        self._stream = JsonStream()
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(_MAX_QUEUED)
        self._negotiated = False
        self._thread = threading.Thread(target=self._run, name="qmp", daemon=True)

    def start(self) -> None:
        """Listen to the peer; once."""
        self._thread.start()
        self._chardev.set_connection_listener(self._peer_changed)
        self._chardev.set_receiver(self._receive)

    def event(self, name: str, data: dict[str, Any] | None = None) -> None:
        """Send an event to a peer that has negotiated.  Any thread."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        message: dict[str, Any] = {
            "event": name,
            "timestamp": {"seconds": seconds, "microseconds": nanoseconds // 1000},
        }
        if data is not None:
            message["data"] = data
        self._put("event", message)

    def close(self) -> None:
        """Write what waits, for a moment at most, and end."""
        self._put("end", None)
        self._thread.join(1.0)

    def _put(self, kind: str, item: Any) -> None:
        try:
            self._queue.put_nowait((kind, item))
        except queue.Full:
            _log.warning("QMP peer does not read: message dropped")

    def _peer_changed(self, connected: bool) -> None:
        self._stream = JsonStream()
        self._put("connected" if connected else "gone", None)

    def _receive(self, data: bytes) -> int:
        if self._queue.qsize() > _MAX_QUEUED // 2:
            return 0
        for value in self._stream.feed(data):
            self._put("command", value)
        return len(data)

    def _run(self) -> None:
        while True:
            kind, item = self._queue.get()
            if kind == "end":
                return
            if kind == "connected":
                self._negotiated = False
                self._send({"QMP": {"version": version(), "capabilities": []}})
            elif kind == "gone":
                self._negotiated = False
            elif kind == "event":
                if self._negotiated:
                    self._send(item)
            else:
                self._send(self._answer(item))
            self._chardev.accept_input()

    def _send(self, message: dict[str, Any]) -> None:
        self._chardev.write(json.dumps(message).encode() + b"\r\n")

    def _answer(self, request: Any) -> dict[str, Any]:
        reply: dict[str, Any] = {}
        if isinstance(request, dict) and "id" in request:
            reply["id"] = request["id"]
        try:
            return {"return": self._execute(request), **reply}
        except QmpError as error:
            return {"error": {"class": error.kind, "desc": str(error)}, **reply}
        except (ConfigError, MigrationError) as error:
            return {"error": {"class": "GenericError", "desc": str(error)}, **reply}
        except Exception as error:
            _log.debug("QMP command", exc_info=True)
            description = f"internal error: {type(error).__name__}: {error}"
            return {"error": {"class": "GenericError", "desc": description}, **reply}

    def _execute(self, request: Any) -> Any:
        if isinstance(request, JsonError):
            raise QmpError(str(request))
        if not isinstance(request, dict):
            raise QmpError("QMP input must be a JSON object")
        for key in request:
            if key not in ("execute", "arguments", "id"):
                raise QmpError(f"QMP input member '{key}' is unexpected")
        name = request.get("execute")
        if not isinstance(name, str):
            raise QmpError("QMP input lacks member 'execute'")
        if name == "qmp_capabilities":
            return self._negotiate()
        if not self._negotiated:
            raise QmpError(
                f"Expecting capabilities negotiation with 'qmp_capabilities', not '{name}'",
                "CommandNotFound",
            )
        if name not in COMMANDS:
            raise QmpError(f"The command {name} has not been found", "CommandNotFound")
        entry = COMMANDS[name]
        return entry.handler(self._machine, entry.check(request.get("arguments", {})))

    def _negotiate(self) -> dict[str, Any]:
        if self._negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored", "CommandNotFound"
            )
        self._negotiated = True
        return {}
