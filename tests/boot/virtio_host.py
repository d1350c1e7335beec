"""The host beside a guest with virtio devices: ext4 images and TCP connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

#: Administrators' programs are not in everybody's PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_LOOPBACK = "127.0.0.1"
_SECONDS = 60.0


def require_e2fsprogs() -> None:
    """Skip the test if the host cannot make ext4 images; fail it where CI is set."""
    if all(shutil.which(name, path=_PATH) for name in ("mke2fs", "debugfs", "e2fsck")):
        return
    if os.environ.get("CI"):
        pytest.fail("no mke2fs (apt-get install e2fsprogs)")
    pytest.skip("no mke2fs (apt-get install e2fsprogs)")


def _run(name: str, *arguments: str) -> str:
    program = shutil.which(name, path=_PATH)
    assert program, name
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout


def make_ext4(image: Path, size: int, files: Mapping[str, bytes]) -> None:
    """Make an image of an ext4 file system of `size` bytes with these files in it."""
    folder = image.with_suffix(".files")
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with image.open("wb") as disk:
        disk.truncate(size)
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", str(folder), str(image))
    shutil.rmtree(folder)


def check_ext4(image: Path) -> None:
    """Fail if the file system, which nobody has mounted, has a fault."""
    _run("e2fsck", "-f", "-n", str(image))


def read_ext4(image: Path, name: str) -> bytes:
    """Contents of a file of the image, without mounting it."""
    out = image.with_suffix(".out")
    out.unlink(missing_ok=True)
    _run("debugfs", "-R", f"dump /{name} {out}", str(image))
    assert out.exists(), f"no file {name} on {image}"
    data = out.read_bytes()
    out.unlink()
    return data


def free_port() -> int:
    """A TCP port of the host that nobody has now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def tcp_sink() -> Iterator[tuple[int, Future[bytes]]]:
    """A server for one connection: its port, and what came until the end of it."""
    result: Future[bytes] = Future()
    with socket.create_server((_LOOPBACK, 0)) as server:
        server.settimeout(_SECONDS)
        threading.Thread(target=_serve, args=(server, result), daemon=True).start()
        yield server.getsockname()[1], result


def _serve(server: socket.socket, result: Future[bytes]) -> None:
    try:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(_SECONDS)
            result.set_result(_read_all(connection))
    except OSError as error:
        result.set_exception(error)


def _read_all(connection: socket.socket) -> bytes:
    data = bytearray()
    while piece := connection.recv(1 << 16):
        data += piece
    return bytes(data)


def tcp_send(port: int, data: bytes) -> None:
    """Connect to a port of the host, send everything, and wait for the other side to close."""
    with socket.create_connection((_LOOPBACK, port), _SECONDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        _read_all(connection)
