"""qcow2 images, served by QEMU's `qemu-nbd` (Debian package qemu-utils)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

from devices.block.image import SECTOR
from devices.block.nbd import NbdImage
from devices.block.raw import open_file
from emu.chardev.config import ConfigError

MAGIC = b"QFI\xfb"
_START_SECONDS = 20.0
_STOP_SECONDS = 30.0


class Qcow2Image(NbdImage):
    """A qcow2 image; its server ends with the connection, also if we are killed."""

    def __init__(
        self,
        server: subprocess.Popen[bytes],
        connection: socket.socket,
        path: str,
        *,
        read_only: bool,
        write_back: bool,
        unmap: bool,
    ) -> None:
        self._server = server
        super().__init__(connection, path, read_only=read_only, write_back=write_back, unmap=unmap)

    def close(self) -> None:
        """Take leave of the server and wait until it has written everything."""
        super().close()
        _end(self._server, _STOP_SECONDS)
        if self._server.stderr is not None:
            self._server.stderr.close()


def open_qcow2(
    path: str,
    *,
    read_only: bool = False,
    write_back: bool = True,
    direct: bool = False,
    no_flush: bool = False,
    unmap: bool = False,
    locking: str = "auto",
) -> Qcow2Image:
    """Open a qcow2 image; ConfigError if that cannot be, or if there is no `qemu-nbd`.

    The server locks the image as QEMU does.
    """
    _check_magic(path, read_only)
    program = shutil.which("qemu-nbd")
    if program is None:
        raise ConfigError(
            f"Could not open '{path}': format=qcow2 needs the program qemu-nbd (of QEMU)"
        )
    cache = "unsafe" if no_flush else "none" if direct else "writeback"
    file = {"driver": "file", "filename": path, "locking": locking}
    with tempfile.TemporaryDirectory(prefix="ppc64emu-") as directory:
        address = os.path.join(directory, "nbd")
        command = [program, "--socket", address, "--cache", cache]
        command += ["--discard", "unmap"] if unmap else []
        command += ["--read-only"] if read_only else []
        command += ["--image-opts", _image_options(file)]
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # not ended by Ctrl-C before the guest's last write
        )
        try:
            image = Qcow2Image(
                server,
                _connect(server, address, path),
                path,
                read_only=read_only,
                write_back=write_back,
                unmap=unmap,
            )
        except OSError as error:
            # It listens first, then opens the image, and hangs up if it cannot.
            _end(server, _START_SECONDS)
            raise ConfigError(_complaint(server, path)) from error
        except BaseException:
            _end(server)
            raise
    if image.size % SECTOR:
        image.close()
        raise ConfigError(
            f"Could not open '{path}': image size {image.size} is not a multiple of {SECTOR}"
        )
    return image


def _image_options(file: dict[str, str]) -> str:
    """QEMU's option string; a comma in a value is doubled."""
    pairs = ["driver=qcow2"]
    pairs += [f"file.{key}={value.replace(',', ',,')}" for key, value in file.items()]
    return ",".join(pairs)


def _check_magic(path: str, read_only: bool) -> None:
    fd = open_file(path, read_only=read_only)
    try:
        if os.pread(fd, len(MAGIC), 0) != MAGIC:
            raise ConfigError(f"Could not open '{path}': Image is not in qcow2 format")
    finally:
        os.close(fd)


def _connect(server: subprocess.Popen[bytes], address: str, path: str) -> socket.socket:
    """Wait for the server; ConfigError with its own words if it gives up."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
            return connection
        except OSError:
            connection.close()
        if server.poll() is not None:
            raise ConfigError(_complaint(server, path))
        time.sleep(0.005)
    raise ConfigError(f"Could not open '{path}': qemu-nbd does not answer")


def _complaint(server: subprocess.Popen[bytes], path: str) -> str:
    """What the server wrote before it ended, on one line."""
    assert server.stderr is not None
    text = server.stderr.read().decode(errors="replace")
    server.stderr.close()
    text = re.sub(r"^qemu-nbd: (Failed to blk_new_open '.*?': )?", "", text)
    why = ": ".join(line for line in text.splitlines() if line) or "qemu-nbd failed"
    return f"Could not open '{path}': {why}"


def _end(server: subprocess.Popen[bytes], patience: float = 0.0) -> None:
    """Give the server time to end by itself, which it does when nobody is connected."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(patience)
    if server.poll() is None:
        server.terminate()
        server.wait()
