"""Events that the platform tells the guest: early environmental and power-off warnings (EPOW).

LoPAPR 1.1, 7.3.3 (check-exception, event-scan) and 10.2 (event log formats); LoPAR 2.9, "Platform
Event Log Format, Version 6".  An event is queued, the source of /event-sources/epow-events
interrupts, and the guest fetches the log with check-exception.  All numbers are big-endian.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Protocol, cast

from emu.memory.dma import DmaError
from emu.migration.fields import Description, blob, u32
from emu.migration.stream import MigrationError
from firmware.flat_tree import DtNode
from machines.pseries.device_tree import IRQ_EDGE
from machines.pseries.rtas import PARAMETER_ERROR, SUCCESS, Call, RtasContext, service
from machines.pseries.rtc import Rtc
from machines.pseries.xics import Xics

EPOW_IRQ = 0x10FE
NO_ERRORS_FOUND = 1
EVENT_MASK_EPOW = 0x40000000

# Fixed part: version 6, severity "event", not recovered, extended log present, type EPOW.
_SUMMARY = 0x06000000 | 1 << 21 | 2 << 19 | 1 << 18 | 0x40
# Version 6 header: valid, new, big-endian; PowerPC format, platform event log.
_VALID_NEW_BIG_ENDIAN, _PLATFORM_EVENT = 0x80 | 0x04 | 0x02, 0x80 | 0x0E
_PRIVATE_HEADER, _USER_HEADER, _EPOW = b"PH", b"UH", b"EP"
_SECTIONS = 3
_HYPERVISOR = b"H"
_EXTERNAL_ENVIRONMENT, _INFORMATIONAL, _NORMAL_SHUTDOWN = 0xA0, 0x00, 0xD0
_SYSTEM_SHUTDOWN, _NORMAL, _THIS_PARTITION = 3, 1, 1
LOG_SIZE = 8 + 16 + 48 + 24 + 20


def _bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def _section(name: bytes, version: int, body: bytes) -> bytes:
    return struct.pack(">2sHBBH", name, 8 + len(body), version, 0, 0) + body


def shutdown_log(when: datetime, log_id: int) -> bytes:
    """The event log that asks the guest to shut down, now (guest time)."""
    date = bytes(map(_bcd, (when.year // 100, when.year % 100, when.month, when.day)))
    time = bytes(map(_bcd, (when.hour, when.minute, when.second, 0)))
    private = struct.pack(
        ">4s4s8xc2xB4x8xI4x", date, time, _HYPERVISOR, _SECTIONS, log_id & 0xFFFFFFFF
    )
    user = struct.pack(">BxBB4x2xH4x", _EXTERNAL_ENVIRONMENT, _INFORMATIONAL, _NORMAL_SHUTDOWN, 0)
    epow = struct.pack(">BBBxQ", _SYSTEM_SHUTDOWN, _NORMAL, _THIS_PARTITION, 0)
    extended = (
        struct.pack(">BxB9x4s", _VALID_NEW_BIG_ENDIAN, _PLATFORM_EVENT, b"IBM\0")
        + _section(_PRIVATE_HEADER, 0, private)
        + _section(_USER_HEADER, 0, user)
        + _section(_EPOW, 2, epow)  # 2: with the extended modifier
    )
    return struct.pack(">II", _SUMMARY, len(extended)) + extended


class PlatformEvents:
    """What the guest has not fetched yet: one event at most, the last.  vCPU thread."""

    def __init__(self, xics: Xics, rtc: Rtc) -> None:
        self.pending = b""
        self.next_log_id = 0
        self._xics = xics
        self._rtc = rtc
        xics.claim(EPOW_IRQ, lsi=False, name="epow")

    def reset(self) -> None:
        """Forget what was not fetched."""
        self.pending = b""

    def request_shutdown(self) -> None:
        """Tell the guest to shut down in an orderly way."""
        self.pending = shutdown_log(self._rtc.now(), self.next_log_id)
        self.next_log_id += 1
        self._xics.set_irq(EPOW_IRQ, 1)

    def fetch(self, mask: int) -> bytes:
        """The log of a pending event of these kinds; empty if there is none."""
        if not mask & EVENT_MASK_EPOW:
            return b""
        log, self.pending = self.pending, b""
        return log

    def check(self) -> None:
        """After loading; :class:`MigrationError`."""
        if len(self.pending) not in (0, LOG_SIZE):
            raise MigrationError(f"spapr/events: a log of {len(self.pending)} bytes")

    def build_nodes(self, root: DtNode) -> None:
        """/event-sources (LoPAPR 1.1, B.6.14)."""
        sources = root.child("event-sources")
        sources.flag("interrupt-controller")
        sources.u32("#interrupt-cells", 2)
        sources.u32("interrupt-ranges", EPOW_IRQ, 1)
        sources.child("epow-events").u32("interrupts", EPOW_IRQ, IRQ_EDGE)


EVENTS_STATE = Description("spapr/events", 1, (u32("next_log_id"), blob("pending", LOG_SIZE)))


class _Context(RtasContext, Protocol):
    @property
    def platform_events(self) -> PlatformEvents: ...


@service("check-exception", 6, 1, (7, 1))
def _check_exception(call: Call) -> int:
    """Inputs: vector offset, interrupt number, event mask, critical, buffer, its length."""
    mask, _, buffer, length = call.inputs[2:6]
    machine = cast(_Context, call.machine)
    try:
        machine.dma.read(buffer, min(length, LOG_SIZE))  # an event is not lost to a bad address
    except DmaError:
        return PARAMETER_ERROR
    log = machine.platform_events.fetch(mask)
    if not log:
        return NO_ERRORS_FOUND
    machine.dma.write(buffer, log[:length])
    return SUCCESS


@service("event-scan", 4, 1)
def _event_scan(_call: Call) -> int:
    """Inputs: event mask, critical, buffer, its length.  Every event interrupts instead."""
    return NO_ERRORS_FOUND
