"""RTAS calls as a guest makes them: argument buffers in its RAM, big-endian."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.cpu.partition import Partition
from emu.cpu.vcpu import Vcpu
from emu.memory.dma import Dma
from emu.memory.ram import GuestRam
from machines.pseries import papr, rtas
from machines.pseries.events import PlatformEvents
from machines.pseries.nvram import NVRAM_SIZE, Nvram
from machines.pseries.rtas import Rtas, rtas_calls
from machines.pseries.rtc import Rtc
from machines.pseries.xics import Xics
from machines.pseries.xics_record import IRQ_BASE, MASKED, SOURCE_COUNT

RAM_SIZE = 1 << 20
ARGS = 0x8000
BUFFER = 0x9000
NOW = datetime(2026, 2, 28, 23, 59, 59, 123456)
ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
WORD = 0xFFFFFFFF
UNTOUCHED = 0x5A5A5A5A

OK, HARDWARE_ERROR, PARAMETER_ERROR, NOT_SUPPORTED = 0, -1, -3, -3
NOT_AUTHORIZED, SYSPARM_PARAMETER_ERROR = -9002, -9999
NO_ERRORS_FOUND = 1
STATUSES = {
    OK,
    NO_ERRORS_FOUND,
    HARDWARE_ERROR,
    PARAMETER_ERROR,
    NOT_AUTHORIZED,
    SYSPARM_PARAMETER_ERROR,
}
SPLPAR, RUN_MODE, UUID_PARAMETER = 20, 42, 48

# LoPAPR 1.1, chapter 7: numbers of inputs and outputs
SHAPES = {
    "display-character": (1, 1),
    "get-time-of-day": (0, 8),
    "set-time-of-day": (7, 1),
    "power-off": (2, 1),
    "system-reboot": (0, 1),
    "nvram-fetch": (3, 2),
    "nvram-store": (3, 2),
    "ibm,get-system-parameter": (3, 1),
    "ibm,set-system-parameter": (2, 1),
    "ibm,os-term": (1, 1),
    "query-cpu-stopped-state": (1, 2),
    "start-cpu": (3, 1),
    "stop-self": (0, 1),
    "ibm,set-xive": (3, 1),
    "ibm,get-xive": (1, 3),
    "ibm,int-off": (1, 1),
    "ibm,int-on": (1, 1),
    "check-exception": (6, 1),
    "event-scan": (4, 1),
}


class FakeMachine:
    """The machine as RTAS sees it; ``events`` are the requests it got."""

    def __init__(self) -> None:
        self.partition = Partition(GuestRam(RAM_SIZE))
        self.vcpu = Vcpu(self.partition, 0, "power8")
        self.dma: Dma = self.partition.dma
        self.rtas = Rtas(self)
        self.renew()

    def renew(self) -> None:
        """Everything but the vCPU as new."""
        self.dma.fill(0, RAM_SIZE)
        self.xics = Xics(self.partition)
        self.nvram = Nvram()
        self.clock = NOW
        self.rtc = Rtc("utc", lambda: self.clock)
        self.platform_events = PlatformEvents(self.xics, self.rtc)
        self.events: list[tuple[Any, ...]] = []
        self.uuid: UUID | None = ID
        self.ram_size = RAM_SIZE
        self.vcpu.record["stopped"] = 0

    def vcpu_by_number(self, number: int) -> Vcpu | None:
        return self.vcpu if number == 0 else None

    def request_shutdown(self) -> None:
        self.events.append(("shutdown",))

    def request_reset(self) -> None:
        self.events.append(("reset",))

    def guest_panicked(self, message: str) -> None:
        self.events.append(("panic", message))

    def start_cpu(self, vcpu: Vcpu, pc: int, r3: int) -> None:
        vcpu.record["stopped"] = 0
        self.events.append(("start", vcpu.index, pc, r3))

    def stop_cpu(self, vcpu: Vcpu) -> None:
        vcpu.record["stopped"] = 1
        self.events.append(("stop", vcpu.index))

    def display_character(self, character: int) -> None:
        self.events.append(("display", character))

    def place(self, token: int, inputs: tuple[int, ...], outputs: int, at: int = ARGS) -> None:
        """Write an argument buffer, as much as fits into RAM; the outputs hold rubbish."""
        words = (token, len(inputs), outputs, *inputs, *[UNTOUCHED] * (outputs + 1))
        data = struct.pack(f">{len(words)}I", *words)
        self.dma.write(at, data[: RAM_SIZE - at])

    def call(self, name: str, *inputs: int, outputs: int | None = None) -> list[int]:
        """Make a call that the dispatcher takes; the outputs, status signed."""
        count = SHAPES[name][1] if outputs is None else outputs
        return self.call_token(dict(rtas_calls())[name], inputs, count)

    def call_token(self, token: int, inputs: tuple[int, ...], outputs: int) -> list[int]:
        self.place(token, inputs, outputs)
        assert self.rtas.call(self.vcpu, ARGS) == papr.H_SUCCESS
        at = ARGS + 12 + 4 * len(inputs)
        status, *others, after = struct.unpack(f">i{outputs}I", self.dma.read(at, 4 * outputs + 4))
        assert after == UNTOUCHED
        return [status, *others]

    def status(self, name: str, *inputs: int) -> int:
        return self.call(name, *inputs)[0]

    def state(self) -> tuple[Any, ...]:
        """What a refused call must leave alone."""
        xics = self.xics.save_state()
        return list(self.events), bytes(self.nvram.contents), self.rtc.now(), xics


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeMachine]:
    machine = FakeMachine()
    yield machine
    machine.partition.close()


@pytest.fixture
def machine(shared: FakeMachine) -> FakeMachine:
    shared.renew()
    return shared


def test_every_call_is_there_once() -> None:
    names, tokens = zip(*rtas_calls(), strict=True)
    assert set(SHAPES) <= set(names)
    assert len(set(names)) == len(names)
    assert len(set(tokens)) == len(tokens)
    assert min(tokens) >= 0x2000


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("more_inputs", "more_outputs"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_wrong_number_of_arguments(
    machine: FakeMachine, name: str, more_inputs: int, more_outputs: int
) -> None:
    inputs, outputs = SHAPES[name][0] + more_inputs, SHAPES[name][1] + more_outputs
    if inputs < 0 or outputs < 1 or (name, inputs, outputs) == ("check-exception", 7, 1):
        pytest.skip("impossible, or no place for the status")
    before = machine.state()
    assert machine.call(name, *[0] * inputs, outputs=outputs)[0] == PARAMETER_ERROR
    assert machine.state() == before


@pytest.mark.parametrize("name", SHAPES)
def test_no_place_for_the_status(machine: FakeMachine, name: str) -> None:
    before = machine.state()
    machine.place(dict(rtas_calls())[name], (0,) * SHAPES[name][0], 0)
    machine.rtas.call(machine.vcpu, ARGS)
    assert machine.state() == before
    assert machine.dma.read_u32_be(ARGS + 12 + 4 * SHAPES[name][0]) == UNTOUCHED


@pytest.mark.parametrize(
    "address",
    [RAM_SIZE - 11, RAM_SIZE - 1, RAM_SIZE, 1 << 32, 1 << 60, 1 << 63, (1 << 64) - 1],
)
def test_arguments_outside_ram(machine: FakeMachine, address: int) -> None:
    assert machine.rtas.call(machine.vcpu, address) == papr.H_PARAMETER


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_outside_ram(machine: FakeMachine, name: str) -> None:
    """Without a place for the answer nothing may happen."""
    inputs, outputs = SHAPES[name]
    before = machine.state()
    at = RAM_SIZE - 12 - 4 * inputs - 4 * (outputs - 1)
    machine.place(dict(rtas_calls())[name], (0,) * inputs, outputs, at)
    assert machine.rtas.call(machine.vcpu, at) == papr.H_PARAMETER
    assert machine.state() == before


@pytest.mark.parametrize("counts", [(WORD, 1), (0, WORD), (WORD, WORD), (1 << 30, 1), (17, 17)])
def test_absurd_counts(machine: FakeMachine, counts: tuple[int, int]) -> None:
    token = dict(rtas_calls())["power-off"]
    machine.dma.write(ARGS, struct.pack(">3I", token, *counts))
    assert machine.rtas.call(machine.vcpu, ARGS) == papr.H_PARAMETER
    assert machine.events == []


@pytest.mark.parametrize("token", [0, 1, 0x1FFF, 0x2FFF, WORD])
def test_unknown_token(machine: FakeMachine, token: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(rtas, "guest_error", lambda *what: told.append(what))
    assert machine.call_token(token, (1, 2), 2)[0] == PARAMETER_ERROR
    assert told == [("rtas", "unknown token %#x", token)]


def test_display_character(machine: FakeMachine) -> None:
    assert machine.call("display-character", 0x12345641) == [OK]
    assert machine.events == [("display", 0x41)]


def test_power_off_and_reboot(machine: FakeMachine) -> None:
    assert machine.call("power-off", WORD, WORD) == [OK]
    assert machine.call("system-reboot") == [OK]
    assert machine.events == [("shutdown",), ("reset",)]


def test_time_of_day(machine: FakeMachine) -> None:
    assert machine.call("get-time-of-day") == [OK, 2026, 2, 28, 23, 59, 59, 123_456_000]
    machine.clock += timedelta(seconds=1)
    assert machine.call("get-time-of-day")[1:7] == [2026, 3, 1, 0, 0, 0]


def test_set_time_goes_on_from_there(machine: FakeMachine) -> None:
    assert machine.call("set-time-of-day", 2000, 2, 29, 12, 34, 56, 0) == [OK]
    machine.clock += timedelta(hours=12)
    assert machine.call("get-time-of-day") == [OK, 2000, 3, 1, 0, 34, 56, 0]


@pytest.mark.parametrize(
    "date",
    [
        (2025, 2, 29, 0, 0, 0, 0),
        (2025, 13, 1, 0, 0, 0, 0),
        (2025, 0, 1, 0, 0, 0, 0),
        (2025, 1, 1, 24, 0, 0, 0),
        (2025, 1, 1, 0, 60, 0, 0),
        (2025, 1, 1, 0, 0, 60, 0),
        (2025, 1, 1, 0, 0, 0, 1_000_000_000),
        (0, 1, 1, 0, 0, 0, 0),
        (10_000, 1, 1, 0, 0, 0, 0),
        (WORD,) * 7,
        (1 << 31,) * 7,
    ],
)
def test_impossible_time(machine: FakeMachine, date: tuple[int, ...]) -> None:
    assert machine.status("set-time-of-day", *date) == PARAMETER_ERROR
    assert machine.rtc.now() == NOW


@pytest.mark.parametrize("year", [1, 9999])
def test_clock_at_the_end_of_time(machine: FakeMachine, year: int) -> None:
    """Whatever the guest sets, asking later still gives an answer."""
    edge = (year, 1, 1, 0, 0, 0, 0) if year == 1 else (year, 12, 31, 23, 59, 59, 0)
    assert machine.status("set-time-of-day", *edge) in STATUSES
    for seconds in (2, -4):  # the host's clock may be set back
        machine.clock += timedelta(seconds=seconds)
        assert machine.status("get-time-of-day") in STATUSES


def test_clock_bases() -> None:
    start = datetime(2020, 6, 1, 12)
    clock = Rtc(start, lambda: NOW)
    assert clock.now() == start
    assert Rtc("utc", lambda: NOW).now() == NOW
    offset = Rtc("localtime", lambda: NOW).now() - NOW
    assert offset == datetime.now().astimezone().utcoffset()
    assert abs(Rtc().now() - datetime.now(UTC).replace(tzinfo=None)) < timedelta(seconds=5)


def test_nvram_round_trip(machine: FakeMachine) -> None:
    machine.dma.write(BUFFER, b"persistent")
    assert machine.call("nvram-store", NVRAM_SIZE - 10, BUFFER, 10) == [OK, 10]
    assert machine.call("nvram-fetch", NVRAM_SIZE - 10, BUFFER + 16, 10) == [OK, 10]
    assert machine.dma.read(BUFFER + 16, 11) == b"persistent\0"


@pytest.mark.parametrize("name", ["nvram-fetch", "nvram-store"])
@pytest.mark.parametrize(
    ("offset", "buffer", "length"),
    [
        (NVRAM_SIZE, BUFFER, 1),
        (1, BUFFER, NVRAM_SIZE),
        (WORD, BUFFER, WORD),
        (0, RAM_SIZE - 1, 2),
        (0, WORD, 16),
    ],
)
def test_nvram_outside(
    machine: FakeMachine, name: str, offset: int, buffer: int, length: int
) -> None:
    before = machine.state()
    assert machine.call(name, offset, buffer, length) == [PARAMETER_ERROR, 0]
    assert machine.state() == before


def parameter(machine: FakeMachine, number: int, length: int = 256) -> bytes:
    """A system parameter's value, checked against the length in front of it."""
    machine.dma.fill(BUFFER, 512)
    assert machine.status("ibm,get-system-parameter", number, BUFFER, length) == OK
    size = int.from_bytes(machine.dma.read(BUFFER, 2), "big")
    assert not any(machine.dma.read(BUFFER + max(length, 2), 64))
    return machine.dma.read(BUFFER + 2, size)


