"""Disk images on the host: raw files, snapshots, formats, and how bad ones are refused."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest

from devices.block import raw as raw_module
from devices.block.config import DriveConfig
from devices.block.image import Image, batches, cut
from devices.block.open import open_drive, open_image
from devices.block.overlay import CLUSTER, OverlayImage
from emu.chardev.config import ConfigError
from tests.support.block import MemoryImage, numbered

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(numbered(SIZE // 512))
    return path


def read(image: Image, offset: int, size: int) -> bytes:
    data = bytearray(size)
    image.preadv([memoryview(data)[: size // 3], memoryview(data)[size // 3 :]], offset)
    return bytes(data)


def write(image: Image, offset: int, data: bytes) -> None:
    image.pwritev([memoryview(data)[:100], memoryview(data)[100:]], offset)


@pytest.mark.parametrize(
    "options",
    [{}, {"cache": "none"}, {"cache": "writethrough"}, {"cache": "unsafe"}, {"snapshot": True}],
    ids=str,
)
def test_what_is_written_is_read(path: Path, options: dict[str, object]) -> None:
    try:
        image = open_image(str(path), **options)  # type: ignore[arg-type]
    except ConfigError:
        if options.get("cache") != "none":
            raise
        pytest.skip("this file system has no O_DIRECT")
    data = os.urandom(8192)
    assert image.size == SIZE
    write(image, 4096, data)
    assert read(image, 3584, 9216) == numbered(8)[-512:] + data + numbered(25)[-512:]
    image.write_zeroes(8192, 4096, unmap=False)
    assert read(image, 4096, 8192) == data[:4096] + bytes(4096)
    image.flush()
    image.close()
    image.close()
    on_host = numbered(8) + data[:4096] + bytes(4096)
    expected = numbered(24) if options.get("snapshot") else on_host
    assert path.read_bytes()[:12288] == expected


@pytest.mark.parametrize(
    ("cache", "write_back"),
    [("writeback", True), ("unsafe", True), ("writethrough", False)],
)
def test_the_cache_mode_says_whether_there_is_a_write_cache(
    path: Path, cache: str, write_back: bool
) -> None:
    with contextlib.closing(open_image(str(path), cache=cache)) as image:
        assert image.write_back == write_back


def test_holes_are_punched_only_if_asked(path: Path) -> None:
    for discard, freed in (("ignore", False), ("unmap", True)):
        before = path.stat().st_blocks
        with contextlib.closing(open_image(str(path), discard=discard)) as image:
            image.discard(0, SIZE // 2)
            image.write_zeroes(SIZE // 2, SIZE // 4, unmap=True)
            assert read(image, SIZE // 2, 4096) == bytes(4096)
        assert (path.stat().st_blocks < before * 3 // 4) == freed
        assert path.stat().st_size == SIZE


def test_zeroes_are_written_where_the_host_cannot_zero(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(raw_module, "punch_hole", refuse)
    monkeypatch.setattr(raw_module, "zero_range", refuse)
    with contextlib.closing(open_image(str(path), discard="unmap")) as image:
        image.write_zeroes(512, 1024, unmap=True)
        image.discard(4096, 512)
        assert read(image, 0, 2048) == numbered(1) + bytes(1024) + numbered(4)[1536:]
        assert read(image, 4096, 512) == numbered(9)[4096:]


def test_transfers_that_stop_halfway_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_read, plain_write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: plain_read(fd, [views[0][:7]], at))
    monkeypatch.setattr(
        os, "pwritev", lambda fd, views, at, flags: plain_write(fd, [views[0][:33]], at)
    )
    with contextlib.closing(open_image(str(path))) as image:
        data = os.urandom(1024)
        write(image, 1024, data)
        assert read(image, 512, 2048) == numbered(2)[512:] + data + numbered(5)[2048:]


def test_resize_changes_the_file(path: Path) -> None:
    with contextlib.closing(open_image(str(path))) as image:
        image.resize(2 * SIZE)
        assert (image.size, path.stat().st_size) == (2 * SIZE, 2 * SIZE)
        assert read(image, 2 * SIZE - 512, 512) == bytes(512)
        image.resize(512)
        assert path.stat().st_size == 512


def test_read_only_images_cannot_be_written(path: Path) -> None:
    with contextlib.closing(open_image(str(path), read_only=True)) as image:
        with pytest.raises(OSError, match="Bad file descriptor"):
            write(image, 0, bytes(512))
        image.flush()


def test_a_drive_is_opened_as_its_configuration_says(path: Path) -> None:
    config = DriveConfig(id="d", file=str(path), read_only=True, cache="writethrough")
    with contextlib.closing(open_drive(config)) as image:
        assert image.read_only
        assert not image.write_back


# Errors


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Could not open '.*/none': No such file or directory"):
        open_image(str(tmp_path / "none"))


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_disk(tmp_path: Path, read_only: bool) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in (str(tmp_path), str(tmp_path / "fifo"), "/dev/null"):
        with pytest.raises(ConfigError, match="to be a regular file or block device"):
            open_image(name, read_only=read_only)


def test_a_file_without_permission(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match=r"Could not open '.*disk.img': Permission denied"):
        open_image(str(path))


@pytest.mark.parametrize("size", [1, 511, 513, SIZE + 1])
def test_a_size_that_is_no_multiple_of_a_sector(path: Path, size: int) -> None:
    os.truncate(path, size)
    with pytest.raises(ConfigError, match=f"image size {size} is not a multiple of 512"):
        open_image(str(path))
    os.truncate(path, SIZE)
    open_image(str(path)).close()  # the lock of the refused image is gone


def test_other_formats_need_to_be_named(path: Path) -> None:
    for magic in (b"QFI\xfb", b"KDMV", b"LUKS\xba\xbe"):
        path.write_bytes(magic.ljust(1024, b"\0"))
        with pytest.raises(ConfigError, match="it looks like a"):
            open_image(str(path), None)
        open_image(str(path), "raw").close()
    path.write_bytes(bytes(1024))
    open_image(str(path), None).close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "vmdk"}, "Unknown driver 'vmdk'"),
        ({"cache": "fast"}, "invalid cache option"),
        ({"discard": "maybe"}, "Invalid discard option"),
        ({"locking": "maybe"}, "does not accept value 'maybe'"),
    ],
)
def test_bad_options(path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_image(str(path), **options)  # type: ignore[arg-type]


# Snapshots


def test_a_snapshot_against_a_plain_model() -> None:
    randoms = random.Random(1)
    base = MemoryImage(4 * CLUSTER + 1536)
    base.data[:] = randoms.randbytes(base.size)
    model = bytearray(base.data)
    image = OverlayImage(base)
    for _ in range(400):
        start = randoms.randrange(base.size)
        size = min(randoms.choice([1, 512, 5000, CLUSTER, 2 * CLUSTER]), base.size - start)
        choice = randoms.randrange(3)
        if choice == 0:
            data = randoms.randbytes(size)
            write(image, start, data)
            model[start : start + size] = data
        elif choice == 1:
            image.write_zeroes(start, size, unmap=randoms.random() < 0.5)
            model[start : start + size] = bytes(size)
        assert read(image, start, size) == model[start : start + size]
    assert read(image, 0, image.size) == model
    assert "write" not in base.log
    image.close()
    assert base.closed


def test_a_snapshot_that_is_resized() -> None:
    base = MemoryImage(CLUSTER)
    base.data[:] = b"\x11" * CLUSTER
    image = OverlayImage(base)
    image.resize(3 * CLUSTER)
    assert read(image, 0, 2 * CLUSTER) == b"\x11" * CLUSTER + bytes(CLUSTER)
    write(image, 2 * CLUSTER, b"\x22" * 512)
    image.resize(512)
    image.resize(CLUSTER)
    assert read(image, 0, CLUSTER) == b"\x11" * 512 + bytes(CLUSTER - 512)
    image.close()


def test_a_snapshot_leaves_the_image_unlocked_for_readers(path: Path) -> None:
    with contextlib.closing(open_image(str(path), snapshot=True)) as image:
        write(image, 0, bytes(512))
        open_image(str(path), read_only=True).close()
    assert path.read_bytes() == numbered(SIZE // 512)


# Views


def test_cut_and_batches() -> None:
    views = [memoryview(bytes([n]) * n) for n in range(1, 6)]
    whole = b"".join(views)
    for start in range(16):
        for size in range(17):
            assert b"".join(cut(views, start, size)) == whole[start : start + size]
    many = [memoryview(b"ab")] * 2500
    assert [(at, len(group)) for at, group in batches(many)] == [
        (0, 1024),
        (2048, 1024),
        (4096, 452),
    ]
