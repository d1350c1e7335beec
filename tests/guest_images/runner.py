"""Runs a guest image on ppc64emu, or on QEMU for comparison, and reads its results.

The environment variable GUEST_IMAGE_EMULATOR chooses: unset or "own" for `python -m emu`, "qemu"
for the installed qemu-system-ppc64.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.guest_images import ROOT, write_disk, write_image

ON_QEMU = os.environ.get("GUEST_IMAGE_EMULATOR", "own") == "qemu"
TIMEOUT = 120.0  # seconds; the image gives up on a device after seconds
_COMMAND = ["qemu-system-ppc64"] if ON_QEMU else [sys.executable, "-m", "emu"]

DISK_SECTORS = 3001
DEVICES = ("blk", "net", "console", "rng", "balloon")
_PCI_MODES = {
    "legacy": "disable-legacy=off,disable-modern=on",
    "transitional": "disable-legacy=off,disable-modern=off",
    "modern": "disable-legacy=on,disable-modern=off",
}


@dataclass
class Result:
    """What an image printed, sorted: `passed` holds the words of each PASS line but the count."""

    output: str
    status: int
    passed: list[tuple[str, ...]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for line in self.output.splitlines():
            if line.startswith("PASS: "):
                self.passed.append(tuple(line.split()[1:-1]))
            elif line.startswith(("FAIL: ", "EXCEPTION: ")):
                self.failed.append(line)

    @property
    def done(self) -> bool:
        """Whether the image came to its end."""
        return "DONE: " in self.output

    def failures(self, *words: str) -> list[str]:
        """The FAIL lines that have all these words, and exceptions."""
        wanted = set(words)
        return [
            line
            for line in self.failed
            if line.startswith("EXCEPTION") or wanted <= set(line.replace(":", "").split())
        ]


@contextlib.contextmanager
def echo_server(path: Path) -> Iterator[None]:
    """A UNIX socket whose server sends back every byte, until the context ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        thread = threading.Thread(target=_echo, args=(server,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _echo(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer, _ = server.accept()
        with peer:
            while data := peer.recv(4096):
                peer.sendall(data)


def device_arguments(transport: str, kind: str, disk: Path, echo: Path) -> list[str]:
    """Options for one device of each type; `transport` is "pci" or "mmio"."""
    mode = f",{_PCI_MODES[kind]}" if transport == "pci" else ""
    suffix = "pci" if transport == "pci" else "device"

    def device(name: str, properties: str = "") -> list[str]:
        return ["-device", f"virtio-{name}-{suffix}{properties}{mode}"]

    arguments = [
        *("-drive", f"file={disk},if=none,format=raw,id=drive0"),
        *device("blk", ",drive=drive0,serial=disk0"),
        *("-netdev", "user,id=net0"),
        *device("net", ",netdev=net0,mac=52:54:00:12:34:56,host_mtu=1400"),
        *("-chardev", f"socket,id=echo0,path={echo}"),
        *device("serial", ",id=serial0"),
        *("-device", "virtconsole,bus=serial0.0,chardev=echo0"),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *device("rng", ",rng=rng0"),
        *device("balloon"),
    ]
    if transport == "mmio":
        legacy = "true" if kind == "legacy" else "false"
        arguments += ["-global", f"virtio-mmio.force-legacy={legacy}"]
    return arguments


def run_image(
    directory: Path, machine: Sequence[str] = ("-M", "pseries"), /, **parameters: str
) -> Result:
    """Run an image with these parameters on `machine` (any emulator options) to its end.

    Files are made in `directory`. A run that does not end in time is a failed one, without DONE.
    """
    emulator = "qemu" if ON_QEMU else "own"
    image = write_image(directory / "image.bin", **parameters, emulator=emulator)
    options = ["-nodefaults", "-nographic", "-serial", "stdio", "-bios", str(image)]
    command = [*_COMMAND, *machine, *options]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,  # apart: its lines would cut those of the guest
        text=True,
        errors="replace",
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
    return Result(f"{output}\n{errors}", process.returncode)


def run_with_devices(
    directory: Path, transport: str, kind: str, *machine: str, **parameters: str
) -> Result:
    """Run an image with one device of each type; `machine` holds further emulator options."""
    disk = write_disk(directory / "disk.img", DISK_SECTORS)
    board = "pseries" if transport == "pci" else "virtmmio"
    echo = directory / "echo"
    with echo_server(echo):
        devices = device_arguments(transport, kind, disk, echo)
        return run_image(directory, ("-M", board, *machine, *devices), **parameters)
