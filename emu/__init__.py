"""ppc64emu: a full-system ppc64/ppc64le emulator."""

from __future__ import annotations

import os

from emu.native_cache import use_native_cache

__version__ = "0.1.0"

# Nothing here computes with matrices: NumPy's library need not start threads for it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
use_native_cache()
