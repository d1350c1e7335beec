"""Where Unicorn 2.1.4 keeps its ppc64 state: byte offsets inside its C structures.

Unicorn's public interface reaches only part of the CPU state, so hot paths read and write the
structures in place.  The offsets follow from Unicorn's headers and the host ABI;
:func:`emu.cpu.probe.check_layout` verifies them on a live instance at every start and refuses
an unknown build.  Hosts differ only in the size of ``sigjmp_buf``, which moves the later fields
of ``CPUState``.
"""

from __future__ import annotations

import platform

_SIGJMP_BUF = {"x86_64": 200, "aarch64": 312}
_ENV_ALIGN = 16
MACHINE = platform.machine()
_SHIFT = _SIGJMP_BUF.get(MACHINE, 200) - 200

# struct uc_struct
UC_MEMORY_MAPPING = 288
UC_CPU = 440
UC_L1_MAP = 736  # pages that hold translated code
UC_V_L1_SIZE = 752
UC_TCG_CTX = 768
UC_HOOK_INSERT = 2032
UC_NO_EXIT_REQUEST = 2034

# CPUState; fields after jmp_env move with sigjmp_buf
CS_EXIT_REQUEST = 21
CS_INTERRUPT_REQUEST = 28
CS_SINGLESTEP = 32
CS_ENV_PTR = 296 + _SHIFT
CS_ICOUNT_DECR_PTR = 304 + _SHIFT
CS_TB_JMP_CACHE = 312 + _SHIFT
TB_JMP_CACHE_SIZE = 4096 * 8
CS_BREAKPOINTS = 33096 + _SHIFT  # head of a QTAILQ of CPUBreakpoint
CS_CLUSTER_INDEX = 33172 + _SHIFT
CS_HALTED = 33176 + _SHIFT
CS_EXCEPTION_INDEX = 33184 + _SHIFT
CS_UC = 33192 + _SHIFT
CS_CLASS = 33200 + _SHIFT

# PowerPCCPU
CS_TLB = 33216 + _SHIFT
CS_ICOUNT_DECR = 40368 + _SHIFT
CS_ENV = 40384 + _SHIFT
CPU_OPCODES = 120464 + _SHIFT  # opcode table, one pointer per primary opcode
CPU_CLASS = 121024 + _SHIFT  # the CPU's own copy of its class

# CPUTLB: descriptors first, then the fast part that generated code looks at
TLB_DESC = 32
TLB_DESC_SIZE = 696
TLB_FAST = 6992
TLB_FAST_SIZE = 16
MMU_MODES = 10
VICTIM_TLB_SIZE = 8
DESC_LARGE_PAGE_ADDR = 0
DESC_LARGE_PAGE_MASK = 8
DESC_USED_ENTRIES = 32
DESC_VICTIM_INDEX = 40
DESC_VICTIM_TABLE = 48
DESC_VICTIM_IOTLB = 560
DESC_IOTLB = 688
FAST_MASK = 0
FAST_TABLE = 8
# CPUTLBEntry (64 bytes) and CPUIOTLBEntry (16 bytes)
TLB_ENTRY_SIZE = 64
TLBE_ADDR_READ = 0
TLBE_ADDR_WRITE = 8
TLBE_ADDR_CODE = 16
TLBE_PADDR = 24
TLBE_ADDEND = 32
IOTLB_ENTRY_SIZE = 16

# TCGContext, TCGOp and TranslationBlock
TCG_EPILOGUE = 152
TCG_OPS_LAST = 29584  # tail of the queue of operations: address of the last one's link
TCG_CPU_ENV = 35056
TCG_UC = 35184
TCG_OP_LINK = 8
TCG_OP_ARGS = 24
TB_PC = 0
TB_FLAGS = 16
TB_SIZE = 20
TB_CFLAGS = 24
TB_CODE = 32

# PowerPCCPUClass
CLASS_HAS_WORK = 8
CLASS_DO_UNALIGNED_ACCESS = 24
CLASS_CPU_EXEC_ENTER = 128
CLASS_CPU_EXEC_INTERRUPT = 144
CLASS_HANDLE_MMU_FAULT = 328

# CPUPPCState
ENV_GPR = 0
ENV_LR = 512
ENV_CTR = 520
ENV_CRF = 528
ENV_CFAR = 560
ENV_XER = 568
ENV_SO = 576
ENV_OV = 584
ENV_CA = 592
ENV_OV32 = 600
ENV_CA32 = 608
ENV_RESERVE_ADDR = 616
ENV_RESERVE_VAL = 624
ENV_RESERVE_VAL2 = 632
ENV_MSR = 640
ENV_NIP = 680
ENV_SLB = 704
ENV_SLB_ENTRY_SIZE = 24
ENV_SLB_ENTRIES = 64
ENV_TLB_NEED_FLUSH = 2836
ENV_SPR = 2840
ENV_SPR_CB = 11032
ENV_SPR_CB_SIZE = 64
ENV_VSCR = 76568
ENV_VSR = 76576
ENV_VSCR_SAT = 77600
ENV_FPSCR = 77648
ENV_TB_ENV = 77656
ENV_MSR_MASK = 77680
ENV_MMU_MODEL = 77688
ENV_EXCP_MODEL = 77692
ENV_ERROR_CODE = 77728
ENV_PENDING_INTERRUPTS = 77732
ENV_HFLAGS = 78616
ENV_LOAD_INFO = 78648  # unused by Unicorn: holds the address of our vCPU record
ENV_UC = 80032

# ppc_spr_t
SPR_CB_UEA_READ = 0
SPR_CB_UEA_WRITE = 8
SPR_CB_OEA_READ = 16
SPR_CB_OEA_WRITE = 24
SPR_CB_HEA_READ = 32
SPR_CB_HEA_WRITE = 40
SPR_CB_NAME = 48
SPR_CB_DEFAULT = 56
