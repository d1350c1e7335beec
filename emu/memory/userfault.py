"""Linux userfaultfd: memory whose missing pages another thread supplies (userfaultfd(2)).

A thread that touches a missing page sleeps in the kernel until the page has been put there, no
matter whether it is generated code, compiled code, Python or a system call.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

_DEVICE = "/dev/userfaultfd"
_SYSCALLS = {"x86_64": 323, "aarch64": 282}
_API = 0xAA
_MODE_MISSING = 1


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | _API << 8 | number


_WRITE, _READ = 1, 2
_IOC_NEW = _request(0, 0x00, 0)
_IOC_API = _request(_READ | _WRITE, 0x3F, 24)
_IOC_REGISTER = _request(_READ | _WRITE, 0x00, 32)
#: For native code: struct uffdio_range, twice; struct uffdio_copy; struct uffdio_zeropage.
IOC_UNREGISTER = _request(_READ, 0x01, 16)
IOC_WAKE = _request(_READ, 0x02, 16)
IOC_COPY = _request(_READ | _WRITE, 0x03, 40)
IOC_ZEROPAGE = _request(_READ | _WRITE, 0x04, 32)
#: struct uffd_msg: event (8 bits), at 16 the address of a page fault.
MESSAGE_SIZE = 32
EVENT_PAGEFAULT = 0x12


class UserfaultError(Exception):
    """The host does not let us; one line that says what it wants."""


class Userfault:
    """A userfaultfd that also sees faults inside system calls (disks read into guest RAM).

    Raises :class:`UserfaultError`.  ``fd`` is not blocking.
    """

    def __init__(self) -> None:
        self.fd = _open()
        try:
            fcntl.ioctl(self.fd, _IOC_API, bytearray(struct.pack("=3Q", _API, 0, 0)))
        except OSError as error:
            self.close()
            raise UserfaultError(f"userfaultfd: {error.strerror}") from error

    def register(self, address: int, size: int) -> None:
        """From now on this watches for missing pages of a range (host addresses)."""
        request = bytearray(struct.pack("=4Q", address, size, _MODE_MISSING, 0))
        try:
            fcntl.ioctl(self.fd, _IOC_REGISTER, request)
        except OSError as error:
            raise UserfaultError(f"userfaultfd: cannot watch RAM: {error.strerror}") from error

    def unregister(self, address: int, size: int) -> None:
        """Missing pages of a range are zeros from now on; who waits for one goes on."""
        fcntl.ioctl(self.fd, IOC_UNREGISTER, bytearray(struct.pack("=2Q", address, size)))

    def close(self) -> None:
        """Give it up; every range is unregistered."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _open() -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _system_call(flags)
    try:
        return fcntl.ioctl(device, _IOC_NEW, flags)
    except OSError:
        return _system_call(flags)
    finally:
        os.close(device)


def _system_call(flags: int) -> int:
    number = _SYSCALLS.get(os.uname().machine)
    if number is None:
        raise UserfaultError("userfaultfd is not known on this host")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(ctypes.c_long(number), ctypes.c_int(flags)))
    if fd >= 0:
        return fd
    error = ctypes.get_errno()
    if error == errno.ENOSYS:
        raise UserfaultError("the host's kernel has no userfaultfd")
    raise UserfaultError(
        f"userfaultfd: {os.strerror(error)} (it needs the sysctl vm.unprivileged_userfaultfd=1,"
        f" access to {_DEVICE}, or CAP_SYS_PTRACE)"
    )
