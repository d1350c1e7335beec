"""What `-d` and `-D` choose: log items, on top of the standard library's logging.

    _hcall = log("hcall")
    ...
    if _hcall.enabled:
        _hcall("H_ENTER(%#x) -> %d", index, result)

The guard is one attribute; an item that is off costs nothing else.  Items that come from compiled
code (:data:`NATIVE`) are written by :mod:`emu.trace`, as text.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from emu.chardev.config import ConfigError

LOGGER = "ppc64emu"

#: Every log item and what it shows, in the order of `-d help`.
DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "in_asm": "show guest assembly code of each translated block",
        "exec": "show each executed block (very long)",
        "cpu": "show CPU registers before each block (very long)",
        "int": "show interrupts and exceptions",
        "mmu": "show translation faults, TLB flushes and changes of the hash page table",
        "hcall": "show hypercalls with their arguments and results",
        "rtas": "show RTAS calls with their arguments and results",
        "fdt": "show the device tree and changes to it",
        "irq": "show interrupt sources and the hypercalls of interrupt presentation",
        "virtio": "show virtio resets, status, features, queues, notifications",
        "migration": "show what is saved and loaded",
        "cpu_reset": "show CPU state at reset",
        "unimp": "show what the guest asks for that is not implemented",
        "guest_errors": "show every mistake of the guest (else: each kind once)",
    }
)


#: Items that compiled code shows: a machine has to be told when they change (``Tracer``).
NATIVE = frozenset({"in_asm", "exec", "cpu", "int", "mmu", "irq"})


class LogItem:
    """One `-d` item; call it to log a line, formatted as by `logging`."""

    __slots__ = ("_logger", "enabled", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = False
        self._logger = logging.getLogger(f"{LOGGER}.{name}")

    def __call__(self, message: str, *args: Any) -> None:
        """Log a line if the item is on; any thread."""
        if self.enabled:
            self._logger.debug(message, *args)


_items = {name: LogItem(name) for name in DESCRIPTIONS}
_seen: set[tuple[str, str, str]] = set()
_seen_lock = threading.Lock()
_before_line: list[Callable[[], None]] = []


def log(item: str) -> LogItem:
    """Return the log item of that name; always the same object, so keep it."""
    return _items[item]


def guest_error(device: str, message: str, *args: Any) -> None:
    """Log a guest's mistake: each `message` (before formatting) once per device.

    With `-d guest_errors`, every time.
    """
    _once(_items["guest_errors"], logging.WARNING, device, message, args)


def unimplemented(device: str, message: str, *args: Any) -> None:
    """Log, if `-d unimp` is given, that the guest wanted something missing; once per kind."""
    if _items["unimp"].enabled:
        _once(_items["unimp"], logging.INFO, device, message, args)


def _once(item: LogItem, level: int, device: str, message: str, args: tuple[Any, ...]) -> None:
    kind = (item.name, device, message)
    with _seen_lock:
        first = kind not in _seen
        _seen.add(kind)
    if first or (item.enabled and item.name == "guest_errors"):
        item._logger.log(level, f"%s: {message}", device, *args)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        item = record.name.rpartition(".")[2]
        text = super().format(record)
        if item in DESCRIPTIONS and record.levelno < logging.WARNING:
            return f"{item}: {text}"
        return f"ppc64emu: {record.levelname.lower()}: {text}"


class _InOrder(logging.Filter):
    """Lets everything through, after what compiled code has noted so far."""

    def filter(self, record: logging.LogRecord) -> bool:
        for drain in list(_before_line):
            drain()
        return True


class _StderrHandler(logging.StreamHandler[Any]):
    """Says once that it cannot write, instead of a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not _is_told():
            super().handleError(record)


class _FileHandler(logging.FileHandler):
    """The same for a file."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not _is_told():
            super().handleError(record)


def _is_told() -> bool:
    error = sys.exc_info()[1]
    if not isinstance(error, (OSError, ValueError)):
        return False
    _complain_once(error)
    return True


def add_source(drain: Callable[[], None]) -> None:
    """Call a function before each line, so that it writes what came before.  Any thread."""
    _before_line.append(drain)


def remove_source(drain: Callable[[], None]) -> None:
    """End :func:`add_source`."""
    if drain in _before_line:
        _before_line.remove(drain)


def write_text(text: str) -> None:
    """Write whole lines to the log as they are; any thread.

    A file that cannot be written loses them: the guest goes on.
    """
    for handler in logging.getLogger(LOGGER).handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.acquire()
            try:
                handler.stream.write(text)
                handler.flush()
            except (OSError, ValueError) as error:
                _complain_once(error)
            finally:
                handler.release()


def _complain_once(error: Exception) -> None:
    with _seen_lock:
        first = ("log", "", "") not in _seen
        _seen.add(("log", "", ""))
    if first:
        print(f"ppc64emu: the log cannot be written: {error}", file=sys.stderr)


def set_items(items: Iterable[str]) -> None:
    """Turn exactly `items` on, while running; ConfigError for an unknown one.

    Machines have to be told (``emu.trace.control.Tracer.refresh``).
    """
    wanted = check_items(items)
    for item in _items.values():
        item.enabled = item.name in wanted


def enabled_items() -> frozenset[str]:
    """The names of the items that are on."""
    return frozenset(item.name for item in _items.values() if item.enabled)


def configure_logging(items: Iterable[str] = (), file: str | None = None) -> None:
    """Turn exactly `items` on and send the log to `file`, or to stderr if None.

    Also forgets which kinds of guest errors were logged. ConfigError for an unknown item or if
    the file cannot be written.
    """
    wanted = check_items(items)
    try:
        handler: logging.Handler = (
            _StderrHandler(sys.stderr) if file is None else _FileHandler(file, "w")
        )
    except OSError as error:
        raise ConfigError(f"could not open '{file}': {error.strerror}", "log_file") from error
    handler.setFormatter(_Formatter())
    handler.addFilter(_InOrder())
    for name in (LOGGER, "emu"):  # "emu": loggers that are named after their modules
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            with contextlib.suppress(OSError):
                old.close()
        logger.addHandler(handler)
        logger.propagate = False
    logging.getLogger(LOGGER).setLevel(logging.DEBUG)
    set_items(wanted)
    with _seen_lock:
        _seen.clear()


def check_items(items: Iterable[str]) -> frozenset[str]:
    """Return the items as a set, "all" replaced by all of them; ConfigError for an unknown one."""
    wanted = frozenset(items)
    if "all" in wanted:
        return frozenset(DESCRIPTIONS)
    for item in sorted(wanted):
        if item not in DESCRIPTIONS:
            known = ", ".join(DESCRIPTIONS)
            raise ConfigError(f"unknown log item '{item}'; known are {known}, all", "log_items")
    return wanted
