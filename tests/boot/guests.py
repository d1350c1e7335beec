"""The Linux guests that tests boot, as `make guests` leaves them, and what they must not say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from emu.config import MachineConfig
from emu.machine import Machine

GUESTS = Path(__file__).resolve().parents[2] / "build" / "guests"
READY = "GUEST-READY"
#: Generous: a boot takes a few seconds on an idle host.
BOOT_SECONDS = 60.0
#: What a kernel prints when something went wrong.
TROUBLE = re.compile(r"WARNING:|BUG:|Oops|Call Trace|Kernel panic|soft lockup|rcu.*stall")


@dataclass(frozen=True)
class Guest:
    """A kernel and its initramfs; `name` is the directory."""

    name: str
    ram_size: int = 1 << 30

    @property
    def kernel(self) -> Path:
        """The kernel's ELF file."""
        return GUESTS / self.name / "vmlinux"

    @property
    def initrd(self) -> Path:
        """The initramfs."""
        return GUESTS / self.name / "initramfs.cpio.gz"

    @property
    def missing(self) -> str:
        """Why the guest cannot boot; empty if it can."""
        gone = [str(path) for path in (self.kernel, self.initrd) if not path.exists()]
        return f"no {' and no '.join(gone)} (make guests)" if gone else ""

    def config(
        self, cpu: str = "power8", append: str = "", no_reboot: bool = False, cpus: int = 1
    ) -> MachineConfig:
        """A machine with this guest and its console in memory."""
        return MachineConfig(
            cpu=cpu,
            smp=cpus,
            ram_size=self.ram_size,
            kernel=self.kernel,
            initrd=self.initrd,
            append=f"console=hvc0 {append}".strip(),
            no_reboot=no_reboot,
        )

    def arguments(self, append: str = "", cpu: str = "power8") -> list[str]:
        """The same as options of the command line."""
        options = ["-M", "pseries", "-cpu", cpu, "-m", f"{self.ram_size >> 20}"]
        options += ["-kernel", os.fspath(self.kernel), "-initrd", os.fspath(self.initrd)]
        return [*options, "-append", f"console=hvc0 {append}".strip()]


LE = Guest("le")
LE_SMALL = Guest("le-small", 512 << 20)
BE = Guest("be", 512 << 20)


def boot(
    guest: Guest,
    cpu: str = "power8",
    append: str = "",
    no_reboot: bool = False,
    cpus: int = 1,
) -> Machine:
    """Build and start a machine, which the caller closes (a `with` block does)."""
    machine = Machine(guest.config(cpu, append, no_reboot, cpus))
    machine.start()
    return machine


def trouble_in(text: str) -> list[str]:
    """The lines of a transcript that tell of a fault."""
    return [line for line in text.splitlines() if TROUBLE.search(line)]
