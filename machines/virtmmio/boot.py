"""What goes into RAM at start, and how the CPU enters it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from firmware.boot_image import BootPlan, plan_boot
from firmware.elf import load_elf
from firmware.elf_header import is_elf
from firmware.errors import ImageError
from firmware.image_file import map_image

_RTAS = "RTAS"


@dataclass(frozen=True)
class BoardBoot:
    """The image's place and entry, and the byte order it is entered in."""

    plan: BootPlan
    little_endian: bool


def plan_board(
    ram_size: int, *, kernel: str | None, bios: str | None, initrd: str | None
) -> BoardBoot:
    """Lay out RAM for one image.

    ``bios`` is raw (loaded at 0, entered at 0x100, big-endian) or ELF; ``kernel`` is ELF.  An ELF
    image goes where it is linked and is entered in its own byte order.  r3 is the device tree.
    Raises ``ImageError``.
    """
    if kernel is not None and bios is not None:
        raise ImageError("the virtmmio machine takes a kernel or a firmware image, not both")
    if initrd is not None:
        raise ImageError(f"{initrd}: the virtmmio machine takes no initrd")
    image = kernel if bios is None else bios
    if image is None:
        raise ImageError("nothing to boot: no kernel and no firmware image given")
    if kernel is not None:
        load_elf(kernel)  # says in one line what is wrong with anything else
    plan = plan_boot(ram_size, bios=image)
    # There is no RTAS on this board; the place above the device tree stays empty.
    chunks = tuple(chunk for chunk in plan.chunks if chunk.name != _RTAS)
    return BoardBoot(dataclasses.replace(plan, chunks=chunks), _is_little_endian(image))


def _is_little_endian(image: str | os.PathLike[str]) -> bool:
    return is_elf(map_image(image)) and load_elf(image).little_endian
