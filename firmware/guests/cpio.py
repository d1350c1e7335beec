"""Writes "newc" cpio archives, the format of a Linux initramfs, without needing root."""

from __future__ import annotations

import gzip
import stat
from dataclasses import dataclass, field

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One archive member: `mode` holds the file type and permission bits, `rdev` major, minor."""

    name: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


@dataclass
class Archive:
    """A growing list of members; parent directories are added when first needed."""

    entries: list[Entry] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def _add(self, entry: Entry) -> None:
        if entry.name in self._names:
            raise ValueError(f"{entry.name} is already in the archive")
        parent = entry.name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        self._names.add(entry.name)
        self.entries.append(entry)

    def directory(self, name: str, permissions: int = 0o755) -> None:
        """Add a directory, unless it is there already."""
        name = name.strip("/")
        if name not in self._names:
            self._add(Entry(name, stat.S_IFDIR | permissions))

    def file(self, name: str, data: bytes, permissions: int = 0o644) -> None:
        """Add a regular file; ValueError if the name is taken."""
        self._add(Entry(name.strip("/"), stat.S_IFREG | permissions, data))

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link; ValueError if the name is taken."""
        self._add(Entry(name.strip("/"), stat.S_IFLNK | 0o777, target.encode()))

    def char_device(self, name: str, major: int, minor: int, permissions: int = 0o600) -> None:
        """Add a character device node; ValueError if the name is taken."""
        self._add(Entry(name.strip("/"), stat.S_IFCHR | permissions, rdev=(major, minor)))

    def to_bytes(self) -> bytes:
        """Return the archive with its trailer; the same members always give the same bytes."""
        out = bytearray()
        for number, entry in enumerate(self.entries, start=1):
            out += _member(entry, number)
        out += _member(Entry(_TRAILER, 0), 0)
        out += bytes(-len(out) % 512)
        return bytes(out)

    def to_gzip(self) -> bytes:
        """Return the archive compressed, with no time stamp in the gzip header."""
        return gzip.compress(self.to_bytes(), compresslevel=9, mtime=0)


def _member(entry: Entry, inode: int) -> bytes:
    """Encode a member: header and name padded to 4 bytes, data padded to 4 bytes."""
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = [
        inode, entry.mode, 0, 0, links, 0, len(entry.data),
        0, 0, entry.rdev[0], entry.rdev[1], len(name), 0,
    ]  # fmt: skip
    head = (_MAGIC + "".join(f"{value:08x}" for value in fields)).encode() + name
    head += bytes(-len(head) % 4)
    return head + entry.data + bytes(-len(entry.data) % 4)
