"""Opening disk images of any format."""

from __future__ import annotations

import os

from devices.block.config import CACHE_MODES, DriveConfig
from devices.block.image import Image
from devices.block.overlay import OverlayImage
from devices.block.qcow2 import MAGIC as QCOW2_MAGIC
from devices.block.qcow2 import open_qcow2
from devices.block.raw import open_file, open_raw
from emu.chardev.config import ConfigError

#: First bytes of images that are certainly not raw.
_MAGICS = {
    QCOW2_MAGIC: "qcow2",
    b"QED\0": "qed",
    b"KDMV": "vmdk",
    b"conectix": "vpc",
    b"vhdxfile": "vhdx",
    b"LUKS\xba\xbe": "luks",
}


def open_drive(config: DriveConfig, *, share_write: bool = False, claim: bool = True) -> Image:
    """Open what a :class:`DriveConfig` describes; see :func:`open_image`."""
    return open_image(
        config.file,
        config.format,
        read_only=config.read_only,
        cache=config.cache,
        discard=config.discard,
        locking=config.locking,
        snapshot=config.snapshot,
        share_write=share_write,
        claim=claim,
    )


def open_image(
    path: str,
    format: str | None = "raw",
    *,
    read_only: bool = False,
    cache: str = "writeback",
    discard: str = "ignore",
    locking: str = "auto",
    snapshot: bool = False,
    share_write: bool = False,
    claim: bool = True,
) -> Image:
    """Open and lock a disk image (without ``claim``, lock it later: :meth:`Image.claim`).

    Without a ``format`` it is taken for raw, and refused if it looks like something else.
    ``share_write``: other processes may write to it too.  ConfigError, in QEMU's words where
    QEMU has any, when the file cannot be opened, is locked, has another format or an odd size.
    """
    config = DriveConfig(
        id="", file=path, format=format, read_only=read_only, cache=cache, discard=discard,
        locking=locking, snapshot=snapshot,
    )  # fmt: skip
    mode = CACHE_MODES[config.cache]
    if format is None:
        _check_is_raw(path, read_only)
    base_read_only = read_only or snapshot
    unmap = discard in ("unmap", "on")
    image: Image
    if format == "qcow2":
        image = open_qcow2(
            path, read_only=base_read_only, write_back=mode.write_back, direct=mode.direct,
            no_flush=mode.no_flush, unmap=unmap, locking=locking,
        )  # fmt: skip
    else:
        image = open_raw(
            path, read_only=base_read_only, write_back=mode.write_back, direct=mode.direct,
            no_flush=mode.no_flush, unmap=unmap, locking=locking, share_write=share_write,
            claim=claim,
        )  # fmt: skip
    if snapshot and not read_only:
        try:
            return OverlayImage(image)
        except ConfigError:
            image.close()
            raise
    return image


def _check_is_raw(path: str, read_only: bool) -> None:
    """Refuse an image that a careless command line would give to the guest as it is."""
    fd = open_file(path, read_only=read_only)
    try:
        start = os.pread(fd, 16, 0)
    except OSError as error:
        raise ConfigError(f"Could not open '{path}': {error.strerror}") from error
    finally:
        os.close(fd)
    for magic, name in _MAGICS.items():
        if start.startswith(magic):
            raise ConfigError(
                f"Could not open '{path}': it looks like a {name} image; "
                f"say format={name} or format=raw"
            )
