"""XICS records: what an interrupt presentation (ICP) and a source (ICS) hold.

The priorities are those of the PowerPC External Interrupt architecture: 0 is the most favoured,
0xff masks.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.cpu.record import partition_at
from emu.memory.native import record_pointer

IRQ_BASE = 0x1000
SOURCE_COUNT = 1024
IPI = 2
MASKED = 0xFF

# SOURCE_DTYPE.flags: the kind of a source; neither for one that does not exist
LSI = 1
MSI = 2
# SOURCE_DTYPE.status
ASSERTED = 1  # level of an LSI's line
SENT = 2  # an LSI is presented or in service
PENDING = 4  # an MSI waits

ICP_DTYPE = np.dtype(
    [
        ("xisr", "u4"),  # the interrupt presented, 0 for none
        ("cppr", "u1"),
        ("pending_priority", "u1"),  # of XISR; 0xff when there is none
        ("mfrr", "u1"),
    ],
    align=True,
)

SOURCE_DTYPE = np.dtype(
    [
        ("server", "u4"),
        ("priority", "u1"),
        ("saved_priority", "u1"),  # what ibm,int-on goes back to
        ("status", "u1"),
        ("flags", "u1"),
    ],
    align=True,
)

XICS_DTYPE = np.dtype(
    [
        ("partition", "u8"),  # PARTITION_DTYPE record; its vCPUs are the servers
        ("icps", "u8"),  # MAX_VCPUS ICP_DTYPE records
        ("sources", "u8"),  # SOURCE_COUNT SOURCE_DTYPE records, from IRQ_BASE on
        ("waiting", "u8", (SOURCE_COUNT // 64,)),  # bit per source that has something to send
    ],
    align=True,
)

xics_at = record_pointer(XICS_DTYPE)
icp_at = record_pointer(ICP_DTYPE)
source_at = record_pointer(SOURCE_DTYPE)

NO_IRQ = np.uint32(0)  # in XISR
_ICP_SIZE = np.uint64(ICP_DTYPE.itemsize)
_SOURCE_SIZE = np.uint64(SOURCE_DTYPE.itemsize)
_BASE = np.uint64(IRQ_BASE)
_COUNT = np.uint64(SOURCE_COUNT)


@njit(cache=True)
def icp_of(xics, server):  # type: ignore[no-untyped-def]
    """The ICP record of a server that exists."""
    return icp_at(xics.icps + np.uint64(server) * _ICP_SIZE)


@njit(cache=True)
def source_of(xics, irq):  # type: ignore[no-untyped-def]
    """The record of a source that exists."""
    return source_at(xics.sources + (np.uint64(irq) - _BASE) * _SOURCE_SIZE)


@njit(cache=True)
def is_source(irq):  # type: ignore[no-untyped-def]
    """Whether a number can be a source's."""
    # below IRQ_BASE the difference wraps around
    return np.uint64(irq) - _BASE < _COUNT


@njit(cache=True)
def is_server(xics, server):  # type: ignore[no-untyped-def]
    """Whether a number is a vCPU's."""
    return np.uint64(server) < np.uint64(partition_at(xics.partition).vcpu_count)
