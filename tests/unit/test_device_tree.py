"""The pseries device tree: contents, agreement with QEMU's, and what a wrong spec gives."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import fdt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.boot_image import AddressRange
from firmware.cpu_features import CpuModel, MmuMode
from firmware.flat_tree import DeviceTree, DtNode
from firmware.nvram_image import blank_nvram, header_checksum
from machines.pseries.device_tree import (
    XICS_PHANDLE,
    DeviceTreeSpec,
    NvramSlot,
    RtasSpec,
    VioSlot,
    build_device_tree,
    memory_ranges,
)

GIB = 1 << 30
HERE = Path(__file__).parent
QEMU_TREE = HERE / "qemu_device_tree.txt"
DIFFERENCES = HERE.parents[1] / "docs" / "device-tree.md"

SPEC = DeviceTreeSpec(
    ram_size=GIB,
    rtas=RtasSpec(
        AddressRange(0x3FFF0000, 0x10000),
        (("get-time-of-day", 0x2001), ("ibm,change-msi", 0x2019), ("ibm,os-term", 0x201F)),
    ),
    htab_shift=23,
    bootargs="console=hvc0",
    kernel=AddressRange(0x400000, 0x900000),
    kernel_little_endian=True,
    initrd=AddressRange(0xDC0000, 0x1234),
    nvram=NvramSlot(0x71000001, 0x1101),
    hypertas_functions=("hcall-pft", "hcall-term"),
    qemu_hypertas_functions=("hcall-memop1",),
    name="guest",
    uuid=uuid.UUID("01234567-89ab-cdef-0123-456789abcdef"),
    rng_seed=bytes(32),
)

Properties = dict[tuple[str, str], bytes]


def properties(blob: bytes) -> Properties:
    """Every property of a blob, read with the independent parser of the fdt package."""
    found: Properties = {}
    for path, _, props in fdt.parse_dtb(blob).walk():
        for prop in props:
            raw, _, _ = prop.to_dtb("", 0, 17)
            (length,) = struct.unpack_from(">I", raw, 4)
            found[path, prop.name] = raw[12 : 12 + length]
    return found


def build(**changes: object) -> Properties:
    return properties(build_device_tree(replace(SPEC, **changes)))  # type: ignore[arg-type]


def cells(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def test_chosen() -> None:
    tree = build()
    assert tree["/chosen", "bootargs"] == b"console=hvc0\0"
    assert tree["/chosen", "linux,initrd-start"] == cells(0xDC0000)
    assert tree["/chosen", "linux,initrd-end"] == cells(0xDC1234)
    assert tree["/chosen", "qemu,boot-kernel"] == cells(0, 0x400000, 0, 0x900000)
    assert tree["/chosen", "qemu,boot-kernel-le"] == b""
    assert tree["/chosen", "linux,stdout-path"] == b"/vdevice/vty@71000000\0"


def test_what_is_not_given_is_not_there() -> None:
    tree = build(
        bootargs="",
        kernel=None,
        initrd=None,
        nvram=None,
        vtys=(),
        name=None,
        uuid=None,
        rng_seed=None,
    )
    names = {name for path, name in tree if path in ("/", "/chosen")}
    assert not names & {"bootargs", "qemu,boot-kernel", "qemu,boot-kernel-le", "rng-seed"}
    assert not names & {"linux,initrd-start", "linux,initrd-end", "stdout-path", "system-id"}
    assert tree["/", "vm,uuid"] == b"00000000-0000-0000-0000-000000000000\0"
    assert not any("nvram" in path or "vty" in path for path, _ in tree)


def test_a_big_endian_kernel_has_no_le_flag() -> None:
    assert ("/chosen", "qemu,boot-kernel-le") not in build(kernel_little_endian=False)


@pytest.mark.parametrize(
    ("model", "mmu", "byte_24", "byte_26"),
    [
        (CpuModel.POWER8, MmuMode.HASH, 0x00, 0x00),
        (CpuModel.POWER9, MmuMode.HASH, 0x00, 0x00),
        (CpuModel.POWER9, MmuMode.RADIX, 0x40, 0x40),
    ],
)
def test_vector_5_decides_the_mmu(
    model: CpuModel, mmu: MmuMode, byte_24: int, byte_26: int
) -> None:
    tree = build(cpu_model=model, mmu=mmu)
    vector = tree["/chosen", "ibm,architecture-vec-5"]
    assert vector[0] == len(vector) - 2
    assert (vector[23], vector[24], vector[26]) == (0, byte_24, byte_26)
    pairs = tree["/chosen", "ibm,arch-vec-5-platform-support"]
    support = dict(zip(pairs[::2], pairs[1::2], strict=True))
    assert support == {23: 0, 24: byte_24, 25: 0, 26: byte_26}


def test_power8_has_no_radix() -> None:
    with pytest.raises(ValueError, match="power8 has no radix MMU"):
        build(cpu_model=CpuModel.POWER8, mmu=MmuMode.RADIX)


def test_a_machine_needs_a_cpu() -> None:
    with pytest.raises(ValueError, match="at least one CPU"):
        build(vcpu_ids=())


@pytest.mark.parametrize(
    ("model", "pvr", "level"),
    [(CpuModel.POWER8, 0x004D0200, 0x0F000004), (CpuModel.POWER9, 0x004E1202, 0x0F000005)],
)
def test_cpu_version(model: CpuModel, pvr: int, level: int) -> None:
    node = f"/cpus/PowerPC,{model.name}@0"
    assert build(cpu_model=model)[node, "cpu-version"] == cells(level)
    assert build(cpu_model=model, logical_pvr=False)[node, "cpu-version"] == cells(pvr)


def test_one_node_per_cpu() -> None:
    blob = build_device_tree(replace(SPEC, vcpu_ids=(3, 8, 17)))
    tree = properties(blob)
    paths = {path for path, _ in tree if path.startswith("/cpus/")}
    assert paths == {f"/cpus/PowerPC,POWER8@{number}" for number in ("3", "8", "11")}
    assert tree["/cpus/PowerPC,POWER8@11", "ibm,ppc-interrupt-server#s"] == cells(17)
    assert tree["/interrupt-controller", "ibm,interrupt-server-ranges"] == cells(0, 18)
    assert fdt.parse_dtb(blob).header.boot_cpuid_phys == 3


def test_large_decrementer() -> None:
    node = "/cpus/PowerPC,POWER9@0"
    tree = build(cpu_model=CpuModel.POWER9, decrementer_bits=56)
    assert tree[node, "ibm,dec-bits"] == cells(56)
    assert tree[node, "ibm,pa-features"][2 + 24] == 0x80
    tree = build(cpu_model=CpuModel.POWER8, decrementer_bits=56)
    assert ("/cpus/PowerPC,POWER8@0", "ibm,dec-bits") not in tree


@pytest.mark.parametrize("model", CpuModel)
def test_pa_features_leave_out_what_the_core_lacks(model: CpuModel) -> None:
    value = build(cpu_model=model)[f"/cpus/PowerPC,{model.name}@0", "ibm,pa-features"]
    assert value[0] == len(value) - 2
    features = value[2:]
    assert features[22] == 0, "transactional memory"
    assert features[0] & 0x04 == 0, "DABR"
    assert features[5] & 0x80, "little-endian"
    if model is CpuModel.POWER9:
        assert features[40] & 0x80, "radix"
        assert features[46] == 0, "scv"


def test_rtas() -> None:
    tree = build(rtas=replace(SPEC.rtas, entry=0x40, extras=lambda node: node.u32("extra", 7)))
    assert tree["/rtas", "linux,rtas-base"] == cells(0x3FFF0000)
    assert tree["/rtas", "linux,rtas-entry"] == cells(0x3FFF0040)
    assert tree["/rtas", "rtas-size"] == cells(0x10000)
    assert tree["/rtas", "get-time-of-day"] == cells(0x2001)
    assert tree["/rtas", "extra"] == cells(7)
    assert tree["/rtas", "ibm,hypertas-functions"] == b"hcall-pft\0hcall-term\0"


def test_rtas_is_reserved() -> None:
    blob = build_device_tree(SPEC)
    (off_mem_rsvmap,) = struct.unpack_from(">I", blob, 16)
    assert struct.unpack_from(">4Q", blob, off_mem_rsvmap) == (0x3FFF0000, 0x10000, 0, 0)


def test_rtas_flags_follow_the_calls() -> None:
    tree = build(rtas=replace(SPEC.rtas, tokens=()))
    assert ("/rtas", "ibm,change-msix-capable") not in tree
    assert ("/rtas", "ibm,extended-os-term") not in tree


def test_virtual_devices() -> None:
    tree = build(vtys=(VioSlot(0x71000000, 0x1100), VioSlot(0x30000001, 0x1105)))
    assert tree["/vdevice/vty@30000001", "reg"] == cells(0x30000001)
    assert tree["/vdevice/vty@30000001", "interrupts"] == cells(0x1105, 0)
    assert tree["/vdevice/nvram@71000001", "#bytes"] == cells(0x10000)


def test_two_devices_at_one_address() -> None:
    with pytest.raises(ValueError, match=r"/vdevice has a child vty@71000000 already"):
        build(vtys=(VioSlot(0x71000000, 0x1100), VioSlot(0x71000000, 0x1101)))


def test_extra_builders() -> None:
    def host_bridge(root: DtNode) -> None:
        node = root.child("pci@800000020000000")
        node.string("compatible", "IBM,Logical_PHB")
        node.u64("reg", 0x800000020000000, 0)

    def chosen(root: DtNode) -> None:
        root.get("chosen").flag("seen")

    tree = build(extra=(host_bridge, chosen))
    assert tree["/pci@800000020000000", "compatible"] == b"IBM,Logical_PHB\0"
    assert tree["/chosen", "seen"] == b""
    assert tree["/interrupt-controller", "phandle"] == cells(XICS_PHANDLE)


@pytest.mark.parametrize(
    ("ram_size", "rma_size", "expected"),
    [
        (GIB, GIB, [(0, GIB)]),
        (GIB, 2 * GIB, [(0, GIB)]),
        (20 * GIB, 16 * GIB, [(0, 16 * GIB), (16 * GIB, 4 * GIB)]),
        (3 * GIB, GIB, [(0, GIB), (GIB, GIB), (2 * GIB, GIB)]),
    ],
)
def test_memory_nodes(ram_size: int, rma_size: int, expected: list[tuple[int, int]]) -> None:
    assert [(part.start, part.size) for part in memory_ranges(ram_size, rma_size)] == expected


@given(st.integers(1, 1 << 24), st.integers(1, 1 << 24))
def test_memory_ranges_cover_ram_once(ram_mib: int, rma_mib: int) -> None:
    ranges = memory_ranges(ram_mib << 20, rma_mib << 20)
    assert ranges[0].start == 0
    assert all(a.end == b.start for a, b in pairwise(ranges))
    assert ranges[-1].end == ram_mib << 20
    assert all(
        part.start % part.size == 0 and part.size & (part.size - 1) == 0 for part in ranges[1:]
    )


def test_a_tree_that_is_too_large() -> None:
    with pytest.raises(ValueError, match="too large"):
        build(extra=(lambda root: root.raw("big", bytes(3 << 20)),))


# --- against QEMU's tree ---


def documented_differences() -> dict[tuple[str, str], str]:
    """(node, property) -> absent or differs, from the table in docs/device-tree.md."""
    row = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| (absent|differs) \| .+ \|$", re.MULTILINE)
    return {(node, name): what for node, name, what in row.findall(DIFFERENCES.read_text())}


def qemu_properties(model: CpuModel) -> dict[tuple[str, str], bytes | None]:
    """QEMU's properties for a processor; the value is None where the list does not give it."""
    found: dict[tuple[str, str], bytes | None] = {}
    for line in QEMU_TREE.read_text().splitlines():
        if line.startswith("#"):
            continue
        processor, node, name, value = [*line.split(" "), ""][:4]
        if processor in ("both", model.value):
            found[node, name] = None if value == "..." else bytes.fromhex(value)
    return found


