"""The little-endian guest: Debian's own kernel with its modules, and a busybox user space."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

from firmware.guests import cache, host, modules
from firmware.guests.apt import Apt, unpack
from firmware.guests.cpio import Archive
from firmware.guests.errors import GuestError
from firmware.guests.report import Report

DATA = Path(__file__).parent
SCRIPTS = {
    "init": "init.sh",
    "lib/guest/bench.sh": "guest-bench.sh",
    "lib/guest/stress.sh": "guest-stress.sh",
    "etc/profile": "guest-profile.sh",
    "etc/inittab": "guest-inittab",
}
OUTPUTS = ("vmlinux", "initramfs.cpio.gz")

BOOT_MODULES = (
    "virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
    "virtio_balloon", "virtio_scsi", "sd_mod", "9pnet_virtio", "9p", "crc32c_generic", "ext4",
)  # fmt: skip
# In the image for the stress test, which loads and unloads them.
SPARE_MODULES = ("dummy", "loop", "xxhash_generic", "lz4_compress")

_DIRECTORIES = ("dev", "proc", "sys", "tmp", "root", "mnt", "sbin", "usr/bin", "usr/sbin")
_STRESS_BYTES = 256 << 10
_REQUESTS = "busybox-guest-packages.json"


def stress_data(length: int = _STRESS_BYTES) -> bytes:
    """Return fixed data, half digits and half noise, so that it compresses, but not away."""
    out = bytearray()
    block = b"stress"
    while len(out) < length:
        block = hashlib.sha256(block).digest()
        out += block + block.hex().encode()[:32]
    return bytes(out[:length])


def input_hash() -> str:
    """Return a hash of everything in the project that decides what the guest contains."""
    parts = [(DATA / name).read_bytes() for name in SCRIPTS.values()]
    parts += [Path(__file__).read_bytes(), Path(modules.__file__).read_bytes()]
    return cache.digest(parts)


def _packages(apt: Apt, report: Report, refresh: bool) -> list[Path]:
    """Return the kernel's and busybox's .deb files, from the cache unless `refresh`."""
    root = cache.cache_root()
    record = root / _REQUESTS
    if not refresh:
        try:
            files = [root / "debs" / name for name in json.loads(record.read_text())]
        except (OSError, ValueError):
            files = []
        if files and all(f.is_file() for f in files):
            return files
    report.step("le: reading Debian's package indexes for ppc64el")
    image = apt.resolve("linux-image-powerpc64le", r"linux-image-\d.*-powerpc64le")
    report.step(f"le: fetching {image} and busybox-static")
    files = [apt.download(name, root / "debs") for name in (image, "busybox-static")]
    host.write_atomic(record, json.dumps([f.name for f in files]).encode())
    return files


def _one(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        raise GuestError(f"Debian's kernel package holds {len(found)} files {pattern}, not 1")
    return found[0]


def initramfs(release: str, busybox: bytes, chosen: list[modules.Module]) -> Archive:
    """Put together the user space for a kernel release from its parts."""
    archive = Archive()
    archive.char_device("dev/console", 5, 1)
    for name in _DIRECTORIES:
        archive.directory(name)
    for name, source in SCRIPTS.items():
        archive.file(name, (DATA / source).read_bytes(), 0o755)
    archive.file("bin/busybox", busybox, 0o755)
    archive.symlink("bin/sh", "busybox")
    archive.file("etc/guest/modules", "".join(f"{n}\n" for n in BOOT_MODULES).encode())
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    data = stress_data()
    # The check busybox knows how to verify.
    packed = lzma.compress(data, check=lzma.CHECK_CRC32)
    archive.file("usr/share/guest/data.xz", packed)
    digest = hashlib.sha256(data).hexdigest()
    archive.file("usr/share/guest/data.sha256", f"{digest}\n".encode())
    base = f"lib/modules/{release}"
    archive.file(f"{base}/modules.dep", modules.dependency_index(chosen).encode())
    archive.file(f"{base}/modules.alias", modules.alias_index(chosen).encode())
    for module in chosen:
        archive.file(f"{base}/{module.path}", module.data)
    return archive


def make(directory: Path, apt: Apt, report: Report, refresh: bool) -> None:
    """Make the guest's files in a directory; `refresh` asks apt for newer packages."""
    packages = _packages(apt, report, refresh)
    report.step("le: unpacking")
    with host.scratch() as work:
        for package in packages:
            unpack(package, work)
        kernel = _one(work, "boot/vmlinux-*").read_bytes()
        if kernel[:5] != b"\x7fELF\x02":
            raise GuestError("Debian's kernel is not a 64-bit ELF file")
        tree = _one(work, "lib/modules/*")
        chosen = modules.collect(tree, (*BOOT_MODULES, *SPARE_MODULES))
        report.step("le: writing the initramfs")
        archive = initramfs(tree.name, (work / "bin/busybox").read_bytes(), chosen)
        host.write_atomic(directory / "vmlinux", kernel)
        host.write_atomic(directory / "initramfs.cpio.gz", archive.to_gzip())
        for module in chosen:
            host.write_atomic(directory / "modules" / f"{module.name}.ko", module.data)
