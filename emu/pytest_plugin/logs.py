"""`-d` in a test: the log goes to pytest, which shows it with a failure (and to `caplog`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from emu import log
from emu.chardev.config import ConfigError

if TYPE_CHECKING:
    from emu.config import MachineConfig
    from emu.machine import Machine

_trace = logging.getLogger(f"{log.LOGGER}.trace")


class LogItems:
    """Log items that a test's machines ask for, until :meth:`close`. Main thread."""

    def __init__(self) -> None:
        self._before: tuple[frozenset[str], int] | None = None

    def turn_on(self, config: MachineConfig) -> None:
        """Before the machine is built; ConfigError for a log file of its own."""
        if config.log_file is not None:
            raise ConfigError("-D: the log of a test is in pytest's report")
        if not config.log_items:
            return
        logger = logging.getLogger(log.LOGGER)
        if self._before is None:
            self._before = log.enabled_items(), logger.level
        log.set_items(log.enabled_items() | config.log_items)
        logger.setLevel(logging.DEBUG)

    def close(self) -> None:
        """As it was before."""
        if self._before is not None:
            log.set_items(self._before[0])
            logging.getLogger(log.LOGGER).setLevel(self._before[1])
            self._before = None


def trace_to_logging(machine: Machine) -> None:
    """Send what compiled code traces (`-d in_asm` and the like) the same way; before it runs."""
    machine.trace.output = lambda text: _trace.debug("%s", text.rstrip("\n"))
