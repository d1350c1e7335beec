"""Where compiled hot paths are kept between runs.

Numba looks only at the file of the function it caches, not at the files of the functions
inlined into it, and layout constants are baked into the code.  So each state of the sources
(and each Unicorn library) gets a cache directory of its own below the user's cache directory;
directories of states long gone are removed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

_NATIVE_FOLDERS = ("emu/cpu", "emu/memory", "machines", "devices")
_KEPT = 6


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/ppc64emu``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ppc64emu"


def _stamp() -> str:
    digest = hashlib.sha256()
    top = Path(__file__).resolve().parent.parent
    for folder in _NATIVE_FOLDERS:
        for path in sorted((top / folder).rglob("*.py")):
            digest.update(f"{path}\n".encode())
            digest.update(path.read_bytes())
    for name in ("unicorn", "numba"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            status = os.stat(spec.origin)
            digest.update(f"{spec.origin}:{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:20]


def _prune(root: Path, keep: Path) -> None:
    others = sorted(
        (path for path in root.iterdir() if path != keep), key=lambda path: -path.stat().st_mtime
    )
    for path in others[_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def is_cold() -> bool:
    """Whether the next import of the hot paths has to compile them."""
    directory = Path(os.environ.get("NUMBA_CACHE_DIR", "."))
    return next(directory.rglob("*.nbi"), None) is None


def use_native_cache() -> None:
    """Point Numba to this source state's directory; before Numba is imported.

    A user's own ``NUMBA_CACHE_DIR`` is respected.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    root = cache_root() / "native"
    directory = root / _stamp()
    try:
        if not directory.exists():
            directory.mkdir(parents=True)
            _prune(root, directory)
    except OSError:
        return
    os.environ["NUMBA_CACHE_DIR"] = str(directory)
