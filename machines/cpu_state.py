"""A vCPU's section in a state stream."""

from __future__ import annotations

from emu.cpu.registers import (
    MIGRATABLE_SPRS,
    CpuState,
    Reservation,
    read_state,
    write_state,
)
from emu.cpu.vcpu import Vcpu
from emu.migration.fields import Description, flag, i64, u32, u64
from emu.migration.sections import Component
from emu.migration.stream import MigrationError

_M64 = (1 << 64) - 1
_SPR_NAMES = tuple(MIGRATABLE_SPRS)
# Per-vCPU areas the guest has registered by hypercall
_AREAS = ("vpa", "slb_shadow", "dtl", "dtl_size")


class CpuImage:
    """Registers between :func:`read_state` and the stream, as lists of 64-bit numbers.

    A reservation does not travel: losing it is what an interrupt does too.
    """

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        self.pvr = int(vcpu.record["pvr"])
        self.gpr = [0] * 32
        self.vsr = [0] * 128
        self.slb = [0] * 128
        self.sprs = [0] * len(_SPR_NAMES)
        self.cr = self.vscr = self.pending = 0
        self.xer = self.lr = self.ctr = self.msr = self.fpscr = self.nip = self.cfar = 0
        self.timebase = self.decrementer = 0
        self.halted = self.prodded = self.stopped = False

    def read(self) -> None:
        """Take the state of the vCPU, which is not running."""
        state = read_state(self.vcpu)
        self.gpr = list(state.gpr)
        self.vsr = [half for value in state.vsr for half in (value >> 64, value & _M64)]
        self.slb = [half for entry in state.slb for half in entry]
        self.sprs = [state.sprs[name] for name in _SPR_NAMES]
        for name in ("cr", "xer", "lr", "ctr", "msr", "fpscr", "vscr", "nip", "cfar"):
            setattr(self, name, getattr(state, name))
        for name in ("pending", "timebase", "decrementer", "halted", "prodded", "stopped"):
            setattr(self, name, getattr(state, name))

    def write(self) -> None:
        """Give the vCPU this state; :class:`MigrationError` if no vCPU can have it."""
        if self.pvr != int(self.vcpu.record["pvr"]):
            here = int(self.vcpu.record["pvr"])
            raise MigrationError(f"cpu: the source's PVR is {self.pvr:#x}, this CPU's {here:#x}")
        state = CpuState(
            gpr=tuple(self.gpr),
            vsr=tuple(
                high << 64 | low for high, low in zip(self.vsr[::2], self.vsr[1::2], strict=True)
            ),
            slb=tuple(zip(self.slb[::2], self.slb[1::2], strict=True)),
            sprs=dict(zip(_SPR_NAMES, self.sprs, strict=True)),
            reservation=Reservation(_M64, 0, 0),
            **{name: getattr(self, name) for name in _PLAIN},
        )
        try:
            write_state(self.vcpu, state)
        except ValueError as error:
            raise MigrationError(f"cpu: {error}") from error


_PLAIN = (
    *("cr", "xer", "lr", "ctr", "msr", "fpscr", "vscr", "nip", "cfar"),
    *("pending", "timebase", "decrementer", "halted", "prodded", "stopped"),
)

CPU_STATE = Description(
    "cpu",
    1,
    (
        u32("pvr"),
        u64("gpr", count=32),
        u64("vsr", count=128),
        u32("cr"),
        *(u64(name) for name in ("xer", "lr", "ctr", "msr", "fpscr")),
        u32("vscr"),
        u64("nip"),
        u64("cfar"),
        u64("sprs", count=len(_SPR_NAMES)),
        u64("slb", count=128),
        u32("pending"),
        u64("timebase"),
        i64("decrementer"),
        flag("halted"),
        flag("prodded"),
        flag("stopped"),
        *(u64(name, path=f"vcpu.record.{name}") for name in _AREAS),
    ),
)


def cpu_component(vcpu: Vcpu) -> Component:
    """The section of one vCPU; its state takes effect in the check phase."""
    image = CpuImage(vcpu)
    return Component("cpu", CPU_STATE, image, vcpu.index, prepare=image.read, check=image.write)
