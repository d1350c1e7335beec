"""Guests under a real gdb-multiarch; without it the tests are skipped, except in CI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from emu.config import MachineConfig, SocketConfig
from emu.machine import Machine
from tests.boot.conftest import be, le  # noqa: F401 (fixtures)
from tests.gdb.mi import PROGRAM, Gdb, available
from tests.support.gdb_guest import address_of

#: Starts a machine with gdb's stub: configuration, and more fields of it.
StartDebugged = Callable[..., Machine]


@pytest.fixture(scope="session", autouse=True)
def gdb_is_there() -> None:
    """Nothing here makes sense without gdb."""
    if not available():
        if os.environ.get("CI"):
            pytest.fail(f"no {PROGRAM}")
        pytest.skip(f"no {PROGRAM} (make packages)")


@pytest.fixture
def debugged() -> Iterator[StartDebugged]:
    """Machines with the stub on a free port, closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(config: MachineConfig, **fields: Any) -> Machine:
            stub = SocketConfig(id="gdb", host="127.0.0.1", port=0, server=True)
            machine = stack.enter_context(Machine(replace(config, gdb=stub, **fields)))
            machine.start()
            return machine

        yield start


def connect(gdb: Gdb, machine: Machine) -> None:
    """``target remote``."""
    gdb(f"target remote {address_of(machine).removeprefix('tcp:')}")
