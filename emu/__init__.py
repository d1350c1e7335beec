"""ppc64emu: a full-system ppc64/ppc64le emulator."""

from __future__ import annotations

from emu.native_cache import use_native_cache

__version__ = "0.1.0"

use_native_cache()
