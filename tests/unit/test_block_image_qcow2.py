"""qcow2 images through qemu-nbd, and the NBD client against a server that misbehaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.block.image import Image
from devices.block.nbd import NbdImage
from devices.block.open import open_image
from emu.chardev.config import ConfigError

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None or shutil.which("qemu-img") is None, reason="no qemu-utils"
)
SIZE = 64 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "disk,1.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE)], check=True)
    return path


def read(image: Image, offset: int, size: int) -> bytes:
    data = bytearray(size)
    image.preadv([memoryview(data)[: size // 2], memoryview(data)[size // 2 :]], offset)
    return bytes(data)


@needs_qemu
def test_what_is_written_is_there_when_it_is_opened_again(path: str) -> None:
    data = os.urandom(17 << 20)  # more than one request of the protocol
    with contextlib.closing(open_image(path, "qcow2", discard="unmap")) as image:
        assert image.size == SIZE
        image.pwritev([memoryview(data)[:5000], memoryview(data)[5000:]], 1 << 20)
        image.write_zeroes(2 << 20, 1 << 20, unmap=True)
        image.discard(3 << 20, 65536)
        image.flush()
        assert read(image, 1 << 20, 1 << 20) == data[: 1 << 20]
    with contextlib.closing(open_image(path, "qcow2", read_only=True)) as image:
        assert read(image, 2 << 20, 1 << 20) == bytes(1 << 20)
        assert read(image, 4 << 20, 14 << 20) == data[3 << 20 :]
        with pytest.raises(OSError):  # noqa: PT011 - EPERM or EINVAL, as the server likes
            image.pwritev([memoryview(bytes(512))], 0)
    subprocess.run(["qemu-img", "check", "-q", path], check=True)


@needs_qemu
def test_a_snapshot_of_a_qcow2_image(path: str) -> None:
    with contextlib.closing(open_image(path, "qcow2", snapshot=True)) as image:
        image.pwritev([memoryview(b"\x55" * 512)], 512)
        assert read(image, 0, 1024) == bytes(512) + b"\x55" * 512
    with contextlib.closing(open_image(path, "qcow2")) as image:
        assert read(image, 0, 1024) == bytes(1024)


@needs_qemu
def test_a_locked_qcow2_image(path: str) -> None:
    with (
        contextlib.closing(open_image(path, "qcow2")),
        pytest.raises(ConfigError, match=r'Failed to get .*"write" lock') as caught,
    ):
        open_image(path, "qcow2")
    assert "\n" not in str(caught.value)


@needs_qemu
def test_a_qcow2_image_whose_size_is_odd(tmp_path: Path) -> None:
    path = str(tmp_path / "odd.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1000"], check=True)
    with contextlib.closing(open_image(path, "qcow2")) as image:
        assert image.size == 1024  # rounded up by QEMU's tool when it was made


@needs_qemu
def test_a_broken_qcow2_image(tmp_path: Path) -> None:
    path = tmp_path / "broken.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(1020))
    with pytest.raises(ConfigError, match="Could not open") as caught:
        open_image(str(path), "qcow2")
    assert "\n" not in str(caught.value)


def test_a_raw_file_is_no_qcow2_image(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(1024))
    with pytest.raises(ConfigError, match="Image is not in qcow2 format"):
        open_image(str(path), "qcow2")


def test_without_the_program_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(1020))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="format=qcow2 needs the program qemu-nbd"):
        open_image(str(path), "qcow2")


@needs_qemu
def test_a_server_that_dies_makes_io_errors(path: str) -> None:
    image = open_image(path, "qcow2")
    image._server.kill()  # type: ignore[attr-defined]
    image._server.wait()  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - any: EPIPE, ECONNRESET
            read(image, 0, 512)
    image.close()


# The client by itself

_HELLO = b"NBDMAGICIHAVEOPT\0\3"


def option_reply(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, 7, kind, len(data)) + data


_EXPORT = option_reply(3, struct.pack(">HQH", 0, 4096, 1))
_ACK = option_reply(1)


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], NbdImage]]:
    """Makes a client of a server that says the same whatever it is asked."""
    with contextlib.ExitStack() as stack:

        def start(answer: bytes) -> NbdImage:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            stack.callback(ours.close)
            theirs.sendall(answer)
            theirs.shutdown(socket.SHUT_WR)
            return NbdImage(ours, "nbd", read_only=False)

        yield start


def test_negotiation(serve: Callable[[bytes], NbdImage]) -> None:
    other = option_reply(3, struct.pack(">HIII", 3, 1, 4096, 1 << 25))
    assert serve(_HELLO + other + _EXPORT + _ACK).size == 4096


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"NBDMAGIC",
        b"NBDMAGIX" + _HELLO[8:] + _EXPORT + _ACK,
        b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0",  # the old negotiation
        _HELLO + _ACK,  # without a size
        _HELLO + option_reply(0x80000006),
        _HELLO + struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 30),
        _HELLO + struct.pack(">QIII", 1, 7, 3, 0),
    ],
)
def test_negotiation_that_fails(serve: Callable[[bytes], NbdImage], answer: bytes) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - any
        serve(answer)


def test_errors_and_nonsense_in_replies(serve: Callable[[bytes], NbdImage]) -> None:
    start = _HELLO + _EXPORT + _ACK
    image = serve(start + struct.pack(">IIQ", 0x67446698, 28, 1))
    with pytest.raises(OSError, match="No space left"):
        image.flush()
    for nonsense in (struct.pack(">IIQ", 0x67446699, 0, 1), struct.pack(">IIQ", 0x67446698, 0, 9)):
        image = serve(start + nonsense + struct.pack(">IIQ", 0x67446698, 0, 2))
        with pytest.raises(OSError, match="Protocol error"):
            image.flush()
        with pytest.raises(OSError):  # noqa: PT011 - out of step for good
            image.flush()


def test_one_request_at_a_time(serve: Callable[[bytes], NbdImage]) -> None:
    count = 50
    replies = b"".join(struct.pack(">IIQ", 0x67446698, 0, n + 1) for n in range(count))
    image = serve(_HELLO + _EXPORT + _ACK + replies)
    threads = [threading.Thread(target=image.flush) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert image._handle == count
