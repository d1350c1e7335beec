"""Byte order of a guest, as an enumeration with the numbers migration streams use."""

from __future__ import annotations

import enum
from typing import Literal


class GuestEndian(enum.IntEnum):
    """Byte order; ``UNKNOWN`` only while a saved state is being loaded."""

    UNKNOWN = 0
    LITTLE = 1
    BIG = 2

    @property
    def order(self) -> Literal["little", "big"]:
        """For ``int.to_bytes`` and ``int.from_bytes``; ``ValueError`` while unknown."""
        if self is GuestEndian.UNKNOWN:
            raise ValueError("byte order used before it is known")
        return "little" if self is GuestEndian.LITTLE else "big"

    @property
    def struct(self) -> Literal["<", ">"]:
        """Prefix of a :mod:`struct` format; ``ValueError`` while unknown."""
        return "<" if self.order == "little" else ">"
