"""Option vector 5: what platform and guest agree on, LoPAR, "ibm,architecture.vec option vectors".

A property holds a vector as its length less one, then bytes 1, 2, ...; bit 0 of a byte is the most
significant. Linux names a bit by both, as `OV5_RADIX_GTSE` 0x1a40: byte 0x1a, mask 0x40.
"""

from __future__ import annotations

from firmware.cpu_features import MmuMode

OV5_AFFINITY, OV5_FORM1_AFFINITY = 5, 0x80
OV5_XIVE, OV5_XIVE_LEGACY = 23, 0x00
OV5_MMU, OV5_MMU_HASH, OV5_MMU_RADIX = 24, 0x00, 0x40
OV5_HASH_EXTENSIONS = 25
OV5_RADIX_EXTENSIONS, OV5_RADIX_GTSE = 26, 0x40


def architecture_vec_5(mmu: MmuMode) -> bytes:
    """The value of /chosen/ibm,architecture-vec-5 as if a guest had negotiated for that MMU.

    Nobody negotiates when a kernel is entered with a flattened tree, so this property alone decides
    which MMU Linux sets up, and whether a radix guest may use tlbie (GTSE). Without it, or shorter
    than byte 24, Linux takes the hashed page table.
    """
    radix = mmu is MmuMode.RADIX
    vector = bytearray(OV5_RADIX_EXTENSIONS + 1)
    vector[0] = OV5_RADIX_EXTENSIONS - 1
    vector[OV5_AFFINITY] = OV5_FORM1_AFFINITY
    vector[OV5_XIVE] = OV5_XIVE_LEGACY
    vector[OV5_MMU] = OV5_MMU_RADIX if radix else OV5_MMU_HASH
    vector[OV5_RADIX_EXTENSIONS] = OV5_RADIX_GTSE if radix else 0
    return bytes(vector)


def platform_support(mmu: MmuMode) -> bytes:
    """The value of /chosen/ibm,arch-vec-5-platform-support: (byte number, value) pairs.

    It tells a guest what it may ask for by ibm,client-architecture-support.
    """
    radix = mmu is MmuMode.RADIX
    return bytes(
        (
            *(OV5_XIVE, OV5_XIVE_LEGACY),
            *(OV5_MMU, OV5_MMU_RADIX if radix else OV5_MMU_HASH),
            *(OV5_HASH_EXTENSIONS, 0),
            *(OV5_RADIX_EXTENSIONS, OV5_RADIX_GTSE if radix else 0),
        )
    )
