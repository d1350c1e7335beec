"""Where compiled hot paths are kept between runs, and when they are compiled anew.

Numba looks only at the file of the function it caches, not at the files of the functions
inlined into it, and layout constants are baked into the code.  So a compiled function belongs
to the state of its file *and of every file of ours that this imports, directly or not*
(:func:`native_stamp`), and to the Unicorn and Numba installed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

_TOP = Path(__file__).resolve().parent.parent
_PACKAGES = ("emu", "machines", "devices", "firmware", "tests")
_IMPORT = re.compile(
    r"^\s*(?:from\s+([\w.]+)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+([\w.]+))", re.MULTILINE
)
# What needs the most: its stamp covers every file of compiled code the emulator starts with.
_HOTTEST = str(_TOP / "machines/pseries/dispatch.py")


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/ppc64emu``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ppc64emu"


@functools.cache
def _module_file(name: str) -> str | None:
    if name.partition(".")[0] not in _PACKAGES:
        return None
    base = os.path.join(_TOP, *name.split("."))
    for path in (f"{base}.py", os.path.join(base, "__init__.py")):
        if os.path.exists(path):
            return path
    return None


def _imports(text: str) -> Iterator[str]:
    for parent, names, plain in _IMPORT.findall(text):
        if plain:
            yield plain
            continue
        yield parent
        for name in re.findall(r"\w+", names):
            yield f"{parent}.{name}"  # a module, if it is one


@functools.cache
def _read(path: str) -> tuple[bytes, frozenset[str]]:
    """Digest of a file, and the files of ours that it imports."""
    with open(path, "rb") as file:
        content = file.read()
    found = (_module_file(name) for name in _imports(content.decode()))
    return hashlib.sha256(content).digest(), frozenset(file for file in found if file)


def closure(path: str) -> list[str]:
    """A source file and every file of ours that it imports, directly or not, sorted."""
    found, waiting = {path}, [path]
    while waiting:
        new = _read(waiting.pop())[1] - found
        found |= new
        waiting.extend(new)
    return sorted(found)


@functools.cache
def _libraries() -> bytes:
    digest = hashlib.sha256()
    for name in ("unicorn", "numba"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            digest.update(f"{spec.origin}:{os.stat(spec.origin).st_mtime_ns}\n".encode())
    return digest.digest()


def is_ours(path: str) -> bool:
    """Whether a source file is the emulator's."""
    return path.startswith(f"{_TOP}{os.sep}")


@functools.cache
def native_stamp(path: str) -> str:
    """The state that code compiled from a file depends on.  Raises ``OSError``."""
    digest = hashlib.sha256(_libraries())
    for file in closure(path):
        digest.update(_read(file)[0])
    return digest.hexdigest()


def _mark() -> Path:
    return cache_root() / "native" / "compiled"


def is_cold() -> bool:
    """Whether the next import of the hot paths has to compile them."""
    try:
        return _mark().read_text() != native_stamp(_HOTTEST)
    except OSError:
        return True


def mark_warm() -> None:
    """Note that the hot paths of this state have been compiled."""
    try:
        _mark().write_text(native_stamp(_HOTTEST))
    except OSError:
        return


def use_native_cache() -> None:
    """Point Numba to the cache directory and to our notion of fresh; before Numba is imported.

    A user's own ``NUMBA_CACHE_DIR`` is respected.
    """
    directory = cache_root() / "native"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    os.environ.setdefault("NUMBA_CACHE_DIR", str(directory))
    os.environ.setdefault(
        "NUMBA_CACHE_LOCATOR_CLASSES",
        "emu.native_locator.ClosureLocator,UserProvidedCacheLocator",
    )
