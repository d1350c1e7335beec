"""Where downloads and built kernels are kept between runs, outside the checkout."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from firmware.guests import host

_HASH_DIGITS = 16


def cache_root() -> Path:
    """Return `ppc64emu/guests` below $XDG_CACHE_HOME, or below ~/.cache without it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative path there is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "ppc64emu" / "guests"


def digest(parts: Iterable[bytes | str]) -> str:
    """Return a short hash of the parts, each counted with its length so none run together."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode() + data)
    return state.hexdigest()[:_HASH_DIGITS]


def entry_name(kind: str, version: str, config_hash: str) -> str:
    """Return the cache directory name of a built thing, e.g. `kernel-be-6.1.176-1-<hash>`."""
    safe = "".join(c if c.isalnum() or c in ".+-" else "_" for c in version)
    return f"{kind}-{safe}-{config_hash}"


def newest_entry(root: Path, kind: str, config_hash: str, file: str) -> Path | None:
    """Find the latest made file of any version with this hash; None if there is none."""
    found = [p for p in root.glob(f"{kind}-*-{config_hash}/{file}") if p.is_file()]
    return max(found, key=lambda p: p.stat().st_mtime_ns, default=None)


def file_identity(path: Path) -> str:
    """Return what changes when a file does: its size in bytes and its time stamp."""
    status = path.stat()
    return f"{path.name}:{status.st_size}:{status.st_mtime_ns}"


class Stamp:
    """Remembers in a guest's directory what inputs its files were made from."""

    def __init__(self, directory: Path, inputs: str, outputs: Iterable[str]) -> None:
        """Watch `outputs`, names in `directory`, made from inputs with the given hash."""
        self.path = directory / ".stamp.json"
        self.inputs = inputs
        self.outputs = [directory / name for name in outputs]

    def _content(self) -> Mapping[str, object]:
        return {"inputs": self.inputs, "files": [file_identity(p) for p in self.outputs]}

    def is_current(self) -> bool:
        """Tell whether all outputs are there, unchanged, and from the same inputs."""
        try:
            return bool(json.loads(self.path.read_text()) == self._content())
        except (OSError, ValueError):
            return False

    def write(self) -> None:
        """Record the outputs as they are now."""
        host.write_atomic(self.path, json.dumps(self._content()).encode())
