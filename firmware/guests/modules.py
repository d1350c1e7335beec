"""Kernel modules: what each needs, an order to load them in, and the index modprobe reads."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from firmware.guests.errors import GuestError


@dataclass(frozen=True)
class Module:
    """One module: its path below the kernel's module directory, contents, needs, aliases."""

    name: str
    path: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...] = ()


def canonical(name: str) -> str:
    """Return the kernel's spelling of a module name: `virtio-rng` is `virtio_rng`."""
    return name.replace("-", "_")


def module_name(path: str) -> str:
    """Return the canonical module name for a path such as `kernel/fs/ext4/ext4.ko.xz`."""
    return canonical(path.rpartition("/")[2].split(".ko")[0])


def index_tree(root: Path) -> dict[str, str]:
    """Map each module name to its path below `root`, a kernel's module directory."""
    found = sorted(p for p in root.rglob("*.ko*") if p.name.endswith((".ko", ".ko.xz")))
    return {module_name(p.name): p.relative_to(root).as_posix() for p in found}


def parse_modinfo(section: bytes) -> dict[str, list[str]]:
    """Split a `.modinfo` section, NUL separated `key=value` strings, into lists by key."""
    info: dict[str, list[str]] = {}
    for item in section.decode("utf-8", "replace").split("\0"):
        key, equals, value = item.partition("=")
        if equals:
            info.setdefault(key, []).append(value)
    return info


def needs_of(info: Mapping[str, list[str]], available: Iterable[str]) -> tuple[str, ...]:
    """Return the names a module needs: hard ones, and soft `pre:` ones that are available."""
    hard = [n for value in info.get("depends", []) for n in value.split(",") if n]
    known = set(available)
    soft: list[str] = []
    for value in info.get("softdep", []):
        before = False
        for word in value.split():
            if word.endswith(":"):
                before = word == "pre:"
            elif before and canonical(word) in known:
                soft.append(word)
    return tuple(dict.fromkeys(canonical(n) for n in (*hard, *soft)))


def read_module(root: Path, path: str, available: Iterable[str]) -> Module:
    """Read and, if needed, decompress a module; GuestError if it is not an ELF module."""
    data = (root / path).read_bytes()
    if path.endswith(".xz"):
        data = lzma.decompress(data)
        path = path.removesuffix(".xz")
    section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
    if section is None:
        raise GuestError(f"{path} is not a kernel module: it has no .modinfo section")
    info = parse_modinfo(section.data())
    aliases = tuple(info.get("alias", []))
    return Module(module_name(path), path, data, needs_of(info, available), aliases)


def load_order(wanted: Iterable[str], depends: Mapping[str, Iterable[str]]) -> list[str]:
    """Order the wanted modules and all they need so that needs come first.

    GuestError names a module that is missing from `depends`, or one in a dependency loop.
    """
    order: list[str] = []
    active: set[str] = set()

    def visit(name: str) -> None:
        if name in order:
            return
        if name in active:
            raise GuestError(f"kernel module {name} depends on itself")
        if name not in depends:
            raise GuestError(f"kernel module {name} is not in the kernel package")
        active.add(name)
        for need in depends[name]:
            visit(canonical(need))
        active.discard(name)
        order.append(name)

    for name in wanted:
        visit(canonical(name))
    return order


def collect(root: Path, wanted: Iterable[str]) -> list[Module]:
    """Read the wanted modules and their needs from a module directory, in load order.

    Names that are built into the kernel are left out; GuestError if one is missing.
    """
    paths = index_tree(root)
    builtin = builtin_names(root)
    modules: dict[str, Module] = {}
    queue = [canonical(n) for n in wanted if canonical(n) not in builtin]
    while queue:
        name = queue.pop()
        if name in modules or name not in paths:
            continue
        modules[name] = read_module(root, paths[name], paths)
        queue += modules[name].depends
    depends = {m.name: m.depends for m in modules.values()}
    names = [n for n in wanted if canonical(n) not in builtin]
    return [modules[n] for n in load_order(names, depends)]


def builtin_names(root: Path) -> set[str]:
    """Return the names listed in the directory's `modules.builtin`; none if it is absent."""
    listing = root / "modules.builtin"
    if not listing.is_file():
        return set()
    return {module_name(line) for line in listing.read_text().split()}


def dependency_index(modules: Iterable[Module]) -> str:
    """Return the text of `modules.dep`: each path, a colon, and all it needs, nearest first."""
    by_name = {m.name: m for m in modules}
    depends = {m.name: m.depends for m in by_name.values()}
    lines = []
    for module in by_name.values():
        needs = reversed(load_order([module.name], depends)[:-1])
        lines.append(" ".join([f"{module.path}:", *(by_name[n].path for n in needs)]))
    return "".join(f"{line}\n" for line in lines)


def alias_index(modules: Iterable[Module]) -> str:
    """Return the text of `modules.alias`, by which the kernel asks for e.g. `crypto-crc32c`."""
    return "".join(f"alias {alias} {m.name}\n" for m in modules for alias in m.aliases)
