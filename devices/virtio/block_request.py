"""Requests of virtio-blk (virtio 1.2, 5.2.6): their numbers, and how one is carried out."""

from __future__ import annotations

import enum
import errno
import os

from devices.block.image import Image
from devices.virtio.queue import Element, VirtQueue

HEADER_SIZE = 16
ID_SIZE = 20
RANGE_SIZE = 16  # struct virtio_blk_discard_write_zeroes
BARRIER = 1 << 31  # historical, without effect
FLAG_UNMAP = 1


class RequestType(enum.IntEnum):
    """The type field; every type that writes has bit 0."""

    IN = 0
    OUT = 1
    SCSI_CMD = 2
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class BlockStatus(enum.IntEnum):
    """The status byte."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


class Request:
    """A request that takes time: the host's disk is asked by a worker.

    ``offset`` and ``size`` are bytes of the disk, ``views`` guest RAM.  ``durable``: it is
    complete when it is on stable storage.  ``error`` is set by :meth:`carry_out`.
    """

    __slots__ = ("durable", "element", "error", "offset", "queue", "size", "type", "unmap", "views")

    def __init__(
        self,
        queue: VirtQueue,
        element: Element,
        type: RequestType,
        offset: int = 0,
        size: int = 0,
        views: list[memoryview] | None = None,
        *,
        durable: bool = False,
        unmap: bool = False,
    ) -> None:
        self.queue = queue
        self.element = element
        self.type = type
        self.offset = offset
        self.size = size
        self.views = views or []
        self.durable = durable
        self.unmap = unmap
        self.error: OSError | None = None

    def carry_out(self, image: Image) -> None:
        """Ask the disk and wait.  Any thread; raises nothing."""
        try:
            self._carry_out(image)
        except OSError as error:
            self.error = error
        except Exception as error:  # a worker lives on whatever an image does
            self.error = OSError(errno.EIO, f"{os.strerror(errno.EIO)} ({error!r})")

    def _carry_out(self, image: Image) -> None:
        if self.type is RequestType.IN:
            image.preadv(self.views, self.offset)
        elif self.type is RequestType.OUT:
            image.pwritev(self.views, self.offset, durable=self.durable)
        elif self.type is RequestType.FLUSH:
            image.flush()
        elif self.type is RequestType.DISCARD:
            image.discard(self.offset, self.size)
        else:
            image.write_zeroes(self.offset, self.size, unmap=self.unmap, durable=self.durable)
