"""virtio_net_hdr and the work it asks for (virtio 1.2, 5.1.6; legacy 5.1.6.1)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEGACY_SIZE = 10
SIZE = 12
"""Bytes with num_buffers: always with VERSION_1, else with MRG_RXBUF only."""

ETHERNET_HEADER = 14
_FIELDS = "BBHHHH"
_SMALL = 4096  # bytes up to which Python's integers sum faster than numpy


class HeaderFlag(enum.IntFlag):
    """``flags``."""

    NEEDS_CSUM = 1
    DATA_VALID = 2


class Gso(enum.IntEnum):
    """``gso_type`` without its ECN bit."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4


GSO_ECN = 0x80


@dataclass(frozen=True)
class NetHeader:
    """The fields but for num_buffers."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def unpack(cls, data: bytes, order: Literal["<", ">", "="]) -> NetHeader:
        """From the first LEGACY_SIZE bytes, in a byte order of :mod:`struct`."""
        return cls(*struct.unpack_from(order + _FIELDS, data))

    def pack(self, order: Literal["<", ">", "="]) -> bytes:
        """LEGACY_SIZE bytes."""
        return struct.pack(
            order + _FIELDS,
            self.flags,
            self.gso_type,
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        )


def checksum(data: bytes | memoryview) -> int:
    """Internet checksum (RFC 1071) of the bytes: the complement of their sum; 0xffff for zeros."""
    size = len(data)
    if size <= _SMALL:
        # 2^16 is 1 modulo 0xffff, so the number modulo 0xffff is the sum of its 16-bit digits.
        total = int.from_bytes(data, "big") << 8 * (size & 1)
        return ~(total % 0xFFFF) & 0xFFFF
    # The sum of byte-swapped words is the byte-swapped sum: no word need be swapped.
    whole = size & ~3
    total = int(np.frombuffer(data, "<u4", whole // 4).sum(dtype=np.uint64))
    total += int.from_bytes(data[whole:], "little")
    swapped = total % 0xFFFF
    return ~(swapped << 8 | swapped >> 8) & 0xFFFF


def complete_checksum(frame: bytes, start: int, offset: int) -> bytes | None:
    """The frame with the checksum at ``start + offset`` done; None if it is outside the frame.

    The field holds the sum of the pseudo header. A result of zero is written as 0xffff, which
    means the same and, unlike zero, is not "none" for UDP.
    """
    place = start + offset
    if place + 2 > len(frame):
        return None
    value = checksum(memoryview(frame)[start:]) or 0xFFFF
    return b"".join((frame[:place], value.to_bytes(2, "big"), frame[place + 2 :]))


def is_dhcp_reply(frame: bytes) -> bool:
    """Whether a frame is IPv4 with UDP from port 67 and of ordinary size.

    DHCP clients read them from raw sockets and do not know of unfinished checksums.
    """
    return (
        27 < len(frame) < 1500
        and frame[12:14] == b"\x08\x00"
        and frame[23] == 17
        and frame[34:36] == b"\0\x43"
    )


def flow_hash(frame: bytes) -> int:
    """A number below 256 that both directions of a flow share."""
    if frame[12:14] == b"\x08\x00":
        ends = frame[26:34] + (frame[34:38] if frame[23:24] in (b"\x06", b"\x11") else b"")
    elif frame[12:14] == b"\x86\xdd":
        ends = frame[22:54] + (frame[54:58] if frame[20:21] in (b"\x06", b"\x11") else b"")
    else:
        return 0
    total = sum(ends[0::2]) + 3 * sum(ends[1::2])
    return (total ^ total >> 8) & 0xFF
