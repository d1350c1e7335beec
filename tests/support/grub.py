"""GRUB for Open Firmware, from Debian's packages, and disks that it boots from."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from firmware.guests import cache, host
from firmware.guests.apt import Apt, unpack
from tests.boot.virtio_host import make_ext4

MIB = 1 << 20
SECTOR = 512
_PREP, _LINUX = 0x41, 0x83  # types of partitions
_PREP_START, _PREP_SIZE = MIB, 8 * MIB
_PLATFORM = "powerpc-ieee1275"
_MODULES = ("part_msdos", "ext2", "normal", "linux", "boot", "echo", "search", "search_fs_file")


def _unpacked(package: str, architecture: str, wanted: str) -> Path:
    """A file or directory of a package, fetched once; GuestError if apt has none."""
    place = cache.cache_root() / "grub" / f"{package}-{architecture}"
    with host.locked(place.with_suffix(".lock")):
        if not (place / wanted).exists():
            apt = Apt(cache.cache_root() / f"apt-{architecture}", architecture)
            with host.scratch(place.parent) as folder:
                unpack(apt.download(package, folder), folder / "files")
                (folder / "files").rename(place)
    return place / wanted


def core_image(folder: Path, commands: str) -> bytes:
    """GRUB with the modules to read ext4 and start Linux, and what it is to do.

    Raises GuestError without the packages grub-ieee1275-bin (of ppc64el) and grub-common.
    """
    modules = _unpacked("grub-ieee1275-bin", "ppc64el", f"usr/lib/grub/{_PLATFORM}")
    program = shutil.which("grub-mkimage")
    if program is None:
        native = host.run(["dpkg", "--print-architecture"]).strip()
        program = str(_unpacked("grub-common", native, "usr/bin/grub-mkimage"))
    script, image = folder / "grub.cfg", folder / "grub.elf"
    script.write_text(commands)
    options = ["-O", _PLATFORM, "-d", str(modules), "-p", "/", "-c", str(script), "-o", str(image)]
    subprocess.run([program, *options, *_MODULES], check=True, capture_output=True)
    return image.read_bytes()


def boot_disk(path: Path, core: bytes, size: int, files: Mapping[str, bytes]) -> None:
    """A disk: MBR, PReP boot partition with GRUB, ext4 of ``size`` bytes with these files."""
    file_system = path.with_suffix(".ext4")
    make_ext4(file_system, size, files)
    table = _partition(0x80, _PREP, _PREP_START, _PREP_SIZE)
    table += _partition(0, _LINUX, _PREP_START + _PREP_SIZE, size)
    with path.open("wb") as disk:
        disk.write((bytes(446) + table).ljust(510, b"\0") + b"\x55\xaa")
        disk.seek(_PREP_START)
        disk.write(core)
        disk.seek(_PREP_START + _PREP_SIZE)
        with file_system.open("rb") as source:
            shutil.copyfileobj(source, disk)
    file_system.unlink()


def _partition(active: int, kind: int, start: int, size: int) -> bytes:
    far = b"\xfe\xff\xff"  # cylinder, head and sector of what is addressed by number
    return struct.pack("<B3sB3sII", active, far, kind, far, start // SECTOR, size // SECTOR)
