"""The small guests: a kernel with everything built in and a first process in C."""

from __future__ import annotations

from pathlib import Path

from firmware.guests import cache, host, kernel
from firmware.guests.apt import Apt
from firmware.guests.cpio import Archive
from firmware.guests.errors import GuestError
from firmware.guests.report import Report

DATA = Path(__file__).parent
OUTPUTS = ("vmlinux", "initramfs.cpio.gz")

_FLAGS = ("-static", "-O2", "-s", "-Wall", "-Wextra", "-Wl,--build-id=none")
_DIRECTORIES = ("dev", "proc", "sys", "tmp", "root", "mnt", "bin")


def c_sources() -> list[Path]:
    """Return the C files and headers of the first process."""
    return sorted(DATA.glob("init*.[ch]"))


def input_hash(small: kernel.SmallKernel) -> str:
    """Return a hash of everything in the project that decides what the guest contains.

    Where the kernel came from does not count: one that is there is good, prebuilt or built.
    """
    parts = [p.read_bytes() for p in [*c_sources(), Path(__file__)]]
    return cache.digest([*parts, small.config_hash])


def require_compiler(small: kernel.SmallKernel) -> None:
    """Raise GuestError naming the package if the cross compiler or its libc is missing."""
    compiler = f"{small.cross}gcc"
    # The compiler says the bare name of a file it cannot find.
    if host.run([compiler, "-print-file-name=libc.a"]).strip() == "libc.a":
        raise GuestError(
            f"{compiler} has no C library; install it with: apt-get install {small.libc}"
        )


def compile_init(small: kernel.SmallKernel) -> bytes:
    """Cross-compile the first process and return the static ELF program."""
    sources = [p for p in c_sources() if p.suffix == ".c"]
    with host.scratch() as work:
        # Relative names keep the program the same wherever the checkout is.
        names = [p.name for p in sources]
        host.run([f"{small.cross}gcc", *_FLAGS, "-o", work / "init", *names], cwd=DATA)
        return (work / "init").read_bytes()


def initramfs(init: bytes) -> Archive:
    """Put together the user space around the first process."""
    archive = Archive()
    archive.char_device("dev/console", 5, 1)
    for name in _DIRECTORIES:
        archive.directory(name)
    archive.file("init", init, 0o755)
    return archive


def make(
    directory: Path, small: kernel.SmallKernel, apt: Apt, report: Report, from_source: bool
) -> None:
    """Make the guest's files in a directory; `from_source` builds the kernel anew."""
    require_compiler(small)
    elf = kernel.obtain(small, apt, report, from_source)
    report.step(f"small {small.kind} guest: compiling the first process")
    archive = initramfs(compile_init(small))
    host.write_atomic(directory / "vmlinux", elf)
    host.write_atomic(directory / "initramfs.cpio.gz", archive.to_gzip())
