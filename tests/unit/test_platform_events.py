"""The power button: an EPOW event log, as check-exception gives it to the guest."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import pytest

from emu.migration.stream import MigrationError, StreamReader, StreamWriter
from machines.pseries.events import EPOW_IRQ, EVENTS_STATE, LOG_SIZE, PlatformEvents
from tests.unit.test_rtas import BUFFER, NOW, RAM_SIZE, FakeMachine

EPOW, OTHERS = 0x40000000, 0xBFFFFFFF
NO_ERRORS_FOUND = 1


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    fake = FakeMachine()
    yield fake
    fake.partition.close()


def check(machine: FakeMachine, mask: int = EPOW, buffer: int = BUFFER, size: int = 2048) -> int:
    return machine.status("check-exception", 0x500, EPOW_IRQ, mask, 0, buffer, size)


def pending(machine: FakeMachine) -> int:
    """The status byte of the interrupt source."""
    return machine.xics.save_state()["sources"][EPOW_IRQ][3]


def test_nothing_happens_without_an_event(machine: FakeMachine) -> None:
    assert check(machine) == NO_ERRORS_FOUND
    assert machine.status("event-scan", 0xFFFFFFFF, 0, BUFFER, 2048) == NO_ERRORS_FOUND
    assert machine.dma.read(BUFFER, 4) == bytes(4)


def test_shutdown_request_interrupts_and_is_told_once(machine: FakeMachine) -> None:
    assert not pending(machine)
    machine.platform_events.request_shutdown()
    assert pending(machine)
    assert check(machine, OTHERS) == NO_ERRORS_FOUND
    assert check(machine) == 0
    assert check(machine) == NO_ERRORS_FOUND


def test_event_log_is_what_linux_looks_for(machine: FakeMachine) -> None:
    """Version 6, type EPOW; sections by their lengths; system shutdown, normal, no delay."""
    machine.platform_events.request_shutdown()
    assert check(machine) == 0
    log = machine.dma.read(BUFFER, LOG_SIZE)
    summary, length = struct.unpack(">II", log[:8])
    assert summary >> 24 == 6
    assert summary & 0xFF == 0x40
    assert summary & 1 << 18  # the extended log is there
    assert length == LOG_SIZE - 8
    assert (log[8] & 0x80, log[10] & 0x8F, log[20:24]) == (0x80, 0x8E, b"IBM\0")
    sections, at = {}, 24
    while at < LOG_SIZE:
        name, size = struct.unpack_from(">2sH", log, at)
        sections[name] = log[at : at + size]
        at += size
    assert list(sections) == [b"PH", b"UH", b"EP"]
    assert sections[b"PH"][8:16] == bytes.fromhex(NOW.strftime("%Y%m%d%H%M%S00"))
    assert sections[b"PH"][27] == len(sections)
    assert sections[b"EP"][4] == 2  # version
    assert tuple(sections[b"EP"][8:11]) == (3, 1, 1)


def test_short_buffer_gets_the_beginning(machine: FakeMachine) -> None:
    machine.platform_events.request_shutdown()
    assert check(machine, size=8) == 0
    assert machine.dma.read(BUFFER, 1) == b"\x06"
    assert machine.dma.read(BUFFER + 8, 8) == bytes(8)


def test_buffer_outside_ram_does_not_lose_the_event(machine: FakeMachine) -> None:
    machine.platform_events.request_shutdown()
    assert check(machine, buffer=RAM_SIZE - 8) == -3
    assert check(machine) == 0


class _Memory(io.BytesIO):
    def read_into(self, views: object) -> int:
        raise AssertionError("there are no pages here")


def test_event_moves_with_the_guest(machine: FakeMachine) -> None:
    machine.platform_events.request_shutdown()
    stream = _Memory()
    writer = StreamWriter(stream)  # type: ignore[arg-type]
    EVENTS_STATE.save(writer, machine.platform_events)
    writer.flush()
    stream.seek(0)
    other = FakeMachine()
    EVENTS_STATE.load(StreamReader(stream), other.platform_events, 1)  # type: ignore[arg-type]
    other.platform_events.check()
    assert check(other) == 0
    other.platform_events.request_shutdown()
    log = other.platform_events.pending
    assert log[24 + 40 : 24 + 44] == (1).to_bytes(4, "big")  # the next log's number
    other.partition.close()


def test_impossible_event_is_refused(machine: FakeMachine) -> None:
    events: PlatformEvents = machine.platform_events
    events.pending = b"too short"
    with pytest.raises(MigrationError, match="9 bytes"):
        events.check()
