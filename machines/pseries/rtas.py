"""Run-time abstraction services, entered by hypercall 0xf000 (LoPAPR 1.1, chapter 7).

The argument buffer is in guest RAM and always big-endian: token, number of inputs, number of
outputs, inputs, outputs, 32 bits each.  The first output is the status.  A handler gets the
inputs and returns the outputs; the table checks their numbers first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from emu.cpu.vcpu import Vcpu
from emu.log import guest_error, log
from emu.memory.dma import Dma, DmaError
from machines.pseries import papr
from machines.pseries.nvram import Nvram
from machines.pseries.rtc import Rtc
from machines.pseries.xics import Xics

SUCCESS, HARDWARE_ERROR, PARAMETER_ERROR = 0, -1, -3
NOT_AUTHORIZED, SYSPARM_NOT_SUPPORTED, MULTI_LEVEL_BUSY = -9002, -3, -9000
SYSPARM_PARAMETER_ERROR = -9999
TOKEN_BASE = 0x2000
MAX_ARGUMENTS = 16
_MAX_PANIC_MESSAGE = 1024
_rtas_log = log("rtas")


class RtasContext(Protocol):
    """What RTAS needs of the machine."""

    xics: Xics
    nvram: Nvram
    rtc: Rtc

    @property
    def dma(self) -> Dma: ...

    @property
    def uuid(self) -> UUID | None: ...

    @property
    def ram_size(self) -> int: ...

    def vcpu_by_number(self, number: int) -> Vcpu | None: ...

    def request_shutdown(self) -> None: ...

    def request_reset(self) -> None: ...

    def guest_panicked(self, message: str) -> None: ...

    def start_cpu(self, vcpu: Vcpu, pc: int, r3: int) -> None: ...

    def stop_cpu(self, vcpu: Vcpu) -> None: ...

    def display_character(self, character: int) -> None: ...


@dataclass(frozen=True)
class Call:
    """One call of the guest: the machine, the vCPU, the inputs (unsigned), how many outputs."""

    machine: RtasContext
    vcpu: Vcpu
    inputs: tuple[int, ...]
    outputs: int


Handler = Callable[[Call], "int | list[int]"]


@dataclass(frozen=True)
class Service:
    """A service by name, with its numbers of inputs and outputs (status included).

    ``others`` are more pairs of numbers that it can be called with.
    """

    name: str
    token: int
    inputs: int
    outputs: int
    handler: Handler
    others: tuple[tuple[int, int], ...] = ()


_SERVICES: dict[int, Service] = {}


def service(
    name: str, inputs: int, outputs: int, *others: tuple[int, int]
) -> Callable[[Handler], Handler]:
    """Register a service under the next token."""

    def register(handler: Handler) -> Handler:
        token = TOKEN_BASE + len(_SERVICES)
        _SERVICES[token] = Service(name, token, inputs, outputs, handler, others)
        return handler

    return register


def rtas_calls() -> list[tuple[str, int]]:
    """Names and tokens for the device tree."""
    return [(entry.name, entry.token) for entry in _SERVICES.values()]


class Rtas:
    """The dispatcher of one machine.  vCPU thread."""

    def __init__(self, machine: RtasContext) -> None:
        self._machine = machine

    def call(self, vcpu: Vcpu, buffer: int) -> int:
        """Serve the call whose argument buffer is at a guest real address; an H_* code."""
        dma = self._machine.dma
        try:
            token, inputs, outputs = struct.unpack(">3I", dma.read(buffer, 12))
            if inputs > MAX_ARGUMENTS or outputs > MAX_ARGUMENTS or not outputs:
                return papr.H_PARAMETER
            values = struct.unpack(f">{inputs}I", dma.read(buffer + 12, 4 * inputs))
            dma.read(buffer + 12 + 4 * inputs, 4 * outputs)  # nothing happens without an answer
            answers = self._serve(vcpu, token, values, outputs)
            padded = (answers + [0] * outputs)[:outputs]
            words = [answer & 0xFFFFFFFF for answer in padded]
            dma.write(buffer + 12 + 4 * inputs, struct.pack(f">{outputs}I", *words))
        except DmaError:
            return papr.H_PARAMETER
        return papr.H_SUCCESS

    def _serve(self, vcpu: Vcpu, token: int, inputs: tuple[int, ...], outputs: int) -> list[int]:
        entry = _SERVICES.get(token)
        if entry is None:
            guest_error("rtas", "unknown token %#x", token)
            return [PARAMETER_ERROR]
        if (len(inputs), outputs) not in ((entry.inputs, entry.outputs), *entry.others):
            guest_error("rtas", "%s: %d inputs, %d outputs", entry.name, len(inputs), outputs)
            return [PARAMETER_ERROR]
        try:
            answer = entry.handler(Call(self._machine, vcpu, inputs, outputs))
        except DmaError:
            answer = PARAMETER_ERROR
        answers = [answer] if isinstance(answer, int) else answer
        if _rtas_log.enabled:
            _rtas_log("%s%r -> %r", entry.name, inputs, answers)
        return answers


@service("display-character", 1, 1)
def _display_character(call: Call) -> int:
    call.machine.display_character(call.inputs[0] & 0xFF)
    return SUCCESS


@service("get-time-of-day", 0, 8)
def _get_time_of_day(call: Call) -> list[int]:
    now = call.machine.rtc.now()
    nanoseconds = now.microsecond * 1000
    date = [now.year, now.month, now.day, now.hour, now.minute, now.second]
    return [SUCCESS, *date, nanoseconds]


@service("set-time-of-day", 7, 1)
def _set_time_of_day(call: Call) -> int:
    *date, nanoseconds = call.inputs
    try:
        when = datetime(*date, nanoseconds // 1000)  # type: ignore[call-arg,arg-type]
        call.machine.rtc.set(when)
    except (ValueError, OverflowError):
        return PARAMETER_ERROR
    return SUCCESS


@service("power-off", 2, 1)
def _power_off(call: Call) -> int:
    call.machine.request_shutdown()
    return SUCCESS


@service("system-reboot", 0, 1)
def _system_reboot(call: Call) -> int:
    call.machine.request_reset()
    return SUCCESS


@service("nvram-fetch", 3, 2)
def _nvram_fetch(call: Call) -> list[int]:
    offset, buffer, length = call.inputs
    data = call.machine.nvram.fetch(offset, length)
    if data is None:
        return [PARAMETER_ERROR, 0]
    call.machine.dma.write(buffer, data)
    return [SUCCESS, length]


@service("nvram-store", 3, 2)
def _nvram_store(call: Call) -> list[int]:
    offset, buffer, length = call.inputs
    nvram = call.machine.nvram
    if offset + length > nvram.size:
        return [PARAMETER_ERROR, 0]
    nvram.store(offset, call.machine.dma.read(buffer, length))
    return [SUCCESS, length]


_SYSPARM_SPLPAR_CHARACTERISTICS = 20
_SYSPARM_DIAGNOSTICS_RUN_MODE = 42
_SYSPARM_UUID = 48
_DIAGNOSTICS_RUN_MODE_DISABLED = 0


@service("ibm,get-system-parameter", 3, 1)
def _get_system_parameter(call: Call) -> int:
    parameter, buffer, length = call.inputs
    machine = call.machine
    if parameter == _SYSPARM_SPLPAR_CHARACTERISTICS:
        value = (
            f"MaxEntCap=1,DesMem={machine.ram_size >> 20},DesProcs=1,MaxPlatProcs=1"
        ).encode() + b"\0"
    elif parameter == _SYSPARM_DIAGNOSTICS_RUN_MODE:
        value = bytes([_DIAGNOSTICS_RUN_MODE_DISABLED])
    elif parameter == _SYSPARM_UUID:
        value = b"" if machine.uuid is None else machine.uuid.bytes
    else:
        return SYSPARM_NOT_SUPPORTED
    if length < 2:
        return SYSPARM_PARAMETER_ERROR
    answer = struct.pack(">H", len(value)) + value
    machine.dma.write(buffer, answer[:length])
    return SUCCESS


@service("ibm,set-system-parameter", 2, 1)
def _set_system_parameter(call: Call) -> int:
    known = (
        _SYSPARM_SPLPAR_CHARACTERISTICS,
        _SYSPARM_DIAGNOSTICS_RUN_MODE,
        _SYSPARM_UUID,
    )
    return NOT_AUTHORIZED if call.inputs[0] in known else SYSPARM_NOT_SUPPORTED


@service("ibm,os-term", 1, 1)
def _os_term(call: Call) -> int:
    machine = call.machine
    address = call.inputs[0]
    length = min(_MAX_PANIC_MESSAGE, machine.dma.size - address)
    text = machine.dma.read(address, length).split(b"\0")[0] if length > 0 else b""
    machine.guest_panicked(text.decode("utf-8", "replace"))
    return SUCCESS


_CPU_STOPPED, _CPU_STARTED = 0, 2


@service("query-cpu-stopped-state", 1, 2)
def _query_cpu_stopped_state(call: Call) -> list[int]:
    target = call.machine.vcpu_by_number(call.inputs[0])
    if target is None:
        return [PARAMETER_ERROR, 0]
    return [SUCCESS, _CPU_STOPPED if target.record["stopped"] else _CPU_STARTED]


@service("start-cpu", 3, 1)
def _start_cpu(call: Call) -> int:
    number, pc, r3 = call.inputs
    target = call.machine.vcpu_by_number(number)
    if target is None:
        return PARAMETER_ERROR
    if not target.record["stopped"]:
        return HARDWARE_ERROR
    call.machine.start_cpu(target, pc, r3)
    return SUCCESS


@service("stop-self", 0, 1)
def _stop_self(call: Call) -> int:
    call.machine.stop_cpu(call.vcpu)
    return SUCCESS


@service("ibm,set-xive", 3, 1)
def _set_xive(call: Call) -> int:
    return SUCCESS if call.machine.xics.set_xive(*call.inputs) else PARAMETER_ERROR


@service("ibm,get-xive", 1, 3)
def _get_xive(call: Call) -> list[int]:
    xive = call.machine.xics.get_xive(call.inputs[0])
    return [PARAMETER_ERROR, 0, 0] if xive is None else [SUCCESS, *xive]


@service("ibm,int-off", 1, 1)
def _int_off(call: Call) -> int:
    return SUCCESS if call.machine.xics.int_off(call.inputs[0]) else PARAMETER_ERROR


@service("ibm,int-on", 1, 1)
def _int_on(call: Call) -> int:
    return SUCCESS if call.machine.xics.int_on(call.inputs[0]) else PARAMETER_ERROR


@service("ibm,suspend-me", 0, 1)
def _suspend_me(_call: Call) -> int:
    """Suspending to another platform is not possible: refused, as without authority."""
    return NOT_AUTHORIZED
