"""Image locks, against a second opener of ours and against QEMU's tools."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from devices.block.open import open_image
from emu.chardev.config import ConfigError

pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="no OFD locks")


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def test_two_writers(path: str) -> None:
    with contextlib.closing(open_image(path)):
        with pytest.raises(ConfigError, match='Failed to get "write" lock') as caught:
            open_image(path)
        assert "\n" not in str(caught.value)
        assert path in str(caught.value)
    open_image(path).close()


def test_a_reader_beside_a_writer(path: str) -> None:
    with (
        contextlib.closing(open_image(path)),
        pytest.raises(ConfigError, match='Failed to get shared "write" lock'),
    ):
        open_image(path, read_only=True)
    with (
        contextlib.closing(open_image(path, read_only=True)),
        pytest.raises(ConfigError, match='Failed to get "write" lock'),
    ):
        open_image(path)


def test_two_readers(path: str) -> None:
    with contextlib.closing(open_image(path, read_only=True)):
        open_image(path, read_only=True).close()


def test_writers_that_share(path: str) -> None:
    with contextlib.closing(open_image(path, share_write=True)):
        open_image(path, share_write=True).close()
        with pytest.raises(ConfigError, match='Failed to get shared "write" lock'):
            open_image(path)


def test_without_locks(path: str) -> None:
    with contextlib.closing(open_image(path)):
        open_image(path, locking="off").close()


def test_a_host_without_locks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "F_OFD_SETLK", 9999)
    open_image(path).close()
    with pytest.raises(ConfigError, match="Could not lock"):
        open_image(path, locking="on")


def qemu_io(path: str, *arguments: str) -> tuple[int, str]:
    program = shutil.which("qemu-io")
    if program is None:
        pytest.skip("no qemu-io")
    command = [program, "-f", "raw", *arguments, path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return result.returncode, result.stdout + result.stderr


def test_qemu_refuses_an_image_that_we_use(path: str) -> None:
    with contextlib.closing(open_image(path)):
        code, text = qemu_io(path, "-c", "write 0 512")
        assert code != 0
        assert 'Failed to get "write" lock' in text
    assert qemu_io(path, "-c", "write 0 512")[0] == 0


def test_we_refuse_an_image_that_qemu_uses(path: str) -> None:
    program = shutil.which("qemu-io")
    if program is None:
        pytest.skip("no qemu-io")
    command = [program, "-f", "raw", path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        while b"512" not in process.stdout.readline():
            assert process.poll() is None
        # The tool itself lets others write; we do not.
        with pytest.raises(ConfigError, match='Failed to get shared "write" lock'):
            open_image(path)
        process.stdin.close()
        process.wait(60)
    open_image(path).close()
