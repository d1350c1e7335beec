"""-drive and -blockdev."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emu.__main__ import main
from emu.config import DeviceConfig, DriveConfig, MachineConfig
from emu.options import parse_command_line

IMAGE = __file__  # any file that can be read


def parse(*argv: str) -> MachineConfig:
    return parse_command_line(argv, warn=lambda message: pytest.fail(message))


def image(*, id: str, format: str | None = None, **fields: Any) -> DriveConfig:
    return DriveConfig(id=id, file=IMAGE, format=format, **fields)


DRIVES: list[tuple[str, DriveConfig]] = [
    ("if=none,id=d", image(id="d")),
    ("if=none", image(id="none0")),
    ("if=none,index=3", image(id="none3")),
    ("if=none,id=d,format=qcow2", image(id="d", format="qcow2")),
    ("if=none,id=d,driver=raw,readonly", image(id="d", format="raw", read_only=True)),
    ("if=none,id=d,read-only=on", image(id="d", read_only=True)),
    ("if=none,id=d,readonly=off", image(id="d")),
    ("if=none,id=d,media=cdrom", image(id="d", read_only=True)),
    ("if=none,id=d,media=disk,snapshot=on", image(id="d", snapshot=True)),
    ("if=none,id=d,cache=none,aio=native", image(id="d", cache="none")),
    ("if=none,id=d,cache.direct=on", image(id="d", cache="none")),
    ("if=none,id=d,werror=report,rerror=report", image(id="d")),
    ("if=none,id=d,discard=unmap,detect-zeroes=off", image(id="d", discard="unmap")),
    ("if=none,id=d,file.locking=off", image(id="d", locking="off")),
]


@pytest.mark.parametrize(("text", "expected"), DRIVES)
def test_drive(text: str, expected: DriveConfig) -> None:
    config = parse("-drive", f"file={IMAGE},{text}")
    assert config.drives == {expected.id: expected}
    assert config.devices == ()


def test_drive_with_its_file_in_parts() -> None:
    text = f"id=d,if=none,file.driver=file,file.filename={IMAGE},file.locking=off"
    assert parse("-drive", text).drives == {"d": image(id="d", locking="off")}


def test_comma_in_a_file_name(tmp_path: Path) -> None:
    path = tmp_path / "a,b"
    path.touch()
    config = parse("-drive", f"file={str(path).replace(',', ',,')},if=none,id=d")
    assert config.drives["d"].file == str(path)


def test_if_virtio_adds_a_disk_behind_the_devices() -> None:
    config = parse(
        *("-drive", f"file={IMAGE},serial=abc", "-drive", f"file={IMAGE},if=virtio,id=x"),
        *("-device", "virtio-rng-pci"),
    )
    assert config.devices == (
        DeviceConfig("virtio-rng-pci"),
        DeviceConfig("virtio-blk-pci", {"drive": "virtio0", "serial": "abc"}),
        DeviceConfig("virtio-blk-pci", {"drive": "x"}),
    )
    on_slots = parse("-M", "virtmmio", "-drive", f"file={IMAGE}")
    assert on_slots.devices == (DeviceConfig("virtio-blk-device", {"drive": "virtio0"}),)


BLOCKDEVS: list[tuple[list[str], DriveConfig]] = [
    ([f"driver=file,node-name=n,filename={IMAGE}"], DriveConfig(id="n", file=IMAGE)),
    (
        [f"driver=raw,node-name=n,file.driver=file,file.filename={IMAGE}"],
        DriveConfig(id="n", file=IMAGE),
    ),
    (
        [f"driver=qcow2,node-name=n,read-only=on,file.driver=file,file.filename={IMAGE}"],
        DriveConfig(id="n", file=IMAGE, format="qcow2", read_only=True),
    ),
    (
        [
            f"driver=file,node-name=p,filename={IMAGE},cache.direct=on,read-only=on",
            "driver=qcow2,node-name=n,file=p",
        ],
        DriveConfig(id="n", file=IMAGE, format="qcow2", read_only=True, cache="none"),
    ),
    (
        [
            f'{{"driver":"file","node-name":"p","filename":"{IMAGE}","aio":"threads"}}',
            '{"driver":"raw","node-name":"n","read-only":true,"file":"p"}',
        ],
        DriveConfig(id="n", file=IMAGE, read_only=True),
    ),
    (
        [
            f'{{"driver":"raw","node-name":"n","file":{{"driver":"file","filename":"{IMAGE}",'
            '"cache":{"direct":true},"auto-read-only":true,"locking":"off"},"discard":"unmap"}'
        ],
        DriveConfig(id="n", file=IMAGE, cache="none", discard="unmap", locking="off"),
    ),
]


@pytest.mark.parametrize(("texts", "expected"), BLOCKDEVS)
def test_blockdev(texts: list[str], expected: DriveConfig) -> None:
    config = parse(*(word for text in texts for word in ("-blockdev", text)))
    assert config.drives["n"] == expected


NODE = f"driver=file,node-name=a,filename={IMAGE}"
ERRORS: list[tuple[list[str], str]] = [
    (["-drive", "file=/nope,if=none"], "could not open '/nope': No such file or directory"),
    (["-drive", "if=none,id=d"], "Device needs media, but drive is empty"),
    (["-drive", f"file={IMAGE},if=zz"], "unsupported bus type 'zz'"),
    (["-drive", f"file={IMAGE},if=scsi"], "if=scsi is not supported (use if=virtio or if=none)"),
    (["-drive", f"file={IMAGE},format=zz"], "Unknown driver 'zz'"),
    (["-drive", f"file={IMAGE},foo=1"], "Block format 'raw' does not support the option 'foo'"),
    (["-drive", f"file={IMAGE},if=none,id=d"] * 2, "Duplicate ID 'd' for drive"),
    (
        ["-drive", f"file={IMAGE},if=none,id=d", "-drive", f"file={IMAGE},id=d"],
        "Duplicate ID 'd' for drive",
    ),
    (["-drive", f"file={IMAGE},id=1"], "Parameter 'id' expects an identifier"),
    (["-drive", f"file={IMAGE},cache=foo"], "invalid cache option"),
    (["-drive", f"file={IMAGE},media=foo"], "'foo' invalid media"),
    (["-drive", f"file={IMAGE},werror=foo"], "'foo' invalid write error action"),
    (["-drive", f"file={IMAGE},rerror=foo"], "'foo' invalid read error action"),
    (["-drive", f"file={IMAGE},werror=stop"], "werror=stop is not supported"),
    (["-drive", f"file={IMAGE},read-only=foo"], "Parameter 'read-only' expects 'on' or 'off'"),
    (["-drive", f"file={IMAGE},if=none,serial=x"], "serial= belongs to the -device"),
    (["-drive", f"file={IMAGE},aio=foo"], "Parameter 'aio' does not accept value 'foo'"),
    (["-drive", f"file={IMAGE},index=x"], "Parameter 'index' expects a number"),
    (
        ["-drive", f"file={IMAGE},index=1", "-drive", f"file={IMAGE},id=b,unit=1"],
        "drive with bus=0, unit=1 (index=1) exists",
    ),
    (
        ["-device", "virtio-blk-pci,drive=d", "-drive", f"file={IMAGE},if=virtio,id=d"],
        "Drive 'd' is already in use by another device",
    ),
    (["-blockdev", "node-name=a"], "Parameter 'driver' is missing"),
    (["-blockdev", "driver=zz,node-name=a"], "Parameter 'driver' does not accept value 'zz'"),
    (["-blockdev", "driver=raw,node-name=a"], "Parameter 'file' is missing"),
    (["-blockdev", "driver=file,node-name=a"], "Parameter 'filename' is missing"),
    (
        ["-blockdev", "driver=raw,node-name=a,file.driver=file"],
        "Parameter 'file.filename' is missing",
    ),
    (
        ["-blockdev", "driver=raw,node-name=a,file=zz"],
        "Cannot find device='zz' nor node-name='zz'",
    ),
    (["-blockdev", f"driver=file,filename={IMAGE}"], "'node-name' must be specified"),
    (["-blockdev", f"driver=file,filename={IMAGE},node-name=1a"], "Invalid node-name: '1a'"),
    (["-blockdev", NODE, "-blockdev", NODE], "Duplicate nodes with node-name='a'"),
    (["-blockdev", f"{NODE},foo=1"], "Parameter 'foo' is unexpected"),
    (
        ["-blockdev", f"driver=raw,node-name=a,file.filename={IMAGE},file.foo=1"],
        "Parameter 'file.foo' is unexpected",
    ),
    (
        ["-blockdev", NODE, "-drive", f"file={IMAGE},if=none,id=a"],
        "Device name 'a' conflicts with an existing node name",
    ),
    (["-blockdev", '{"driver":'], "JSON parse error, "),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS)
def test_mistake_is_one_line_that_names_the_option(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"ppc64emu: {argv[-2]} {argv[-1]}: {message}")
    assert err.count("\n") == 1
