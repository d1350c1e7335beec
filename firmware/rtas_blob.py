"""The code a guest enters to call RTAS: five instructions that turn the call into a hypercall.

LoPAR, "Run-Time Abstraction Services (RTAS)", "Environment": the guest enters with r3 = real
address of its argument buffer, in 32-bit big-endian real mode, and expects a return to LR. The
hypercall number is the one every ppc64 hypervisor that implements RTAS itself uses
(`KVMPPC_H_RTAS`); it passes the buffer's address in r4.
"""

from __future__ import annotations

import struct

H_RTAS = 0xF000

# What the guest reserves for RTAS: a multiple of the largest page size kernels use (64 KiB).
RTAS_AREA_SIZE = 0x10000
RTAS_ENTRY_OFFSET = 0


def encode_or(ra: int, rs: int, rb: int) -> int:
    """`or ra,rs,rb` (Power ISA 3.1B, Book I, "Fixed-Point Logical Instructions"), Rc = 0."""
    return 31 << 26 | rs << 21 | ra << 16 | rb << 11 | 444 << 1


def encode_addi(rt: int, ra: int, si: int) -> int:
    """`addi rt,ra,si` (Power ISA 3.1B, Book I, "Fixed-Point Arithmetic Instructions").

    `ra` 0 means the value zero, not GPR 0.
    """
    return 14 << 26 | rt << 21 | ra << 16 | si & 0xFFFF


def encode_ori(ra: int, rs: int, ui: int) -> int:
    """`ori ra,rs,ui` (Power ISA 3.1B, Book I, "Fixed-Point Logical Instructions")."""
    return 24 << 26 | rs << 21 | ra << 16 | ui & 0xFFFF


def encode_sc(lev: int) -> int:
    """`sc lev` (Power ISA 3.1B, Book I, "System Call Instructions"); level 1 is a hypercall."""
    return 17 << 26 | lev << 5 | 1 << 1


def encode_blr() -> int:
    """`blr`, that is `bclr 20,0,0` (Power ISA 3.1B, Book I, "Branch Instructions")."""
    return 19 << 26 | 20 << 21 | 16 << 1


def rtas_blob() -> bytes:
    """The blob to place at the RTAS base; enter it at `RTAS_ENTRY_OFFSET`. Always big-endian."""
    code = (
        encode_or(ra=4, rs=3, rb=3),
        encode_addi(rt=3, ra=0, si=0),
        # A second step: addi would sign-extend 0xf000.
        encode_ori(ra=3, rs=3, ui=H_RTAS),
        encode_sc(1),
        encode_blr(),
    )
    return struct.pack(f">{len(code)}I", *code)
