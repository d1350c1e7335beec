"""What a migration asks of the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emu.memory.ram import GuestRam
from emu.migration.sections import Component
from emu.migration.stream import StreamReader, StreamWriter


class Iterated(Protocol):
    """State besides RAM that has sections of its own (the hash page table).

    ``save_*`` and ``load_*`` handle the body of START and of END sections.
    """

    name: str
    version: int

    def save_setup(self, writer: StreamWriter) -> None: ...

    def save_end(self, writer: StreamWriter) -> None: ...

    def load_setup(self, reader: StreamReader) -> None: ...

    def load_part(self, reader: StreamReader) -> None: ...


class MigratableMachine(Protocol):
    """The machine as source and destination see it."""

    @property
    def migration_name(self) -> str:
        """Name in the configuration section."""

    @property
    def ram(self) -> GuestRam:
        """All of RAM."""

    @property
    def accepts_postcopy(self) -> bool:
        """Whether a guest may come in that runs before all of its memory is here."""

    def expect_missing_memory(self) -> None:
        """From now on any access to RAM may have to wait: nobody may hold the GIL for one."""

    def on_vcpu(self, work: Callable[[], Any]) -> Any:
        """Run work on the vCPU thread and return its result; raises what it raises."""

    def take_dirty(self) -> npt.NDArray[np.uint8]:
        """Dirty log since the last call, a byte a page.  vCPU thread."""

    def components(self) -> Sequence[Component]:
        """Everything with device sections, in their order."""

    def iterated(self) -> Sequence[Iterated]:
        """Everything with iterated sections besides RAM."""

    def is_running(self) -> bool:
        """Whether the guest runs now."""

    def pause_for_migration(self) -> None:
        """Stop the guest and its devices; :class:`MigrationError` if that fails."""

    def end_migration(self, completed: bool, resume: bool) -> None:
        """The guest has moved, or stays: goes on if ``resume``."""

    def release_host(self) -> None:
        """Let the other side have disk images and the like."""

    def claim_host(self) -> None:
        """Take them; :class:`MigrationError` if another process uses them."""

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of the time; 0 ends that."""
