"""Builds other forms of the test images: an ELF file for -kernel, and firmware that starts it.

The kernel has the same tests as the image for -bios; its parameters are words of -append.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.support.guest_images import (
    BUILD,
    ImageBuildError,
    Part,
    flat_binary,
    link_elf,
    missing_compilers,
    source_state,
)

_SOURCES = ("kernel/*.S", "lib/*.c", "lib/start.S", "virtio/*.c", "tests/*.c")
_SCRIPT = ("-Wl,-T,kernel/kernel.lds", "-Wl,-n", "-Wl,--defsym=BASE=0x400000")
KERNELS = {
    "be": Part("kernel-be", 0x400000, "powerpc64-linux-gnu", _SCRIPT, _SOURCES),
    "le": Part("kernel-le", 0x400000, "powerpc64le-linux-gnu", _SCRIPT, _SOURCES),
}
_ROM_SOURCES = ("rom/rom.S", "rom/rom.c", "lib/fdt.c", "lib/string.c")
ROM = Part(
    "rom", 0, "powerpc64-linux-gnu", ("-Wl,-Ttext=0", "-Wl,-e,_start", "-Wl,-n"), _ROM_SOURCES
)


def _build(part: Part, suffix: str) -> Path:
    """The file of a part, built if its sources have changed."""
    home = BUILD / source_state((part,))
    file = home / f"{part.name}{suffix}"
    if file.exists():
        return file
    if missing := missing_compilers():
        raise ImageBuildError(f"guest images need {', '.join(missing)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        elf = link_elf(part, Path(name))
        if suffix == ".bin":
            flat_binary(part, elf)
        home.mkdir(exist_ok=True)
        for made in Path(name).iterdir():
            os.replace(made, home / made.name)
    return file


def kernel_image(order: str) -> Path:
    """An ELF image for -kernel in "be" or "le", entered big-endian at its start."""
    return _build(KERNELS[order], ".elf")


def boot_rom() -> Path:
    """A raw firmware for -bios that starts the kernel at /chosen/qemu,boot-kernel."""
    return _build(ROM, ".bin")
