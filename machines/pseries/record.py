"""Native state of the pseries machine that hypercalls reach without leaving compiled code."""

from __future__ import annotations

import numpy as np

from emu.memory.native import record_pointer

PSERIES_DTYPE = np.dtype(
    [
        ("xics", "u8"),  # address of the XICS_DTYPE record
        ("ttys", "u8"),  # address of an array of TTY_DTYPE records
        ("tty_count", "u4"),
        ("trace_hcalls", "u4"),  # 1: every hypercall goes through Python, to be logged
        ("htab_org", "u8"),  # host address of the HPT's memory
        ("htab_shift", "u4"),
        ("resizable", "u4"),
    ],
    align=True,
)

pseries_at = record_pointer(PSERIES_DTYPE)
