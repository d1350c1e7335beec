"""The pseries machine's sections in a state stream, beside those of its devices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from devices.virtio.mmio_state import mmio_component
from emu.cpu.record import MAX_VCPUS
from emu.migration.fields import Description, blob, i64, raw, u8, u32, u64
from emu.migration.sections import Component
from emu.migration.stream import MigrationError
from machines.cpu_state import cpu_component
from machines.pseries.events import EVENTS_STATE
from machines.pseries.nvram import NVRAM_SIZE
from machines.pseries.phb_state import phb_components
from machines.pseries.vty import INPUT_SIZE
from machines.pseries.xics import Xics, XicsState
from machines.pseries.xics_record import IRQ_BASE, SOURCE_COUNT

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine

_MAX_PENDING = 1 << 16


class XicsImage:
    """The interrupt controller between ``Xics.save_state`` and the stream.

    ``sources`` has (server, priority, saved priority, status, flags) of every number from
    ``IRQ_BASE`` on, zeros for those that do not exist.
    """

    def __init__(self, xics: Xics) -> None:
        self.xics = xics
        self.servers = np.zeros((MAX_VCPUS, 3), np.int64)
        self.sources = np.zeros((SOURCE_COUNT, 5), np.int64)

    def read(self) -> None:
        """Take the controller's state."""
        state = self.xics.save_state()
        self.servers[:] = 0
        self.sources[:] = 0
        self.servers[: len(state["servers"])] = state["servers"]
        for irq, fields in state["sources"].items():
            self.sources[irq - IRQ_BASE] = fields

    def write(self) -> None:
        """Give the controller this state, which goes into effect when it resumes."""
        count = len(self.xics.save_state()["servers"])
        rows: list[list[int]] = self.sources.tolist()
        servers: list[list[int]] = self.servers[:count].tolist()
        state: XicsState = {
            "servers": [(xirr, pending, mfrr) for xirr, pending, mfrr in servers],
            "sources": {
                IRQ_BASE + index: (row[0], row[1], row[2], row[3], row[4])
                for index, row in enumerate(rows)
                if row[4]
            },
        }
        try:
            self.xics.load_state(state)
        except ValueError as error:
            raise MigrationError(str(error)) from error


def _column(array: str, index: int) -> Any:
    """Getter and setter of one column of an image's array."""

    def get(image: XicsImage) -> list[int]:
        values: list[int] = getattr(image, array)[:, index].tolist()
        return values

    def put(image: XicsImage, values: list[int]) -> None:
        getattr(image, array)[:, index] = values

    return {"getter": get, "setter": put}


XICS_STATE = Description(
    "xics",
    1,
    (
        u32("xirr", count=MAX_VCPUS, **_column("servers", 0)),
        u8("pending_priority", count=MAX_VCPUS, **_column("servers", 1)),
        u8("mfrr", count=MAX_VCPUS, **_column("servers", 2)),
        u32("server", count=SOURCE_COUNT, **_column("sources", 0)),
        u8("priority", count=SOURCE_COUNT, **_column("sources", 1)),
        u8("saved_priority", count=SOURCE_COUNT, **_column("sources", 2)),
        u8("status", count=SOURCE_COUNT, **_column("sources", 3)),
        u8("flags", count=SOURCE_COUNT, **_column("sources", 4)),
    ),
)
RTC_STATE = Description(
    "spapr/rtc",
    1,
    (
        i64(
            "us_offset",
            getter=lambda rtc: rtc.offset // timedelta(microseconds=1),
            setter=lambda rtc, value: setattr(rtc, "offset", timedelta(microseconds=value)),
        ),
    ),
)
NVRAM_STATE = Description("spapr_nvram", 1, (raw("contents", NVRAM_SIZE),))
VTY_STATE = Description(
    "spapr_vty",
    1,
    (
        u32("interrupts", path="record.interrupts"),
        blob("input", INPUT_SIZE + _MAX_PENDING),
    ),
)


class _Translation:
    """What H_REGISTER_PROC_TBL has set."""

    def __init__(self, machine: PseriesMachine) -> None:
        record = machine.partition.record
        self.machine = machine
        self.radix = int(record["radix"])
        self.process_table = int(record["process_table"])
        self.process_table_size = int(record["process_table_size"])

    def read(self) -> None:
        self.__init__(self.machine)  # type: ignore[misc]

    def write(self) -> None:
        if self.radix > 1:
            raise MigrationError(f"spapr: radix is {self.radix}")
        self.machine.partition.forget_turns()
        self.machine.select_translation(
            radix=bool(self.radix), table=self.process_table, size=self.process_table_size
        )


SPAPR_STATE = Description(
    "spapr", 1, (u8("radix"), u64("process_table"), u64("process_table_size"))
)


def components(machine: PseriesMachine) -> Sequence[Component]:
    """Sections of the CPUs, the interrupt controller and the machine's own devices."""
    translation = _Translation(machine)
    xics = XicsImage(machine.xics)
    return [
        Component(
            "spapr",
            SPAPR_STATE,
            translation,
            prepare=translation.read,
            check=translation.write,
        ),
        *(cpu_component(vcpu) for vcpu in machine.vcpus),
        # after the CPUs: it drives their interrupt inputs
        Component(
            "xics",
            XICS_STATE,
            xics,
            prepare=xics.read,
            check=xics.write,
            resume=machine.xics.resume,
        ),
        Component("spapr/rtc", RTC_STATE, machine.rtc),
        Component(
            "spapr/events",
            EVENTS_STATE,
            machine.platform_events,
            check=machine.platform_events.check,
        ),
        *(
            Component(f"vty@{vty.unit:08x}/spapr_vty", VTY_STATE, vty, resume=vty.resume)
            for vty in machine.ttys
        ),
        Component("nvram@71000100/spapr_nvram", NVRAM_STATE, machine.nvram),
        *phb_components(machine.phb),
        *(
            mmio_component(transport, slot)
            for slot, transport in machine.virtio_mmio.slots.transports.items()
        ),
    ]
