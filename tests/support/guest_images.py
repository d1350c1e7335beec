"""Builds the bare-metal test images of tests/guest with Debian's cross compilers, on demand.

An image is stub (0), big-endian payload and little-endian payload at the addresses of
`tests/guest/layout.h`, with a line of parameters in the first 256 bytes. The compiled part is
kept in build/guest-images under the hash of its sources.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "guest"
BUILD = ROOT / "build" / "guest-images"

PARAMETERS_OFFSET = 0x10
PARAMETERS_SIZE = 0xF0
SECTOR = 512

_CFLAGS = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-ffreestanding", "-nostdlib", "-static"),
    *("-no-pie", "-fno-pic", "-mcpu=power8", "-mabi=elfv2", "-mcmodel=medium"),
    *("-msoft-float", "-mno-altivec", "-mno-vsx", "-fno-stack-protector", "-fno-strict-aliasing"),
    *("-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    *("--param=min-pagesize=0", "-I.", "-Ilib", "-Ivirtio", "-Itests"),
    *("-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"),
)


class ImageBuildError(Exception):
    """The image cannot be built; the text says why in one line, or is the compiler's."""


@dataclass(frozen=True)
class Part:
    """One separately linked piece of an image: its place and the tools that make it."""

    name: str
    base: int
    target: str
    flags: tuple[str, ...]
    sources: tuple[str, ...]


_PAYLOAD = ("lib/*.S", "lib/*.c", "virtio/*.c", "tests/*.c")
_SCRIPT = ("-Wl,-T,payload.lds",)
PARTS = (
    Part("stub", 0, "powerpc64-linux-gnu", ("-Wl,-Ttext=0", "-Wl,-e,_start"), ("stub.S",)),
    Part("big", 0x10000, "powerpc64-linux-gnu", (*_SCRIPT, "-Wl,--defsym=BASE=0x10000"), _PAYLOAD),
    Part(
        "little",
        0x80000,
        "powerpc64le-linux-gnu",
        (*_SCRIPT, "-Wl,--defsym=BASE=0x80000"),
        _PAYLOAD,
    ),
)


def missing_compilers() -> list[str]:
    """Names of the cross tools that are not installed; empty when images can be built."""
    targets = dict.fromkeys(part.target for part in PARTS)
    tools = [f"{target}-{tool}" for target in targets for tool in ("gcc", "objcopy")]
    return [tool for tool in tools if shutil.which(tool) is None]


def source_state(parts: tuple[Part, ...] = PARTS) -> str:
    """Hash of everything an image of these parts is made from."""
    digest = hashlib.sha256(repr((_CFLAGS, parts)).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in {".c", ".h", ".S", ".lds"}:
            digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ImageBuildError(f"{' '.join(command[:1])} failed:\n{result.stderr}")


def _link(part: Part, directory: Path) -> bytes:
    """The flat binary of one part."""
    elf = link_elf(part, directory)
    sections = ["-j", ".text"] if part.base == 0 else []
    return flat_binary(part, elf, *sections)


def link_elf(part: Part, directory: Path) -> Path:
    """Compile and link one part; `ImageBuildError` with the compiler's text."""
    elf = directory / f"{part.name}.elf"
    sources = [str(path) for pattern in part.sources for path in _files(pattern)]
    _run([f"{part.target}-gcc", *_CFLAGS, *part.flags, *sources, "-o", str(elf)])
    return elf


def _files(pattern: str) -> list[Path]:
    """Of the library, or one file of somebody else."""
    return [Path(pattern)] if Path(pattern).is_absolute() else sorted(SOURCES.glob(pattern))


def flat_binary(part: Part, elf: Path, *sections: str) -> bytes:
    """The bytes of an ELF file as they are in memory (of those sections: "-j", name)."""
    flat = elf.with_suffix(".bin")
    _run([f"{part.target}-objcopy", "-O", "binary", *sections, str(elf), str(flat)])
    return flat.read_bytes()


def flat_image(parts: tuple[Part, ...], directory: Path) -> bytes:
    """The parts, built in `directory`, each at its place."""
    if missing := missing_compilers():
        raise ImageBuildError(
            f"guest images need {', '.join(missing)}: "
            "apt install gcc-powerpc64-linux-gnu gcc-powerpc64le-linux-gnu"
        )
    flat = bytearray()
    for part in parts:
        flat.extend(bytes(part.base - len(flat)))
        flat.extend(_link(part, directory))
    return bytes(flat)


def base_image() -> Path:
    """The compiled image without parameters, built if its sources changed.

    Raises `ImageBuildError`. The ELF files stay beside it for the debugger.
    """
    home = BUILD / source_state()
    image = home / "image.bin"
    if image.exists():
        return image
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        work = Path(name)
        (work / "image.bin").write_bytes(flat_image(PARTS, work))
        home.mkdir(exist_ok=True)
        for made in work.iterdir():
            os.replace(made, home / made.name)
    return image


def with_parameters(image: bytes, **parameters: str) -> bytes:
    """The image with these parameters ("test", "order", "mmu", "only") in it."""
    text = " ".join(f"{name}={value}" for name, value in parameters.items()).encode("ascii")
    if len(text) >= PARAMETERS_SIZE:
        raise ImageBuildError(f"parameters take {len(text)} bytes of {PARAMETERS_SIZE - 1}")
    start, end = PARAMETERS_OFFSET, PARAMETERS_OFFSET + len(text) + 1
    return image[:start] + text + b"\0" + image[end:]


def write_image(path: Path, **parameters: str) -> Path:
    """Writes an image with these parameters to `path`."""
    path.write_bytes(with_parameters(base_image().read_bytes(), **parameters))
    return path


def write_disk(path: Path, sectors: int) -> Path:
    """Writes the raw disk tests/guest/tests/blk.c expects: a text sector, then the pattern."""
    disk = bytearray(sectors * SECTOR)
    text = b"ppc64emu disk sectors=%d\n" % sectors
    disk[: len(text)] = text
    for sector in range(1, min(sectors, 9)):
        start = sector * SECTOR
        disk[start : start + SECTOR] = bytes((sector * 7 + j) & 0xFF for j in range(SECTOR))
    path.write_bytes(disk)
    return path
