"""How much can be written into the host's page cache before it makes writers wait."""

from __future__ import annotations

import mmap
from pathlib import Path

_VMSTAT = Path("/proc/vmstat")
_FIELDS = ("nr_dirty", "nr_writeback", "nr_dirty_threshold", "nr_dirty_background_threshold")


def write_headroom() -> int:
    """Bytes that fit before Linux begins to slow writers down; 0 where it does not say.

    That begins when dirty pages and those being written reach the middle between the background
    threshold and the dirty threshold (Linux, mm/page-writeback, "freerun").  Any thread.
    """
    try:
        text = _VMSTAT.read_text()
    except OSError:
        return 0
    values = dict(line.split()[:2] for line in text.splitlines() if line.startswith("nr_"))
    try:
        dirty, writeback, threshold, background = (int(values[name]) for name in _FIELDS)
    except (KeyError, ValueError):
        return 0
    return max(0, (threshold + background) // 2 - dirty - writeback) * mmap.PAGESIZE