def test_splpar_characteristics(machine: FakeMachine) -> None:
    value = parameter(machine, SPLPAR)
    assert value.endswith(b"\0")
    fields = dict(field.split("=") for field in value[:-1].decode().split(","))
    assert fields == {"MaxEntCap": "1", "DesMem": "1", "DesProcs": "1", "MaxPlatProcs": "1"}


def test_run_mode_and_uuid(machine: FakeMachine) -> None:
    assert parameter(machine, RUN_MODE) == b"\0"
    assert parameter(machine, UUID_PARAMETER) == ID.bytes


def test_parameter_is_cut_to_the_buffer(machine: FakeMachine) -> None:
    """The length in front stays that of the whole value."""
    assert parameter(machine, UUID_PARAMETER, 6) == ID.bytes[:4] + bytes(12)
    assert parameter(machine, UUID_PARAMETER, 2) == bytes(16)


def test_no_uuid(machine: FakeMachine) -> None:
    """As QEMU: a value of no bytes."""
    machine.uuid = None
    assert parameter(machine, UUID_PARAMETER) == b""


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("number", [SPLPAR, RUN_MODE, UUID_PARAMETER])
def test_parameter_buffer_too_small(machine: FakeMachine, number: int, length: int) -> None:
    status = machine.status("ibm,get-system-parameter", number, BUFFER, length)
    assert status == SYSPARM_PARAMETER_ERROR
    assert not any(machine.dma.read(BUFFER, 16))


