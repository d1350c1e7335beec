"""The whole machine configuration, as frozen dataclasses.

A configuration is plain data: it opens no file and starts no thread. It is checked when it is
built; a mistake raises `ConfigError`, whose message is one line a user can act on.

    MachineConfig(kernel="vmlinux", initrd="initrd.img", append="console=hvc0")

The command line (`emu.options`) builds the same objects from QEMU's syntax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from devices.block.config import DriveConfig
from devices.net.config import NetdevConfig
from devices.registry import DRIVERS
from emu.chardev.config import (
    ChardevConfig,
    ConfigError,
    FileConfig,
    MemoryConfig,
    NullConfig,
    PipeConfig,
    PtyConfig,
    SocketConfig,
    StdioConfig,
)
from emu.config_consoles import MonitorConfig, VtyConfig, plan_vtys
from emu.config_devices import (
    Backdrop,
    DeviceConfig,
    GlobalProperty,
    ObjectConfig,
    PlannedDevice,
    RngBuiltinConfig,
    RngRandomConfig,
    plan_devices,
)
from emu.config_machine import (
    ACCELERATORS,
    CPU_ALIASES,
    DEFAULT_RAM_SIZE,
    GIB,
    KIB,
    MACHINES,
    MIB,
    StrPath,
    canonical_cpu,
    check_machine,
    check_ram_size,
    check_smp,
    parse_rtc_base,
)
from emu.config_trace import TraceConfig

__all__ = [
    "ACCELERATORS",
    "CPU_ALIASES",
    "GIB",
    "KIB",
    "MACHINES",
    "MIB",
    "ChardevConfig",
    "ConfigError",
    "DeviceConfig",
    "DriveConfig",
    "FileConfig",
    "GlobalProperty",
    "MachineConfig",
    "MemoryConfig",
    "MonitorConfig",
    "NetdevConfig",
    "NullConfig",
    "ObjectConfig",
    "PipeConfig",
    "PlannedDevice",
    "PtyConfig",
    "RngBuiltinConfig",
    "RngRandomConfig",
    "SocketConfig",
    "StdioConfig",
    "StrPath",
    "TraceConfig",
    "VtyConfig",
    "canonical_cpu",
    "check_ram_size",
    "check_smp",
    "parse_rtc_base",
]


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Everything needed to build and start a machine.

    `serial` are the virtual terminals from FIRST_VTY_REG on, or the board's console (default:
    one, in memory, which is `Machine.console`); `chardevs`, `drives`, `netdevs` and `objects` are
    what `devices` refer to by id. `globals` are properties for all devices of a class. `ram_size`
    is in bytes. `rtc_base` is "utc", "localtime", or a naive datetime taken as UTC (also in ISO
    format). `monitors` are served from the start; `incoming` is a migration address to wait at, or
    "defer"; `gdb` is where a debugger connects. `log_items` are names from `emu.log`; `trace`
    limits and names what they show. `dumpdtb` is a file for the device tree, written instead of
    running the guest. `origins` says which option a part comes from, by field ("devices[0]"), for
    error messages.
    """

    machine: str = "pseries"
    machine_options: Mapping[str, str] = field(default_factory=dict)
    cpu: str = "power8"
    cpu_properties: Mapping[str, str] = field(default_factory=dict)
    smp: int = 1
    ram_size: int = DEFAULT_RAM_SIZE
    kernel: StrPath | None = None
    initrd: StrPath | None = None
    append: str = ""
    bios: StrPath | None = None
    dumpdtb: StrPath | None = None
    nodefaults: bool = False
    serial: tuple[ChardevConfig, ...] = (MemoryConfig(id="serial0"),)
    chardevs: Mapping[str, ChardevConfig] = field(default_factory=dict)
    drives: Mapping[str, DriveConfig] = field(default_factory=dict)
    netdevs: Mapping[str, NetdevConfig] = field(default_factory=dict)
    objects: Mapping[str, ObjectConfig] = field(default_factory=dict)
    globals: tuple[GlobalProperty, ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    monitors: tuple[MonitorConfig, ...] = ()
    incoming: str | None = None
    gdb: ChardevConfig | None = None
    rtc_base: str | datetime = "utc"
    no_reboot: bool = False
    no_shutdown: bool = False
    start_paused: bool = False
    name: str = ""
    uuid: UUID | None = None
    accel: str = "tcg"
    log_items: frozenset[str] = frozenset()
    log_file: StrPath | None = None
    trace: TraceConfig = field(default_factory=TraceConfig)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check every field, and the fields against each other."""
        check_machine(self.machine)
        object.__setattr__(self, "cpu", canonical_cpu(self.cpu))
        object.__setattr__(self, "rtc_base", parse_rtc_base(self.rtc_base))
        check_smp(self.smp, self.machine)
        check_ram_size(self.ram_size, self.machine)
        if self.accel not in ACCELERATORS:
            raise ConfigError(f"invalid accelerator '{self.accel}' (only tcg is known)", "accel")
        if self.initrd is not None and self.kernel is None:
            raise ConfigError("an initrd needs a kernel", "initrd")
        if self.append and self.kernel is None:
            raise ConfigError("a kernel command line needs a kernel", "append")
        if "\0" in self.append:
            raise ConfigError("the kernel command line contains a NUL character", "append")
        self._check_chardevs()
        self._check_globals()
        self.planned_devices()
        self.vtys()

    def _check_chardevs(self) -> None:
        backends = {f"chardevs[{key}]": chardev for key, chardev in self.chardevs.items()}
        users: set[int] = set()
        for index, chardev in enumerate(self.serial):
            if id(chardev) in users:
                raise ConfigError(f"chardev '{chardev.id}' is in use already", f"serial[{index}]")
            users.add(id(chardev))
            if not any(chardev is c for c in self.chardevs.values()):
                backends[f"serial[{index}]"] = chardev
        for index, monitor in enumerate(self.monitors):
            if not any(monitor.chardev is c for c in self.chardevs.values()):
                backends[f"monitors[{index}]"] = monitor.chardev
            if id(monitor.chardev) in users and not self.shares_console(monitor):
                where = f"monitors[{index}]"
                raise ConfigError(f"chardev '{monitor.chardev.id}' is in use already", where)
            users.add(id(monitor.chardev))
        if self.gdb is not None and not any(self.gdb is c for c in self.chardevs.values()):
            backends["gdb"] = self.gdb
        stdio = [where for where, c in backends.items() if isinstance(c, StdioConfig)]
        if len(stdio) > 1:
            raise ConfigError("cannot use stdio by multiple character devices", stdio[1])
        if self.machine == "virtmmio" and len(self.serial) > 1:
            raise ConfigError("machine virtmmio has only one console", "serial[1]")

    def shares_console(self, monitor: MonitorConfig) -> bool:
        """Whether a monitor is the one that Ctrl-A c reaches on a console."""
        shared = monitor.mode == "readline" and monitor.chardev.mux
        return shared and any(monitor.chardev is chardev for chardev in self.serial)

    def planned_devices(self) -> tuple[PlannedDevice, ...]:
        """All devices in their order, checked, with their buses; ConfigError for mistakes."""
        backdrop = Backdrop(
            self.machine,
            MACHINES[self.machine],
            (*self.serial, *(monitor.chardev for monitor in self.monitors)),
            self.chardevs,
            self.drives,
            self.netdevs,
            self.objects,
            self.globals,
        )
        return plan_devices(self.devices, backdrop)

    def vtys(self) -> tuple[VtyConfig, ...]:
        """All virtual terminals: those of `serial` first, then the spapr-vty devices."""
        return plan_vtys(self.serial, self.planned_devices(), self.chardevs)

    def _check_globals(self) -> None:
        """Those of the machine's slots; those of devices are checked with each device."""
        for index, wanted in enumerate(self.globals):
            if wanted.driver == "virtio-mmio":
                try:
                    entry = DRIVERS["virtio-mmio"].property(wanted.property)
                    entry.parse("virtio-mmio", wanted.value)
                except ConfigError as error:
                    raise ConfigError(str(error), f"globals[{index}]") from error

    @property
    def test_exit(self) -> bool:
        """Whether a pseries guest may end the emulator with a status (x-test-exit=on)."""
        return self.machine_options.get("x-test-exit") == "on"

    @property
    def mmio_legacy(self) -> bool:
        """Whether virtio-mmio slots have the legacy interface (virtio-mmio.force-legacy)."""
        entry = DRIVERS["virtio-mmio"].property("force-legacy")
        given = [
            wanted.value
            for wanted in self.globals
            if (wanted.driver, wanted.property) == ("virtio-mmio", entry.name)
        ]
        return bool(entry.parse("virtio-mmio", given[-1]) if given else entry.default)

    def place_of(self, chardev: ChardevConfig) -> str:
        """Where a backend is in the configuration ("serial[0]"); "" if it is not."""
        users = {f"chardevs[{label}]": config for label, config in self.chardevs.items()}
        users |= {f"serial[{index}]": config for index, config in enumerate(self.serial)}
        users |= {f"monitors[{n}]": monitor.chardev for n, monitor in enumerate(self.monitors)}
        return next((place for place, config in users.items() if config is chardev), "")

    def explain(self, error: ConfigError) -> ConfigError:
        """The error with the option in front that the wrong part comes from, if one is known."""
        origin = self.origins.get(error.field)
        if not origin or str(error).startswith(f"{origin}: "):
            return error
        return ConfigError(f"{origin}: {error}", error.field)
