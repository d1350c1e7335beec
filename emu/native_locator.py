"""Numba's hook for :mod:`emu.native_cache`; Numba imports this itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import UserProvidedCacheLocator

from emu.native_cache import native_stamp


class ClosureLocator(UserProvidedCacheLocator):  # type: ignore[misc]
    """Caches a function as long as nothing that its file imports has changed."""

    def get_source_stamp(self) -> str:
        """Replaces Numba's modification time and size."""
        return native_stamp(Path(self._py_file))

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
        """None, so that the next locator is tried, for functions not of a file."""
        if not Path(py_file).is_file():
            return None
        return super().from_function(py_func, py_file)