@pytest.mark.parametrize("buffer", [RAM_SIZE - 1, RAM_SIZE, WORD])
def test_parameter_buffer_outside(machine: FakeMachine, buffer: int) -> None:
    assert machine.status("ibm,get-system-parameter", SPLPAR, buffer, 256) < 0


def test_other_parameters(machine: FakeMachine) -> None:
    assert machine.status("ibm,get-system-parameter", 1, BUFFER, 256) == NOT_SUPPORTED
    assert machine.status("ibm,set-system-parameter", 1, BUFFER) == NOT_SUPPORTED
    for number in (SPLPAR, RUN_MODE, UUID_PARAMETER):
        assert machine.status("ibm,set-system-parameter", number, BUFFER) == NOT_AUTHORIZED


def test_os_term_message(machine: FakeMachine) -> None:
    machine.dma.write(BUFFER, b"OS panic: out of tea\0more")
    assert machine.call("ibm,os-term", BUFFER) == [OK]
    assert machine.events == [("panic", "OS panic: out of tea")]


@pytest.mark.parametrize("address", [RAM_SIZE, WORD])
def test_os_term_without_message(machine: FakeMachine, address: int) -> None:
    assert machine.status("ibm,os-term", address) == OK
    assert machine.events == [("panic", "")]


def test_os_term_message_without_end(machine: FakeMachine) -> None:
    machine.dma.write(RAM_SIZE - 4, b"oops")
    machine.status("ibm,os-term", RAM_SIZE - 4)
    machine.dma.write(0x40000, b"x" * 0x10000)
    machine.status("ibm,os-term", 0x40000)
    assert machine.events[0] == ("panic", "oops")
    assert set(machine.events[1][1]) == {"x"}
    assert len(machine.events[1][1]) < 0x10000


