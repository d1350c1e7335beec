"""Raw images: host files, sparse or not, and host block devices."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable

from devices.block.hostcalls import block_device_size, punch_hole, zero_range
from devices.block.image import SECTOR, Image, Views, batches, cut, total
from devices.block.locking import lock_image, unlock_image
from emu.chardev.config import ConfigError

_BOUNCE = 1 << 20
_ZEROES = memoryview(bytes(1 << 20))
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL, errno.ENOTTY)


class RawImage(Image):
    """A file whose bytes are the disk's.

    Takes over ``fd``.  ``direct``: it was opened with O_DIRECT.  ``unmap``: discarded ranges are
    given back to the host.  ``no_flush``: nothing waits for stable storage.
    """

    def __init__(
        self,
        fd: int,
        path: str,
        size: int,
        *,
        read_only: bool,
        write_back: bool = True,
        direct: bool = False,
        unmap: bool = False,
        no_flush: bool = False,
    ) -> None:
        super().__init__(path, size, read_only=read_only, write_back=write_back)
        self._fd = fd
        self._direct = direct
        self._unmap = unmap
        self._no_flush = no_flush
        self.lock: Callable[[], None] | None = None
        # O_DIRECT waits for the disk even with RWF_NOWAIT.
        self.nowait_fd = -1 if direct else fd

    def claim(self) -> None:
        """Take the locks."""
        if self.lock is not None:
            self.lock()

    def release(self) -> None:
        """Give the locks back; the image must not be used until :meth:`claim`."""
        if self.lock is not None:
            unlock_image(self._fd)

    def preadv(self, views: Views, offset: int) -> None:
        """Fill all views."""
        for distance, group in batches(views):
            try:
                self._read(group, offset + distance)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._read_bounced(group, offset + distance)

    def pwritev(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write all views."""
        flags = os.RWF_DSYNC if durable and not self._no_flush else 0
        for distance, group in batches(views):
            try:
                self._write(group, offset + distance, flags)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._write_bounced(group, offset + distance, flags)

    def _read(self, views: Views, offset: int) -> None:
        left = total(views)
        while left:
            done = os.preadv(self._fd, views, offset)
            if done == 0:  # somebody made the file shorter
                for view in views:
                    view[:] = bytes(len(view))
                return
            left -= done
            if left:
                views, offset = cut(views, done, left), offset + done

    # O_DIRECT wants aligned memory, which a guest need not have.

    def _read_bounced(self, views: Views, offset: int) -> None:
        with mmap.mmap(-1, _BOUNCE) as bounce, memoryview(bounce) as memory:
            for start in range(0, total(views), _BOUNCE):
                part = cut(views, start, _BOUNCE)
                self._read([memory[: total(part)]], offset + start)
                done = 0
                for view in part:
                    view[:] = memory[done : done + len(view)]
                    done += len(view)

    def _write_bounced(self, views: Views, offset: int, flags: int) -> None:
        with mmap.mmap(-1, _BOUNCE) as bounce, memoryview(bounce) as memory:
            for start in range(0, total(views), _BOUNCE):
                data = b"".join(cut(views, start, _BOUNCE))
                memory[: len(data)] = data
                self._write([memory[: len(data)]], offset + start, flags)

    def _write(self, views: Views, offset: int, flags: int) -> None:
        left = total(views)
        while left:
            done = os.pwritev(self._fd, views, offset, flags)
            if done == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= done
            if left:
                views, offset = cut(views, done, left), offset + done

    def flush(self) -> None:
        """Wait for stable storage."""
        if not self._no_flush and not self.read_only:
            os.fdatasync(self._fd)

    def discard(self, offset: int, size: int) -> None:
        """Punch a hole, if that was asked for and the host can."""
        if self._unmap and size:
            try:
                punch_hole(self._fd, offset, size)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._unmap = False

    def write_zeroes(self, offset: int, size: int, *, unmap: bool, durable: bool = False) -> None:
        """Zero a range in the cheapest way the host has."""
        ways = [punch_hole, zero_range] if unmap and self._unmap else [zero_range]
        if size and not any(_supported(way, self._fd, offset, size) for way in ways):
            for start in range(offset, offset + size, len(_ZEROES)):
                self.pwritev([_ZEROES[: offset + size - start]], start)
        if durable:
            self.flush()

    def resize(self, size: int) -> None:
        """Make the file longer or shorter."""
        if stat.S_ISBLK(os.fstat(self._fd).st_mode):
            if size > block_device_size(self._fd):
                raise OSError(errno.EINVAL, "Cannot grow device files")
        else:
            os.ftruncate(self._fd, size)
        self.size = size

    def close(self) -> None:
        """Close the file; its locks go with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = self.nowait_fd = -1


def _supported(way: Callable[[int, int, int], None], fd: int, offset: int, size: int) -> bool:
    """Try one way to zero a range; False if the host does not have it."""
    try:
        way(fd, offset, size)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def open_raw(
    path: str,
    *,
    read_only: bool = False,
    write_back: bool = True,
    direct: bool = False,
    no_flush: bool = False,
    unmap: bool = False,
    locking: str = "auto",
    share_write: bool = False,
    claim: bool = True,
) -> RawImage:
    """Open and lock a raw image; ConfigError if that cannot be, or if its size is odd.

    Without ``claim`` it is locked later, by :meth:`Image.claim`.
    """
    fd = open_file(path, read_only=read_only, direct=direct)

    def lock() -> None:
        required = locking == "on"
        lock_image(fd, path, read_only=read_only, share_write=share_write, required=required)

    try:
        if locking != "off" and claim:
            lock()
        image = RawImage(
            fd,
            path,
            image_size(fd, path),
            read_only=read_only,
            write_back=write_back,
            direct=direct,
            unmap=unmap,
            no_flush=no_flush,
        )
    except BaseException:
        os.close(fd)
        raise
    image.lock = lock if locking != "off" else None
    return image


def open_file(path: str, *, read_only: bool, direct: bool = False) -> int:
    """Open a host file or block device; ConfigError in QEMU's words."""
    flags = os.O_RDONLY if read_only else os.O_RDWR
    try:
        # A pipe must not block us, and its kind is checked before it is read.
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECT if direct else 0))
    except IsADirectoryError:
        raise _not_a_disk(path) from None
    except OSError as error:
        raise ConfigError(f"Could not open '{path}': {error.strerror}") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        os.close(fd)
        raise _not_a_disk(path)
    return fd


def _not_a_disk(path: str) -> ConfigError:
    return ConfigError(f"'file' driver requires '{path}' to be a regular file or block device")


def image_size(fd: int, path: str) -> int:
    """Bytes of a raw image; ConfigError if that is no whole number of sectors."""
    state = os.fstat(fd)
    size = block_device_size(fd) if stat.S_ISBLK(state.st_mode) else state.st_size
    if size % SECTOR:
        raise ConfigError(
            f"Could not open '{path}': image size {size} is not a multiple of {SECTOR}"
        )
    return size