def verdict(ours: Properties, key: tuple[str, str], value: bytes | None) -> str:
    node, name = key
    if name == "*":
        return "same" if any(path == node for path, _ in ours) else "absent"
    if key not in ours:
        return "absent"
    return "same" if value in (None, ours[key]) else "differs"


@pytest.mark.parametrize("model", CpuModel)
def test_every_difference_from_qemu_is_documented(model: CpuModel) -> None:
    mmu = MmuMode.RADIX if model is CpuModel.POWER9 else MmuMode.HASH
    ours = {
        (node.replace(model.name, "POWER*"), name): value
        for (node, name), value in build(cpu_model=model, mmu=mmu).items()
    }
    documented = documented_differences()
    for (node, name), value in qemu_properties(model).items():
        what = documented.get((node, name)) or documented.get((node, "*")) or "same"
        assert verdict(ours, (node, name), value) == what, (node, name)


def test_nothing_is_documented_that_qemu_has_not() -> None:
    qemu = {key for model in CpuModel for key in qemu_properties(model)}
    nodes = {node for node, _ in qemu}
    stale = {
        key
        for key in documented_differences()
        if key not in qemu and not (key[1] == "*" and key[0] in nodes)
    }
    assert not stale


@pytest.mark.skipif(shutil.which("dtc") is None, reason="needs dtc")
@pytest.mark.parametrize("model", CpuModel)
def test_dtc_reads_it(model: CpuModel, tmp_path: Path) -> None:
    blob = tmp_path / "tree.dtb"
    blob.write_bytes(build_device_tree(replace(SPEC, cpu_model=model)))
    result = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts", str(blob)], capture_output=True, text=True, check=True
    )
    assert f"PowerPC,{model.name}@0" in result.stdout
    assert "ERROR" not in result.stderr


# --- writing trees ---


@pytest.mark.parametrize(
    "action",
    [
        lambda node: node.flag("there"),
        lambda node: node.child("there"),
        lambda node: node.string("new", "a\0b"),
    ],
)
def test_node_mistakes(action: Callable[[DtNode], object]) -> None:
    node = DeviceTree().root
    node.flag("there")
    node.child("there")
    with pytest.raises(ValueError, match="device tree: /"):
        action(node)
    with pytest.raises(KeyError, match="no child missing"):
        node.get("missing")


def test_strings_need_not_be_ascii() -> None:
    assert build(bootargs="motd=grüß")["/chosen", "bootargs"] == "motd=grüß\0".encode()


# --- the NVRAM a fresh machine starts with ---


def test_blank_nvram_is_one_free_partition() -> None:
    image = blank_nvram(0x10000)
    assert len(image) == 0x10000
    assert image[0] == 0x7F
    assert image[1] == header_checksum(image[:16])
    assert struct.unpack_from(">H", image, 2) == (0x1000,)
    assert not any(image[16:])


@pytest.mark.parametrize("size", [0, 24, 1 << 20])
def test_impossible_nvram_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="NVRAM"):
        blank_nvram(size)