def test_os_term_message_of_rubbish(machine: FakeMachine) -> None:
    machine.dma.write(BUFFER, bytes(range(128, 256)) + b"\0")
    assert machine.status("ibm,os-term", BUFFER) == OK


def test_cpus_start_and_stop(machine: FakeMachine) -> None:
    assert machine.call("query-cpu-stopped-state", 0) == [OK, 2]
    assert machine.status("start-cpu", 0, 0x100, 7) == HARDWARE_ERROR
    assert machine.status("stop-self") == OK
    assert machine.call("query-cpu-stopped-state", 0) == [OK, 0]
    assert machine.status("start-cpu", 0, 0x100, 7) == OK
    assert machine.events == [("stop", 0), ("start", 0, 0x100, 7)]


@pytest.mark.parametrize("number", [1, 8, WORD])
def test_unknown_cpu(machine: FakeMachine, number: int) -> None:
    assert machine.status("query-cpu-stopped-state", number) == PARAMETER_ERROR
    assert machine.status("start-cpu", number, 0x100, 7) == PARAMETER_ERROR
    assert machine.events == []


def test_xive(machine: FakeMachine) -> None:
    irq = machine.xics.allocate(1, lsi=False, name="device")
    assert machine.call("ibm,get-xive", irq) == [OK, 0, MASKED]
    assert machine.call("ibm,set-xive", irq, 0, 5) == [OK]
    assert machine.call("ibm,get-xive", irq) == [OK, 0, 5]
    assert machine.call("ibm,int-off", irq) == [OK]
    assert machine.call("ibm,get-xive", irq) == [OK, 0, MASKED]
    assert machine.call("ibm,int-on", irq) == [OK]
    assert machine.call("ibm,get-xive", irq) == [OK, 0, 5]


