"""The properties of -machine, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from emu.config import ConfigError
from emu.options.builder import ConfigBuilder
from emu.options.files import readable_file
from emu.options.syntax import parse_bool

_Setter = Callable[[ConfigBuilder, str, str], None]


@dataclass(frozen=True)
class _Property:
    form: str
    help: str
    set: _Setter


def _field(field: str, convert: Callable[[str], str] = str) -> _Setter:
    """Set a field of the configuration itself."""

    def setter(build: ConfigBuilder, key: str, value: str) -> None:
        build.set(field, convert(value))

    return setter


def _keep(build: ConfigBuilder, key: str, value: str) -> None:
    """Leave the value to the machine."""
    build.machine_options[key] = value


def _keep_bool(build: ConfigBuilder, key: str, value: str) -> None:
    build.machine_options[key] = "on" if parse_bool(key, value) else "off"


def _fixed(*accepted: str) -> _Setter:
    """Accept only what the machine does anyway."""

    def setter(build: ConfigBuilder, key: str, value: str) -> None:
        if value not in accepted:
            raise ConfigError(f"only {key}={accepted[0]} is supported")

    return setter


def _any_bool(build: ConfigBuilder, key: str, value: str) -> None:
    parse_bool(key, value)


def _accel(build: ConfigBuilder, key: str, value: str) -> None:
    # A list by preference ("kvm:tcg"): the first that works is taken.
    if "tcg" not in value.split(":"):
        raise ConfigError(f"invalid accelerator '{value}' (only tcg is supported)")
    build.set("accel", "tcg")


PROPERTIES: Mapping[str, _Property] = {
    "accel": _Property("tcg", "accelerator", _accel),
    "append": _Property("string", "kernel command line, as -append", _field("append")),
    "dt-compatible": _Property("string", "'compatible' of the device tree's root", _keep),
    "dump-guest-core": _Property("on|off", "no effect", _any_bool),
    "dumpdtb": _Property("file", "write the device tree to a file and quit", _field("dumpdtb")),
    "firmware": _Property("file", "firmware image, as -bios", _field("bios", readable_file)),
    "graphics": _Property("off", "there are no graphics", _fixed("off", "no", "false", "n")),
    "ic-mode": _Property("xics", "interrupt controller", _fixed("xics")),
    "initrd": _Property("file", "initial RAM disk, as -initrd", _field("initrd", readable_file)),
    "kernel": _Property("file", "kernel image, as -kernel", _field("kernel", readable_file)),
    "kernel-irqchip": _Property("off", "needs KVM", _fixed("off", "no", "false", "n")),
    "max-cpu-compat": _Property("model", "highest CPU compatibility mode offered", _keep),
    "mem-merge": _Property("on|off", "no effect", _any_bool),
    "resize-hpt": _Property("disabled", "hash table resizing", _fixed("disabled", "default")),
    "suppress-vmdesc": _Property("on|off", "no effect", _any_bool),
    "usb": _Property("off", "there is no USB", _fixed("off", "no", "false", "n")),
    "vfio-no-msix-emulation": _Property("on|off", "no effect", _any_bool),
    "x-test-exit": _Property("on|off", "hypercall that ends the emulator (tests)", _keep_bool),
    "x-vof": _Property("on|off", "built-in Open Firmware instead of a firmware image", _keep_bool),
}
#: What only pseries has, besides cap-*.
_PSERIES_ONLY = (
    *("dt-compatible", "ic-mode", "kernel-irqchip", "max-cpu-compat", "resize-hpt"),
    *("vfio-no-msix-emulation", "x-test-exit", "x-vof"),
)

#: Capabilities (and values) that describe what the machine does anyway; others get a warning.
_MATCHING_CAPS: Mapping[str, tuple[str, ...]] = {
    "cap-ccf-assist": ("off",),
    "cap-cfpc": ("broken",),
    "cap-dfp": ("on",),
    "cap-fwnmi": ("off",),
    "cap-htm": ("off",),
    "cap-ibs": ("broken",),
    "cap-large-decr": ("off",),
    "cap-nested-hv": ("off",),
    "cap-rpt-invalidate": ("off",),
    "cap-sbbc": ("broken",),
    "cap-vsx": ("on",),
}


def set_property(build: ConfigBuilder, key: str, value: str) -> None:
    """Apply one machine property; ConfigError if it is unknown or the value is not possible."""
    pseries = build.machine == "pseries"
    if key.startswith("cap-") and pseries:
        _keep(build, key, value)
        if value not in _MATCHING_CAPS.get(key, ()):
            build.warn(f"{key}={value} has no effect")
        return
    if key not in PROPERTIES or (key in _PSERIES_ONLY and not pseries):
        raise ConfigError(f"Property '{build.machine}-machine.{key}' not found")
    PROPERTIES[key].set(build, key, value)


def describe_properties(machine: str) -> str:
    """Return the help on a machine's properties."""
    pseries = machine == "pseries"
    lines = [
        f"  {f'{key}={entry.form}':28} {entry.help}"
        for key, entry in PROPERTIES.items()
        if pseries or key not in _PSERIES_ONLY
    ]
    if pseries:
        lines.append(f"  {'cap-*=value':28} accepted; has no effect")
    return f"{machine} options:\n" + "\n".join(lines)
