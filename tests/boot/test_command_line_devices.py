"""Mistakes in devices and their host sides, told by the command as users run it.

All mistakes are in tests/unit (`test_options_device_errors.py`, `test_device_host_errors.py`); here
is one of each kind, in a process: its status, its one line, and files that stay what they were.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from devices.block.locking import lock_image
from tests.support.asm import assemble, b

pytestmark = [pytest.mark.boot, pytest.mark.timeout(120)]
SECONDS = 60.0
MIB = 1 << 20
BLOCK = ("-device", "virtio-blk-pci,drive=d")
NET = ("-device", "virtio-net-pci,netdev=n")
SERIAL = ("-device", "virtio-serial-pci")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A disk, a firmware that loops, and things that are neither."""
    (tmp_path / "disk").write_bytes(bytes(MIB))
    (tmp_path / "qcow2").write_bytes(b"QFI\xfb" + bytes(1020))
    (tmp_path / "spin").write_bytes(bytes(0x100) + assemble(b(0)))
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    return {
        place.name: place.read_bytes() if place.is_file() else None for place in folder.iterdir()
    }


def run(folder: Path, options: Sequence[str | bytes]) -> subprocess.CompletedProcess[bytes]:
    """Run the command in the folder, to its end."""
    base = ["-bios", "spin", "-m", "256", "-nodefaults", "-display", "none"]
    root = os.fspath(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "emu", *base, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
    )


def check(folder: Path, options: Sequence[str | bytes], line: str) -> None:
    """The command says one line, which begins like this, and changes nothing."""
    before = contents(folder)
    result = run(folder, options)
    said = result.stderr.decode()
    said = re.sub(r"\Appc64emu: compiling hot paths .*\n", "", said)  # a first start
    assert said.startswith(f"ppc64emu: {line}")
    assert said.count("\n") == 1
    assert (result.returncode, result.stdout) == (1, b"")
    assert contents(folder) == before


def drive(properties: str) -> list[str]:
    return ["-drive", f"if=none,id=d,{properties}", *BLOCK]


#: Options and the line, by kind of mistake.
MISTAKES: dict[str, tuple[list[str | bytes], str]] = {
    "missing file": (
        [*drive("file=gone,format=raw")],
        "-drive if=none,id=d,file=gone,format=raw: "
        "could not open 'gone': No such file or directory",
    ),
    "fifo": (
        [*drive("file=fifo,format=raw")],
        "-drive if=none,id=d,file=fifo,format=raw: "
        "'file' driver requires 'fifo' to be a regular file or block device",
    ),
    "format": (
        [*drive("file=qcow2")],
        "-drive if=none,id=d,file=qcow2: "
        "Could not open 'qcow2': it looks like a qcow2 image; say format=qcow2 or format=raw",
    ),
    "unknown driver": (
        ["-device", "e1000"],
        "-device e1000: 'e1000' is not a valid device model name",
    ),
    "unknown property": (
        [*drive("file=disk,format=raw")[:2], "-device", "virtio-blk-pci,drive=d,foo=1"],
        "-device virtio-blk-pci,drive=d,foo=1: Property 'virtio-blk-pci.foo' not found",
    ),
    "netdev used twice": (
        ["-netdev", "user,id=n", *NET, *NET],
        "-device virtio-net-pci,netdev=n: "
        "Property 'virtio-net-device.netdev' can't take value 'n', it's in use",
    ),
    "missing chardev": (
        [*SERIAL, "-device", "virtserialport,chardev=c"],
        "-device virtserialport,chardev=c: Property 'virtserialport.chardev' can't find value 'c'",
    ),
    "port out of range": (
        ["-chardev", "socket,id=c,host=localhost,port=65536,server=on,wait=off"],
        "-chardev socket,id=c,host=localhost,port=65536,server=on,wait=off: "
        "port 65536 is out of range",
    ),
    "name of a host": (
        ["-netdev", b"socket,id=n,connect=\xff..:1", *NET],
        "-netdev socket,id=n,connect=\\udcff..:1: "
        "address resolution failed for \\udcff..:1: Name or service not known",
    ),
    "too many devices": (
        ["-device", "virtio-rng-pci"] * 33,
        "-device virtio-rng-pci: "
        "PCI: no slot/function available for virtio-rng-pci, all in use or reserved",
    ),
    "size": (
        [*drive("file=disk,format=raw")[:2], "-device", "virtio-blk-pci,drive=d,min_io_size=4Q"],
        "-device virtio-blk-pci,drive=d,min_io_size=4Q: Parameter 'min_io_size' expects "
        "a non-negative number below 2^64 (suffixes: K, M, G, T, P, E)",
    ),
    "long path": (
        ["-qmp", f"unix:{'x' * 108},server=on,wait=off"],
        f"-qmp unix:{'x' * 108},server=on,wait=off: "
        f"failed to listen on 'unix:{'x' * 108}': AF_UNIX path too long",
    ),
    "JSON with a NUL": (
        ["-blockdev", '{"driver":"file","node-name":"d","filename":"a\\u0000"}', *BLOCK],
        '-blockdev {"driver":"file","node-name":"d","filename":"a\\u0000"}: '
        "JSON parse error, a string has characters that cannot be encoded",
    ),
    "no state in a file": (
        ["-incoming", "file:disk"],
        "load of migration failed: not a migration stream",
    ),
    "command that fails": (
        ["-incoming", "exec:exit 3"],
        "load of migration failed: the stream ends",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_one_line_and_status_1(kind: str, folder: Path) -> None:
    check(folder, *MISTAKES[kind])


@pytest.fixture
def locked_disk(folder: Path) -> Iterator[Path]:
    """A disk that another process (this one) writes to."""
    fd = os.open(folder / "disk", os.O_RDWR)
    lock_image(fd, "disk", read_only=False)
    yield folder
    os.close(fd)


def test_disk_of_another_process(locked_disk: Path) -> None:
    options = drive("file=disk,format=raw")
    check(
        locked_disk,
        options,
        f"{options[0]} {options[1]}: "
        "Failed to get \"write\" lock: is another process using the image 'disk'?",
    )
