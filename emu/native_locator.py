"""Numba's hook for :mod:`emu.native_cache`; Numba imports this itself.

Before it looks into its cache, Numba loads everything that a compiler needs and registers it:
a quarter of a second that a warm start has no use for.  A compilation does so again anyway, so
here only the runtime is made ready, which cached code links to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import Cache, UserProvidedCacheLocator
from numba.core.runtime import rtsys

from emu.native_cache import is_ours, native_stamp


class ClosureLocator(UserProvidedCacheLocator):  # type: ignore[misc]
    """Caches a function as long as nothing that its file imports has changed."""

    def get_source_stamp(self) -> str:
        """Replaces Numba's modification time and size."""
        return native_stamp(self._py_file)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
        """None, so that the next locator is tried, for functions not of a file."""
        if not Path(py_file).is_file():
            return None
        return super().from_function(py_func, py_file)


_plain_load_overload = Cache.load_overload


def _load_overload(cache: Any, signature: Any, target_context: Any) -> Any:
    """Replaces :meth:`Cache.load_overload` for our own functions, see above."""
    if not is_ours(getattr(cache._impl.locator, "_py_file", "")):
        return _plain_load_overload(cache, signature, target_context)
    rtsys.initialize(target_context)
    with cache._guard_against_spurious_io_errors():
        return cache._load_overload(signature, target_context)


Cache.load_overload = _load_overload
