"""No hypercall, RTAS call or stray access of a guest harms the emulator, whatever it asks."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.cpu.isa import Spr
from emu.cpu.record import ExitReason
from emu.events import EventLoop
from machines.pseries import hcalls, papr
from machines.pseries.machine import PseriesMachine, PseriesOptions
from machines.pseries.papr import HcallNumber
from machines.pseries.rtas import rtas_calls
from tests.support.asm import assemble, b, ld, li64, mtspr

RAM = 256 << 20
SECONDS = 30.0
HYPERCALL = 0x44000022  # sc 1
ARGUMENTS = 0x8000  # r3 to r12 are loaded from here
STUB = 0x1000
BUFFER = 0x20000
MASK = (1 << 64) - 1
CODES = {
    value & MASK
    for name, value in vars(papr).items()
    if name.startswith("H_") and isinstance(value, int) and -512 < value < 10_000
}
NATIVE = {
    number for number in HcallNumber if number.name.startswith(("H_ENTER", "H_REMOVE", "H_READ"))
} | {
    HcallNumber[name]
    for name in (
        *("H_CLEAR_MOD", "H_CLEAR_REF", "H_PROTECT", "H_BULK_REMOVE", "H_CEDE", "H_XIRR"),
        *("H_XIRR_X", "H_EOI", "H_CPPR", "H_IPI", "H_IPOLL", "H_PUT_TERM_CHAR"),
        *("H_GET_TERM_CHAR", "H_CONFER", "H_PROD"),
    )
}
KNOWN = {int(number) for number in NATIVE} | set(hcalls.HANDLERS)
VECTORS = (0x100, 0x200, 0x300, 0x380, 0x400, 0x480, 0x500, 0x600, 0x700, 0x900, 0xA00, 0xC00)
MARK = 0xF0FF  # the hypercall number at an interrupt vector or the stub's end: not a real one


class Host:
    """Stands for the program around the machine, and notes what it was asked."""

    def __init__(self) -> None:
        self.unknown: list[int] = []
        self.ended: list[str] = []
        self.loop = EventLoop()  # not started

    def request_shutdown(self) -> None:
        """Note it."""
        self.ended.append("shutdown")

    def request_reset(self) -> None:
        """Note it."""
        self.ended.append("reset")

    def guest_panicked(self, message: str) -> None:
        """Note it."""
        self.ended.append(f"panic: {message}")

    def post(self, work: Callable[[], None]) -> None:
        """No terminal has input here."""

    def unknown_hypercall(self, number: int) -> None:
        """Note it."""
        self.unknown.append(number)

    def is_ending(self) -> bool:
        """Never wait for the host."""
        return True


class Stub:
    """A pseries machine whose firmware makes one hypercall with registers from memory.

    Every interrupt vector, and the instruction after the call, ends in a hypercall `MARK`.
    """

    def __init__(self, model: str, directory: Path) -> None:
        image = bytearray(0x2000)
        for vector in VECTORS:
            code = assemble(mtspr(Spr.SPRG3, 3), li64(3, MARK), HYPERCALL)
            image[vector : vector + len(code)] = code
        body = [ld(register, 2, 8 * (register - 3)) for register in range(3, 13)]
        end = [mtspr(Spr.SPRG3, 3), *li64(3, MARK), HYPERCALL, b(0)]
        code = assemble(li64(2, ARGUMENTS), body, HYPERCALL, end)
        image[STUB : STUB + len(code)] = code
        path = directory / f"stub-{model}"
        self.image = bytes(image)
        path.write_bytes(image)
        self.host = Host()
        options = PseriesOptions(ram_size=RAM, cpu=model, bios=str(path))
        self.machine = PseriesMachine(options, self.host)
        self.vcpu = self.machine.vcpus[0]
        self.machine.partition.ticker.start()
        self.machine.partition.start_clock()

    def call(self, number: int, *arguments: int) -> int:
        """Make a hypercall as the guest would; what is in r3 afterwards."""
        values = [number, *arguments, *[0] * 9][:10]
        self.machine.dma.write(ARGUMENTS, struct.pack(">10Q", *values))
        self.run(STUB)
        return self.vcpu.spr(Spr.SPRG3)

    def run(self, pc: int) -> int:
        """Reset the CPU, run to the next `MARK`; the address it was reached by."""
        vcpu = self.vcpu
        self.machine.xics.reset()
        vcpu.reset_state()
        vcpu.record["dec_expiry"] = self.machine.partition.timebase + 50_000  # ends H_CEDE
        vcpu.refresh_decrementer()
        self.machine.partition.ticker.wake()
        vcpu.pc = pc
        late = threading.Event()

        def stop() -> None:
            late.set()
            vcpu.kick()

        timer = threading.Timer(SECONDS, stop)
        timer.start()
        try:
            while True:
                reason = vcpu.run()
                assert not late.is_set(), f"the guest hangs at {vcpu.pc:#x}"
                if reason is ExitReason.HYPERCALL and vcpu.gpr(3) == MARK:
                    return vcpu.pc
                self.machine.handle_exit(vcpu, reason)
                if self.machine.dma.read(0, len(self.image)) != self.image:
                    # The guest had its own code overwritten: what it would run is anyone's guess.
                    vcpu.set_spr(Spr.SPRG3, vcpu.gpr(3))
                    return vcpu.pc
        finally:
            timer.cancel()

    def restore(self) -> None:
        """Undo what calls did to memory and tables."""
        self.machine.reset()
        self.host.ended.clear()
        self.host.unknown.clear()


@pytest.fixture(scope="module", params=["power8", "power9"])
def stub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stub]:
    """A machine shared by this file's tests."""
    made = Stub(request.param, tmp_path_factory.mktemp("stub"))
    yield made
    made.machine.close()


