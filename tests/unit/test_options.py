"""The command line, the configuration, and what `main` makes of mistakes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import types
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import log as emu_log
from emu.__main__ import main
from emu.config import (
    GIB,
    MIB,
    ConfigError,
    DeviceConfig,
    FileConfig,
    MachineConfig,
    MemoryConfig,
    NullConfig,
    PtyConfig,
    SocketConfig,
    StdioConfig,
)
from emu.options import HelpRequested, parse_command_line
from emu.options.syntax import join_keyvals, parse_keyvals, parse_number, parse_size
from emu.options.table import all_options
from emu.progress import progress

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


SERIALS: list[tuple[list[str], tuple[object, ...]]] = [
    (["-nographic"], (StdioConfig(id="serial0", mux=True, signal=False),)),
    (["-nographic", "-monitor", "none"], (StdioConfig(id="serial0"),)),
    (["-nographic", "-serial", "null"], (NullConfig(id="serial0"),)),
    (["-display", "none"], (StdioConfig(id="serial0"),)),
    (["-nodefaults"], ()),
    (["-nographic", "-nodefaults"], ()),
    (["-serial", "none"], ()),
    (["-serial", "none", "-serial", "pty"], (PtyConfig(id="serial0"),)),
    (["-serial", "mon:stdio"], (StdioConfig(id="serial0", mux=True, signal=False),)),
    (["-serial", "mon:pty"], (PtyConfig(id="serial0", mux=True),)),
    (["-serial", "file:/tmp/a,b"], (FileConfig(id="serial0", path="/tmp/a,b"),)),
    (["-serial", "ringbuf"], (MemoryConfig(id="serial0", size=65536),)),
    (["-serial", "unix:/s"], (SocketConfig(id="serial0", path="/s"),)),
    (
        ["-serial", "unix:/s,server"],
        (SocketConfig(id="serial0", path="/s", server=True, wait=True),),
    ),
    (
        ["-serial", "unix:/s,server=on,wait=off"],
        (SocketConfig(id="serial0", path="/s", server=True),),
    ),
    (
        ["-serial", "tcp:localhost:44,reconnect=5"],
        (SocketConfig(id="serial0", host="localhost", port=44, reconnect=5),),
    ),
    (
        ["-serial", "tcp::0,server,nowait", "-serial", "null"],
        (SocketConfig(id="serial0", server=True), NullConfig(id="serial1")),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "socket,id=c,path=/a,,b,server,nowait"],
        (SocketConfig(id="c", path="/a,b", server=True),),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "stdio,id=c,mux=on,signal=off"],
        (StdioConfig(id="c", mux=True, signal=False),),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "file,id=c,path=x,append=on"],
        (FileConfig(id="c", path="x", append=True),),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "ringbuf,id=c,size=4K"],
        (MemoryConfig(id="c", size=4096),),
    ),
]


@pytest.mark.parametrize(("argv", "expected"), SERIALS)
def test_serial(argv: list[str], expected: tuple[object, ...]) -> None:
    assert parse(*argv).serial == expected


def test_spapr_vty_replaces_the_default_console() -> None:
    config = parse("-chardev", "null,id=c", "-device", "spapr-vty,chardev=c,reg=0x71000000")
    assert config.serial == ()
    assert config.devices == (DeviceConfig("spapr-vty", {"chardev": "c", "reg": "0x71000000"}),)
    assert [(vty.reg, vty.chardev.id) for vty in config.vtys()] == [(0x71000000, "c")]


def test_vty_addresses_are_the_next_free_ones() -> None:
    config = parse(
        *("-serial", "null", "-chardev", "null,id=a", "-chardev", "null,id=b"),
        *("-device", "spapr-vty,chardev=a", "-device", "spapr-vty,chardev=b,reg=0x71000001"),
    )
    expected = [(0x71000000, "serial0"), (0x71000002, "a"), (0x71000001, "b")]
    assert [(vty.reg, vty.chardev.id) for vty in config.vtys()] == expected


ERRORS: list[tuple[list[str], str]] = [
    (["-foo"], "-foo: invalid option"),
    (["--foo"], "--foo: invalid option"),
    (["disk.img"], "disk.img: unexpected argument"),
    (["-kernel"], "-kernel: requires an argument"),
    (["-kernel", "/nope"], "-kernel /nope: could not open '/nope': No such file or directory"),
    (["-kernel", "/"], "-kernel /: could not open '/': Is a directory"),
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
    (["-smp", "2"], "-smp 2: only 1 CPU is supported"),
    (["-smp", "0"], "-smp 0: 'cpus' must be greater than zero"),
    (["-smp", "x"], "-smp x: Parameter 'cpus' expects a number"),
    (["-smp", "cores=2,threads=2"], "-smp cores=2,threads=2: only 1 CPU is supported"),
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
    (["-monitor", "stdio"], "-monitor stdio: the monitor is not supported yet"),
    (["-d", "foo"], "-d foo: unknown log item 'foo'"),
    (["-d", ""], "-d: no log item"),
    (["-serial", "foo"], "-serial foo: 'foo' is not a valid char driver"),
    (["-serial", "tcp:host"], "-serial tcp:host: expected tcp:HOST:PORT"),
    (["-serial", "tcp:h:99999"], "-serial tcp:h:99999: port 99999 is out of range"),
    (["-serial", "tcp:h:0"], "-serial tcp:h:0: a client socket needs a port"),
    (["-serial", "unix:/s,foo=1"], "-serial unix:/s,foo=1: Invalid parameter 'foo'"),
    (["-serial", "unix:"], "-serial unix:: chardev: socket: either a path or a port is needed"),
    (["-serial", "unix:/s,wait=on"], "-serial unix:/s,wait=on: 'wait' option is incompatible"),
    (["-serial", "unix:/s,telnet=on"], "-serial unix:/s,telnet=on: telnet is not supported"),
    (["-serial", "file:"], "-serial file:: chardev: file: no filename given"),
    (["-serial", "chardev:zz"], "-serial chardev:zz: there is no chardev 'zz'"),
    (["-chardev", "stdio"], "-chardev stdio: chardev: no id specified"),
    (["-chardev", "foo,id=a"], "-chardev foo,id=a: 'foo' is not a valid char driver name"),
    (["-chardev", "null,id=1"], "-chardev null,id=1: Parameter 'id' expects an identifier"),
    (["-chardev", "null,id=a,x=1"], "-chardev null,id=a,x=1: Invalid parameter 'x'"),
    (["-chardev", "ringbuf,id=a,size=3"], "-chardev ringbuf,id=a,size=3: size of ringbuf"),
    (["-chardev", "socket,id=a"], "-chardev socket,id=a: chardev: socket: either a path or"),
    (["-chardev", "null,id=a", "-chardev", "pty,id=a"], "-chardev pty,id=a: Duplicate ID 'a'"),
    (["-device", "foo"], "-device foo: 'foo' is not a valid device model name"),
    (["-device", "spapr-vty,x=1"], "-device spapr-vty,x=1: Property 'spapr-vty.x' not found"),
    (["-device", "spapr-vty"], "-device spapr-vty: spapr-vty needs a chardev property"),
    (
        ["-device", "spapr-vty,chardev=zz"],
        "-device spapr-vty,chardev=zz: property 'spapr-vty.chardev' can't find value 'zz'",
    ),
    (
        ["-device", "spapr-vty,reg=0x100000000"],
        "-device spapr-vty,reg=0x100000000: Parameter 'spapr-vty.reg' expects uint32_t",
    ),
    (
        [
            *("-serial", "null", "-chardev", "null,id=a"),
            *("-device", "spapr-vty,chardev=a,reg=0x71000000"),
        ],
        "-device spapr-vty,chardev=a,reg=0x71000000: spapr-vty devices conflict at address",
    ),
    (
        ["-serial", "chardev:a", "-chardev", "null,id=a", "-device", "spapr-vty,chardev=a"],
        "-device spapr-vty,chardev=a: chardev 'a' is in use already",
    ),
    (
        ["-serial", "stdio", "-serial", "mon:stdio"],
        "-serial mon:stdio: cannot use stdio by multiple character devices",
    ),
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
        ({"smp": 2}, "smp"),
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


KEYS = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(KEYS, VALUES))
def test_keyvals_round_trip(pairs: dict[str, str]) -> None:
    assert parse_keyvals(join_keyvals(pairs)) == pairs


@given(VALUES, st.dictionaries(KEYS, VALUES))
def test_implied_key_round_trip(first: str, pairs: dict[str, str]) -> None:
    text = join_keyvals({"zz-implied": first, **pairs}).removeprefix("zz-implied=")
    parsed = parse_keyvals(text, implied="zz-implied")
    if text and "=" not in first.split(",")[0]:
        assert parsed == {"zz-implied": first, **pairs}


@given(st.text(max_size=40))
def test_keyvals_never_fails_oddly(text: str) -> None:
    parse_keyvals(text, implied="x")
    if parse_keyvals(text):
        with pytest.raises(ConfigError):
            parse_keyvals(text, known=())


@given(st.integers(0, 1 << 20), st.sampled_from("bkmgtBKMGT"))
def test_size_suffixes(number: int, suffix: str) -> None:
    factor = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[suffix.lower()]
    assert parse_size("s", f"{number}{suffix}", MIB) == number * factor
    assert parse_size("s", f"{number}", MIB) == number * MIB
    assert parse_size("s", f"{number:#x}") == number


@given(st.text(max_size=12))
def test_sizes_and_numbers_never_fail_oddly(text: str) -> None:
    for parse_it in (parse_size, parse_number):
        with contextlib.suppress(ConfigError):
            assert parse_it("s", text) >= 0


class FakeMachine:
    """Stands in for the real one: says how it was made and used."""

    behaviour: BaseException | int = 0

    def __init__(self, config: MachineConfig) -> None:
        if isinstance(self.behaviour, BaseException):
            raise self.behaviour

    def __enter__(self) -> FakeMachine:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def start(self) -> None:
        pass

    def quit(self) -> None:
        pass

    def wait(self) -> int:
        assert isinstance(self.behaviour, int)
        return self.behaviour


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        (0, 0, ""),
        (3, 3, ""),
        (ConfigError("no such thing"), 1, "ppc64emu: no such thing\n"),
        (OSError(12, "Cannot allocate memory"), 1, "ppc64emu: [Errno 12] Cannot allocate memory\n"),
    ],
)
def test_main_runs_the_machine(
    behaviour: BaseException | int,
    status: int,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = types.ModuleType("emu.machine")
    fake.Machine = FakeMachine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "emu.machine", fake)
    monkeypatch.setattr(FakeMachine, "behaviour", behaviour)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["-kernel", KERNEL]) == status
    assert capsys.readouterr().err == error
    assert signal.getsignal(signal.SIGTERM) == before


def test_nothing_to_boot_and_unwritable_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 1
    assert "nothing to boot" in capsys.readouterr().err
    log_file = str(tmp_path / "no" / "log")
    assert main(["-kernel", KERNEL, "-D", log_file]) == 1
    assert capsys.readouterr().err.startswith(f"ppc64emu: -D {log_file}: could not open")


def test_log_items_and_guest_errors(tmp_path: Path) -> None:
    path = tmp_path / "log"
    emu_log.configure_logging({"hcall"}, os.fspath(path))
    try:
        assert emu_log.log("hcall").enabled
        assert not emu_log.log("int").enabled
        emu_log.log("hcall")("H_ENTER(%#x)", 16)
        emu_log.log("int")("not shown")
        emu_log.unimplemented("vty", "not shown")
        for index in range(3):
            emu_log.guest_error("virtio-blk0", "bad index %d", index)
        emu_log.guest_error("virtio-blk1", "bad index %d", 7)
    finally:
        emu_log.configure_logging()
    assert path.read_text().splitlines() == [
        "hcall: H_ENTER(0x10)",
        "ppc64emu: warning: virtio-blk0: bad index 0",
        "ppc64emu: warning: virtio-blk1: bad index 7",
    ]


def test_progress_is_silent_without_a_terminal() -> None:
    stream = io.StringIO()
    with progress("Working", stream) as p:
        p.update(1, 2)
        p.describe("Still working")
    assert stream.getvalue() == ""


def test_progress_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress("Working", stream) as p:
        p.update(1, 2)
    assert "Working" in stream.getvalue()


SIGNALLED = """
import sys, threading, types
ended = threading.Event()
class Machine:
    def __init__(self, config): pass
    def __enter__(self): return self
    def __exit__(self, *args): print("closed")
    def start(self): print("started", flush=True)
    def quit(self): ended.set()
    def wait(self):
        ended.wait()
        return 0
fake = types.ModuleType("emu.machine")
fake.Machine = Machine
sys.modules["emu.machine"] = fake
from emu.__main__ import main
sys.exit(main(["-kernel", sys.executable]))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_machine_in_order(signum: signal.Signals) -> None:
    command = [sys.executable, "-c", SIGNALLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, b"closed\n")
        assert err.decode() == f"ppc64emu: terminating on signal {signum}\n"