@pytest.mark.parametrize("irq", [0, 2, IRQ_BASE - 1, IRQ_BASE + SOURCE_COUNT, WORD])
def test_xive_of_unknown_interrupt(machine: FakeMachine, irq: int) -> None:
    assert machine.call("ibm,get-xive", irq) == [PARAMETER_ERROR, 0, 0]
    assert machine.status("ibm,set-xive", irq, 0, 5) == PARAMETER_ERROR
    assert machine.status("ibm,int-off", irq) == PARAMETER_ERROR
    assert machine.status("ibm,int-on", irq) == PARAMETER_ERROR


@pytest.mark.parametrize(("server", "priority"), [(1, 5), (WORD, 5), (0, 0x100), (0, WORD)])
def test_xive_to_nowhere(machine: FakeMachine, server: int, priority: int) -> None:
    irq = machine.xics.allocate(1, lsi=False, name="device")
    assert machine.status("ibm,set-xive", irq, server, priority) == PARAMETER_ERROR
    assert machine.call("ibm,get-xive", irq) == [OK, 0, MASKED]


def test_suspend_is_not_pretended(machine: FakeMachine) -> None:
    """Either the tree does not offer it, or it refuses."""
    token = dict(rtas_calls()).get("ibm,suspend-me")
    if token is not None:
        assert machine.call_token(token, (), 1)[0] in (NOT_AUTHORIZED, NOT_SUPPORTED)


words = st.one_of(
    st.integers(0, 64),
    st.integers(0, WORD),
    st.sampled_from([ARGS, BUFFER, IRQ_BASE, RAM_SIZE, RAM_SIZE - 1, 9999, WORD]),
)
tokens = st.one_of(st.sampled_from([token for _, token in rtas_calls()]), words)


@settings(max_examples=500, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            tokens,
            st.lists(words, max_size=18).map(tuple),
            st.one_of(st.integers(0, 18), words),
            st.one_of(st.just(ARGS), st.integers(0, RAM_SIZE - 1), st.integers(0, (1 << 64) - 1)),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_call_has_a_defined_answer(
    shared: FakeMachine, calls: list[tuple[int, tuple[int, ...], int, int]]
) -> None:
    shared.renew()
    for token, inputs, outputs, at in calls:
        header = struct.pack(f">{3 + len(inputs)}I", token, len(inputs), outputs, *inputs)
        if at < RAM_SIZE:
            shared.dma.write(at, header[: RAM_SIZE - at])
        code = shared.rtas.call(shared.vcpu, at)
        assert code in (papr.H_SUCCESS, papr.H_PARAMETER)
        if code == papr.H_SUCCESS:
            answers = shared.dma.read(at + len(header), 4)
            assert int.from_bytes(answers, "big", signed=True) in STATUSES
        shared.clock += timedelta(days=1)


shapes = st.sampled_from(list(SHAPES.items()))


@settings(max_examples=500, deadline=None)
@given(shape=shapes, inputs=st.lists(words, min_size=7, max_size=7))
def test_any_inputs_have_a_defined_answer(
    shared: FakeMachine, shape: tuple[str, tuple[int, int]], inputs: list[int]
) -> None:
    """With the right numbers of arguments, so that the handlers run."""
    shared.renew()
    name, (count, _) = shape
    # a buffer named in the inputs may be the argument buffer itself: no look at the outputs
    shared.place(dict(rtas_calls())[name], tuple(inputs[:count]), SHAPES[name][1])
    code = shared.rtas.call(shared.vcpu, ARGS)
    assert code in (papr.H_SUCCESS, papr.H_PARAMETER)
    status = struct.unpack(">i", shared.dma.read(ARGS + 12 + 4 * count, 4))[0]
    assert status in STATUSES