NUMBERS = st.one_of(
    st.sampled_from(sorted(KNOWN)),
    st.sampled_from([*range(0, 0x44C, 4), *range(0xF000, 0xF011)]),
    st.integers(0, MASK).filter(lambda number: number != MARK),
)
VALUES = st.one_of(
    st.integers(0, 16),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.integers(0, 63).map(lambda bit: MASK ^ ((1 << bit) - 1)),
    st.sampled_from([BUFFER, RAM - 1, RAM - 4096, RAM, 0x71000000, 0x400000, MASK, MASK - 1]),
    st.integers(0, RAM),
    st.integers(0, MASK),
)
EXAMPLES = settings(max_examples=max(settings.default.max_examples if settings.default else 0, 200))


@EXAMPLES
@given(number=NUMBERS, arguments=st.lists(VALUES, min_size=9, max_size=9))
def test_any_hypercall_returns_a_defined_code(
    stub: Stub, number: int, arguments: list[int]
) -> None:
    stub.restore()
    code = stub.call(number, *arguments)
    assert code in CODES
    if number not in KNOWN:
        assert code == papr.H_FUNCTION & MASK
        assert stub.host.unknown == [number]


def test_every_number_without_arguments_returns_a_defined_code(stub: Stub) -> None:
    for number in [*range(0, 0x44C, 4), *range(0xF000, 0xF011)]:
        stub.restore()
        code = stub.call(number)
        assert code in CODES, hex(number)
        assert (number in KNOWN) or code == papr.H_FUNCTION & MASK, hex(number)


TOKENS = st.one_of(
    st.sampled_from([token for _, token in rtas_calls()]), st.integers(0, (1 << 32) - 1)
)
WORDS = st.one_of(
    st.integers(0, 16),
    st.sampled_from([BUFFER, RAM - 1, RAM, 0x1000, 0x1100, (1 << 32) - 1, 1 << 31]),
    st.integers(0, (1 << 32) - 1),
)


@EXAMPLES
@given(
    token=TOKENS,
    inputs=st.one_of(st.integers(0, 9), WORDS),
    outputs=st.one_of(st.integers(0, 9), WORDS),
    words=st.lists(WORDS, min_size=8, max_size=8),
    buffer=st.sampled_from([BUFFER, BUFFER + 1, RAM - 12, RAM - 16, RAM, MASK]),
)
def test_any_rtas_call_returns_a_defined_code(
    stub: Stub, token: int, inputs: int, outputs: int, words: list[int], buffer: int
) -> None:
    stub.restore()
    packed = struct.pack(">11I", token, inputs, outputs, *words)
    room = max(0, min(len(packed), RAM - buffer))
    stub.machine.dma.write(min(buffer, RAM), packed[:room])
    assert stub.call(HcallNumber.H_RTAS, buffer) in CODES


@EXAMPLES
@given(data=st.data())
def test_any_well_formed_rtas_call_answers_in_its_buffer(stub: Stub, data: st.DataObject) -> None:
    from machines.pseries.rtas import _SERVICES

    service = data.draw(st.sampled_from(sorted(_SERVICES.values(), key=lambda one: one.token)))
    words = data.draw(st.lists(WORDS, min_size=service.inputs, max_size=service.inputs))
    stub.restore()
    head = (service.token, service.inputs, service.outputs)
    stub.machine.dma.write(BUFFER, struct.pack(f">{3 + len(words)}I", *head, *words))
    assert stub.call(HcallNumber.H_RTAS, BUFFER) == papr.H_SUCCESS


def test_real_mode_load_beyond_ram_is_a_machine_check(stub: Stub) -> None:
    stub.restore()
    stub.machine.dma.write(BUFFER, assemble(li64(4, 1 << 40), ld(5, 4), b(0)))
    assert stub.run(BUFFER) - 28 == 0x200
    assert stub.vcpu.spr(Spr.DAR) == 1 << 40


def test_real_mode_fetch_beyond_ram_is_a_machine_check(stub: Stub) -> None:
    stub.restore()
    assert stub.run(1 << 40) - 28 == 0x200


def test_stub_reports_success_of_a_known_call(stub: Stub) -> None:
    stub.restore()
    assert stub.call(HcallNumber.H_RANDOM) == papr.H_SUCCESS
