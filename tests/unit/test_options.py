"""The command line, the configuration, and what `main` makes of mistakes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from emu import log as emu_log
from emu.__main__ import main
from emu.config import (
    GIB,
    MIB,
    ConfigError,
    DeviceConfig,
    MachineConfig,
    MemoryConfig,
    StdioConfig,
)
from emu.options import HelpRequested, parse_command_line
from emu.options.table import all_options

KERNEL = __file__  # any file that can be read


def parse(*argv: str) -> MachineConfig:
    return parse_command_line(argv, warn=lambda message: pytest.fail(message))


FIELDS: list[tuple[list[str], str, object]] = [
    ([], "machine", "pseries"),
    ([], "ram_size", 512 * MIB),
    ([], "serial", (StdioConfig(id="serial0"),)),
    (["-M", "pseries"], "machine", "pseries"),
    (["--machine", "type=pseries,x-vof=yes"], "machine_options", {"x-vof": "on"}),
    (["-M", "pseries,accel=kvm:tcg"], "accel", "tcg"),
    (["-M", "pseries,cap-htm=off"], "machine_options", {"cap-htm": "off"}),
    (["-machine", "dumpdtb=x.dtb"], "dumpdtb", "x.dtb"),
    (["-machine", f"kernel={KERNEL}"], "kernel", KERNEL),
    (["-M", "usb=off", "-M", "max-cpu-compat=a,,b"], "machine_options", {"max-cpu-compat": "a,b"}),
    (["-cpu", "POWER8"], "cpu", "power8"),
    (["-cpu", "power8_v2.0"], "cpu", "power8"),
    (["-cpu", "power9"], "cpu", "power9"),
    (["-cpu", "power9_v2.0,pre-2.8-migration=on"], "cpu", "power9"),
    (["-smp", "1"], "smp", 1),
    (["-smp", "4"], "smp", 4),
    (["-smp", "16,sockets=2,cores=8"], "smp", 16),
    (["-smp", "cpus=1,cores=1,threads=1,sockets=1,maxcpus=1"], "smp", 1),
    (["-m", "1024"], "ram_size", GIB),
    (["-m", "1.5G"], "ram_size", 1536 * MIB),
    (["-m", "size=2g"], "ram_size", 2 * GIB),
    (["-m", "1048576K"], "ram_size", GIB),
    (["-m", "512", "-m", "1G"], "ram_size", GIB),
    (["-kernel", KERNEL], "kernel", KERNEL),
    (["-kernel", KERNEL, "-initrd", KERNEL], "initrd", KERNEL),
    (["-kernel", KERNEL, "-append", "a=b,c"], "append", "a=b,c"),
    (["-bios", KERNEL], "bios", KERNEL),
    (["-rtc", "base=localtime"], "rtc_base", "localtime"),
    (["-rtc", "utc,clock=host"], "rtc_base", "utc"),
    (["-rtc", "base=2020-01-01T00:00:00"], "rtc_base", datetime(2020, 1, 1)),
    (["-no-reboot"], "no_reboot", True),
    (["-no-shutdown"], "no_shutdown", True),
    (["-S"], "start_paused", True),
    (["-nodefaults"], "nodefaults", True),
    (["-nodefconfig", "-no-user-config", "-vga", "none", "-net", "none"], "devices", ()),
    (["-name", "vm,,1,debug-threads=on"], "name", "vm,1"),
    (["-accel", "tcg,thread=multi,tb-size=256"], "accel", "tcg"),
    (["-d", "int,hcall", "-d", "mmu"], "log_items", {"int", "hcall", "mmu"}),
    (["-d", "all"], "log_items", set(emu_log.DESCRIPTIONS)),
    (["-D", "log.txt"], "log_file", "log.txt"),
    (
        ["-uuid", "550e8400-e29b-41d4-a716-446655440000"],
        "uuid",
        UUID("550e8400-e29b-41d4-a716-446655440000"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "field", "value"), FIELDS)
def test_option_sets_field(argv: list[str], field: str, value: object) -> None:
    assert getattr(parse(*argv), field) == value


ERRORS: list[tuple[list[str], str]] = [
    (["-foo"], "-foo: invalid option"),
    (["--foo"], "--foo: invalid option"),
    (["disk.img"], "disk.img: unexpected argument"),
    (["-kernel"], "-kernel: requires an argument"),
    (["-kernel", "/nope"], "-kernel /nope: could not open kernel '/nope': No such file or direct"),
    (["-kernel", "/"], "-kernel /: could not open kernel '/': Is a directory"),
    (["-initrd", KERNEL], f"-initrd {KERNEL}: an initrd needs a kernel"),
    (["-append", "x"], "-append x: a kernel command line needs a kernel"),
    (["-M", "powernv"], "-M powernv: unsupported machine type 'powernv' (use -machine help to"),
    (["-M", "pseries,foo=1"], "-M pseries,foo=1: Property 'pseries-machine.foo' not found"),
    (["-M", "pseries,usb=on"], "-M pseries,usb=on: only usb=off is supported"),
    (["-M", "accel=kvm"], "-M accel=kvm: invalid accelerator 'kvm'"),
    (["-M", "x-vof=maybe"], "-M x-vof=maybe: Parameter 'x-vof' expects 'on' or 'off'"),
    (["-cpu", "host"], "-cpu host: CPU model 'host' requires KVM"),
    (["-cpu", "970"], "-cpu 970: unable to find CPU model '970'"),
    (["-cpu", "power8,foo"], "-cpu power8,foo: Property 'power8-powerpc64-cpu.foo' not found"),
    (["-smp", "17"], "-smp 17: Invalid SMP CPUs 17. The max CPUs supported by machine"),
    (["-M", "virtmmio", "-smp", "2"], "-smp 2: Invalid SMP CPUs 2. The max CPUs supported by mac"),
    (["-smp", "0"], "-smp 0: 'cpus' must be greater than zero"),
    (["-smp", "x"], "-smp x: Parameter 'cpus' expects a number"),
    (["-smp", "cores=2,threads=2"], "-smp cores=2,threads=2: a core has one thread"),
    (["-smp", "1,cores=3"], "-smp 1,cores=3: the topology's 3 CPUs do not match maxcpus (1)"),
    (["-smp", "1,maxcpus=2"], "-smp 1,maxcpus=2: CPU hotplug is not supported"),
    (["-smp", "2,maxcpus=1"], "-smp 2,maxcpus=1: maxcpus (1) must not be less than cpus (2)"),
    (["-smp", "1,foo=2"], "-smp 1,foo=2: Invalid parameter 'foo'"),
    (["-m", "abc"], "-m abc: Parameter 'size' expects a non-negative number below 2^64"),
    (["-m", "300"], "-m 300: RAM size 300 MiB is not a multiple of 256 MiB"),
    (["-m", "128"], "-m 128: RAM size must be between 256 MiB and 16 GiB, not 128 MiB"),
    (["-m", "1T"], "-m 1T: RAM size must be between"),
    (["-m", "16E"], "-m 16E: Parameter 'size' expects"),
    (["-m", "slots=2"], "-m slots=2: missing 'size'"),
    (["-m", "1G,slots=2"], "-m 1G,slots=2: slots specified but no maxmem"),
    (["-m", "1G,maxmem=512M"], "-m 1G,maxmem=512M: maxmem (0x20000000) must be at least"),
    (["-accel", "kvm"], "-accel kvm: invalid accelerator 'kvm' (only tcg is supported)"),
    (["-accel", "tcg,foo=1"], "-accel tcg,foo=1: Property 'tcg-accel.foo' not found"),
    (["-enable-kvm"], "-enable-kvm: invalid accelerator 'kvm'"),
    (["-uuid", "1"], "-uuid 1: failed to parse UUID string: wrong format"),
    (["-name", "x,foo=1"], "-name x,foo=1: Invalid parameter 'foo'"),
    (["-rtc", "base=x"], "-rtc base=x: invalid datetime 'x'"),
    (["-rtc", "base=2020-01-01T00:00:00Z"], "-rtc base=2020-01-01T00:00:00Z: a date and time"),
    (["-rtc", "clock=sun"], "-rtc clock=sun: invalid option value 'sun' for 'clock'"),
    (["-display", "gtk"], "-display gtk: display 'gtk' is not supported (only none is)"),
    (["-vga", "std"], "-vga std: vga type 'std' is not supported"),
    (["-monitor", "chardev:nowhere"], "-monitor chardev:nowhere: chardev 'nowhere' not found"),
    (["-d", "foo"], "-d foo: unknown log item 'foo'"),
    (["-d", ""], "-d: no log item"),
    (["-device", "foo"], "-device foo: 'foo' is not a valid device model name"),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS)
def test_mistake_is_one_line_and_status_1(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ppc64emu: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["-M", "?"], "pseries"),
        (["-machine", "help"], "(default)"),
        (["-M", "pseries,help"], "dumpdtb=file"),
        (["-cpu", "help"], "power9_v2.0"),
        (["-accel", "help"], "tcg"),
        (["-d", "help"], "guest_errors"),
        (["-chardev", "?"], "ringbuf"),
        (["-device", "help"], "spapr-vty"),
        (["-device", "spapr-vty,help"], "chardev=<str>"),
        (["-display", "help"], "none"),
        (["--version"], "ppc64emu version"),
        (["-kernel", KERNEL, "-h"], "usage: ppc64emu"),
    ],
)
def test_help_goes_to_stdout_with_status_0(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert text in out
    assert err == ""


def test_help_lists_every_option_and_fits() -> None:
    with pytest.raises(HelpRequested) as caught:
        parse("-help")
    lines = str(caught.value).splitlines()
    for entry in all_options():
        assert any(line.startswith(f"-{entry.names[0]}") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("argv", "warning"),
    [
        (["-M", "pseries,cap-cfpc=workaround"], "cap-cfpc=workaround has no effect"),
        (["-m", "1G,slots=2,maxmem=4G"], "memory hotplug is not supported"),
        (["-rtc", "clock=vm"], "clock=vm is ignored"),
    ],
)
def test_option_without_effect_warns(argv: list[str], warning: str) -> None:
    warnings: list[str] = []
    parse_command_line(argv, warn=warnings.append)
    assert len(warnings) == 1
    assert warning in warnings[0]
    assert warnings[0].startswith(" ".join(argv))


def test_config_from_python() -> None:
    config = MachineConfig(kernel="vmlinux", initrd=Path("i"), append="x", rtc_base="2020-01-01")
    assert config.serial == (MemoryConfig(id="serial0"),)
    assert config.rtc_base == datetime(2020, 1, 1)
    assert MachineConfig(cpu="POWER9").cpu == "power9"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"ram_size": 64 * MIB}, "ram_size"),
        ({"machine": "x"}, "machine"),
        ({"cpu": "x"}, "cpu"),
        ({"smp": 17}, "smp"),
        ({"accel": "kvm"}, "accel"),
        ({"rtc_base": "x"}, "rtc_base"),
        ({"kernel": "k", "append": "a\0"}, "append"),
        ({"devices": (DeviceConfig("spapr-vty", {"reg": "x"}),)}, "devices[0]"),
        ({"serial": (StdioConfig(), StdioConfig())}, "serial[1]"),
    ],
)
def test_config_error_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MachineConfig(**fields)
    assert caught.value.field == field
