"""Flattened device trees: typed property setters over the `fdt` package's nodes.

Every multi-byte value in a device tree is big-endian (Devicetree Specification 0.4, 2.2.4 and 5).
`fdt` is pure Python and writes only; its own property classes take ASCII strings and 32-bit words,
so values are encoded here and handed over as bytes.
"""

from __future__ import annotations

import struct

import fdt

# Devicetree Specification 0.4, 5.2: the version to write; last compatible version is one less.
FDT_VERSION = 17


class DtNode:
    """One node. Setting a property or adding a child that exists already raises `ValueError`."""

    def __init__(self, node: fdt.Node, path: str = "/") -> None:
        self._node = node
        self.path = path

    def child(self, name: str) -> DtNode:
        """Add a child node, `name` with its unit address, and return it."""
        if self._node.get_subnode(name) is not None:
            raise ValueError(f"device tree: {self.path} has a child {name} already")
        node = fdt.Node(name)
        self._node.append(node)
        return DtNode(node, f"{self.path.rstrip('/')}/{name}")

    def get(self, name: str) -> DtNode:
        """The existing child of that name; raises `KeyError` when there is none."""
        node = self._node.get_subnode(name)
        if node is None:
            raise KeyError(f"device tree: {self.path} has no child {name}")
        return DtNode(node, f"{self.path.rstrip('/')}/{name}")

    def raw(self, name: str, value: bytes) -> None:
        """Set a property to bytes."""
        if self._node.exist_property(name):
            raise ValueError(f"device tree: {self.path} has a property {name} already")
        self._node.append(fdt.PropBytes(name, data=value))

    def flag(self, name: str) -> None:
        """Set a property without a value: its presence is the information."""
        self.raw(name, b"")

    def u32(self, name: str, *cells: int) -> None:
        """Set a property to one or more 32-bit cells."""
        self.raw(name, struct.pack(f">{len(cells)}I", *cells))

    def u64(self, name: str, *values: int) -> None:
        """Set a property to one or more 64-bit values, two cells each."""
        self.raw(name, struct.pack(f">{len(values)}Q", *values))

    def string(self, name: str, *values: str) -> None:
        """Set a property to one or more NUL-terminated strings."""
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        if any(b"\0" in value for value in encoded):
            raise ValueError(f"device tree: {self.path}: a string of {name} contains a NUL")
        self.raw(name, b"".join(value + b"\0" for value in encoded))


class DeviceTree:
    """A tree under construction: `root`, and the memory reservation block."""

    def __init__(self) -> None:
        self._fdt = fdt.FDT(entries=[])
        self.root = DtNode(self._fdt.root)

    def reserve(self, address: int, size: int) -> None:
        """Add a memory reservation (Devicetree Specification 0.4, 5.3): guest-physical, bytes."""
        self._fdt.entries.append({"address": address, "size": size})

    def to_bytes(self, boot_cpuid_phys: int = 0) -> bytes:
        """The blob; `boot_cpuid_phys` is the `reg` of the CPU that boots."""
        blob = self._fdt.to_dtb(
            version=FDT_VERSION,
            last_comp_version=FDT_VERSION - 1,
            boot_cpuid_phys=boot_cpuid_phys,
        )
        return bytes(blob)
