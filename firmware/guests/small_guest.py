"""The small guests: a kernel with everything built in and a first process in C."""

from __future__ import annotations

from pathlib import Path

from firmware.guests import cache, host, kernel
from firmware.guests.apt import Apt
from firmware.guests.cpio import Archive
from firmware.guests.report import Report

DATA = Path(__file__).parent
OUTPUTS = ("vmlinux", "initramfs.cpio.gz")

_FLAGS = ("-static", "-O2", "-s", "-Wall", "-Wextra", "-Wl,--build-id=none")
_DIRECTORIES = ("dev", "proc", "sys", "tmp", "root", "mnt", "bin")


def c_sources() -> list[Path]:
    """Return the C files and headers of the first process."""
    return sorted(DATA.glob("init*.[ch]"))


def input_hash(small: kernel.SmallKernel) -> str:
    """Return a hash of everything that decides what the guest contains."""
    parts = [p.read_bytes() for p in [*c_sources(), Path(__file__)]]
    prebuilt = kernel.prebuilt_file(small)
    origin = cache.file_identity(prebuilt) if prebuilt else "built"
    return cache.digest([*parts, small.config_hash, origin])


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
    host.require(f"{small.cross}gcc")
    elf = kernel.obtain(small, apt, report, from_source)
    report.step(f"small {small.kind} guest: compiling the first process")
    archive = initramfs(compile_init(small))
    host.write_atomic(directory / "vmlinux", elf)
    host.write_atomic(directory / "initramfs.cpio.gz", archive.to_gzip())
