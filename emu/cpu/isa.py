"""Power ISA numbers: MSR and LPCR bits, SPR numbers, interrupt causes.

Sources: Power ISA v3.0B, book III, chapters 3 (MSR), 5 (storage), 6 (interrupts); exception
numbers are those that Unicorn's ``UC_HOOK_INTR`` reports.
"""

from __future__ import annotations

import enum

MSR_SF = 1 << 63
MSR_HV = 1 << 60
MSR_VEC = 1 << 25
MSR_VSX = 1 << 23
MSR_POW = 1 << 18
MSR_EE = 1 << 15
MSR_PR = 1 << 14
MSR_FP = 1 << 13
MSR_ME = 1 << 12
MSR_SE = 1 << 10
MSR_BE = 1 << 9
MSR_IR = 1 << 5
MSR_DR = 1 << 4
MSR_RI = 1 << 1
MSR_LE = 1 << 0

LPCR_LPES0 = 1 << 3
LPCR_GTSE = 1 << 10
LPCR_HR = 1 << 20
LPCR_AIL_SHIFT = 23
LPCR_AIL = 3 << LPCR_AIL_SHIFT
LPCR_ILE = 1 << 25

DSISR_NOPTE = 0x40000000
DSISR_PROTFAULT = 0x08000000
DSISR_ISSTORE = 0x02000000
DSISR_AMR = 0x00200000
DSISR_R_BADCONFIG = 0x00080000
SRR1_NOPTE = 0x40000000
SRR1_NOEXEC_GUARD = 0x10000000
SRR1_PROTFAULT = 0x08000000
SRR1_IAMR = 0x00200000
# Machine check causes (POWER8 and POWER9 user's manuals, machine check interrupt)
SRR1_MC_LOADSTORE = 1 << 21
SRR1_MC_IFETCH_UE = 1 << 18
DSISR_MC_UE = 0x8000


class Spr(enum.IntEnum):
    """Special purpose registers by number (Power ISA v3.0B, book III, appendix A)."""

    XER = 1
    DSCR_USER = 3
    LR = 8
    CTR = 9
    UAMR = 13
    DSISR = 18
    DAR = 19
    DEC = 22
    SDR1 = 25
    SRR0 = 26
    SRR1 = 27
    CFAR = 28
    AMR = 29
    PID = 48
    IAMR = 61
    CTRL_READ = 136
    CTRL_WRITE = 152
    FSCR = 153
    UAMOR = 157
    DAWR0 = 180
    DAWRX0 = 188
    CIABR = 187
    VRSAVE = 256
    USPRG3 = 259
    TB = 268
    TBU = 269
    SPRG0 = 272
    SPRG1 = 273
    SPRG2 = 274
    SPRG3 = 275
    TBL_WRITE = 284
    TBU_WRITE = 285
    PVR = 287
    HSRR0 = 314
    HSRR1 = 315
    PURR = 309
    SPURR = 308
    HDEC = 310
    LPCR = 318
    AMOR = 349
    TAR = 815
    VTB = 849
    PPR = 896
    PPR32 = 898
    DABR = 1013
    DABRX = 1015
    PIR = 1023


class Excp(enum.IntEnum):
    """Causes as Unicorn numbers them (``POWERPC_EXCP_*``)."""

    MCHECK = 1
    DSI = 2
    ISI = 3
    EXTERNAL = 4
    ALIGN = 5
    PROGRAM = 6
    FPU = 7
    SYSCALL = 8
    DECR = 10
    RESET = 64
    DSEG = 65
    ISEG = 66
    TRACE = 68
    VPU = 73
    VSXU = 94
    FU = 95
    HV_EMU = 96


# Inputs of ppc_set_irq: bit numbers in CPUPPCState.pending_interrupts
IRQ_RESET = 0
IRQ_MCK = 2
IRQ_EXT = 3
IRQ_DECR = 8
IRQ_DOORBELL = 14

TIMEBASE_FREQUENCY = 512_000_000

PVR_BY_MODEL = {"power8": 0x004D0200, "power9": 0x004E1202}
