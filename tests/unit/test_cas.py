"""ibm,client-architecture-support: what is agreed on, and what a bad request gets."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from emu.memory.dma import Dma
from emu.memory.ram import GuestRam
from firmware.boot_image import AddressRange
from firmware.cpu_features import CPU_FACTS, CpuModel
from firmware.flat_tree_edit import walk
from firmware.option_vectors import OV5_AFFINITY, OV5_MMU, OV5_RADIX_EXTENSIONS
from machines.pseries import hcalls, hcalls_firmware, papr
from machines.pseries.device_tree import DeviceTreeSpec, RtasSpec, build_device_tree
from machines.pseries.papr import HcallNumber

RAM_SIZE = 16 << 20
WISHES, BUFFER, BUFFER_SIZE = 0x1000, 0x100000, 0x200000
PVR8, PVR9 = CPU_FACTS[CpuModel.POWER8].pvr, CPU_FACTS[CpuModel.POWER9].pvr
EXACT, FAMILY = 0xFFFFFFFF, 0xFFFF0000
LEVEL_207, LEVEL_300, LEVEL_310 = 0x0F000004, 0x0F000005, 0x0F000006
LEVELS = [(EXACT, LEVEL_207), (EXACT, LEVEL_300), (EXACT, LEVEL_310)]
HASH, RADIX, BOTH = 0x00, 0x40, 0xC0
assert hcalls_firmware  # registers the handlers


def vector_5(mmu: int = HASH, affinity: int = 0x80, xive: int = 0) -> bytes:
    vector = bytearray(OV5_RADIX_EXTENSIONS + 1)
    vector[0] = len(vector) - 2
    vector[OV5_AFFINITY], vector[23], vector[OV5_MMU] = affinity, xive, mmu
    vector[OV5_RADIX_EXTENSIONS] = 0x40
    return bytes(vector)


def wishes(versions: list[tuple[int, int]], fifth: bytes | None) -> bytes:
    table = b"".join(struct.pack(">2I", *version) for version in versions)
    vectors = [b"\x00\x00"] * 4 + ([] if fifth is None else [fifth])
    return table + struct.pack(">2IB", 0, EXACT, len(vectors) - 1) + b"".join(vectors)


class Client:
    """A machine as far as these hypercalls see it."""

    def __init__(self, model: str) -> None:
        self.dma = Dma(GuestRam(RAM_SIZE), lambda address, size: None)
        self.fdt = build_device_tree(
            DeviceTreeSpec(
                ram_size=RAM_SIZE,
                rtas=RtasSpec(AddressRange(0xFF0000, 0x10000), (("power-off", 0x2003),)),
                htab_shift=18,
                cpu_model=CpuModel(model),
                logical_pvr=False,
                bootargs="console=hvc0",
                kernel=AddressRange(0x400000, 0x1000),
                initrd=AddressRange(0x500000, 0x1000),
                rng_seed=bytes(32),
            )
        )
        self.model = model

    def call(self, number: HcallNumber, *arguments: int) -> int:
        machine: Any = self
        vcpu: Any = SimpleNamespace(model=self.model)
        reply = hcalls.HANDLERS[number](machine, vcpu, [*arguments, *[0] * 9][:9])
        assert isinstance(reply, int)
        return reply

    def ask(self, request: bytes, size: int = BUFFER_SIZE) -> int:
        self.dma.write(WISHES, request)
        return self.call(HcallNumber.H_CAS, WISHES, BUFFER, size)

    def answer(self) -> dict[tuple[str, str], bytes]:
        assert self.dma.read(BUFFER, 4) == b"\0\0\0\1"
        tree = self.dma.read(BUFFER + 4, len(self.fdt))
        return {
            (item.node, item.name): tree[item.start : item.start + item.length]
            for item in walk(tree)
        }


def version_of(tree: dict[tuple[str, str], bytes]) -> int:
    (value,) = (value for (_, name), value in tree.items() if name == "cpu-version")
    return int.from_bytes(value, "big")


@pytest.mark.parametrize(
    ("model", "versions", "version"),
    [
        ("power8", LEVELS, LEVEL_207),
        ("power9", LEVELS, LEVEL_300),
        ("power8", [(FAMILY, PVR8 & FAMILY)], PVR8),
        ("power9", [(FAMILY, PVR9 & FAMILY), *LEVELS], LEVEL_300),
        ("power9", [(EXACT, LEVEL_207)], LEVEL_207),
    ],
)
def test_the_best_level_that_both_know(
    model: str, versions: list[tuple[int, int]], version: int
) -> None:
    client = Client(model)
    assert client.ask(wishes(versions, vector_5())) == papr.H_SUCCESS
    assert version_of(client.answer()) == version


def test_no_common_level_is_an_error_and_writes_nothing() -> None:
    client = Client("power8")
    assert (
        client.ask(wishes([(EXACT, LEVEL_300), (FAMILY, PVR9 & FAMILY)], vector_5()))
        == papr.H_HARDWARE
    )
    assert client.dma.read(BUFFER, 4) == bytes(4)


@pytest.mark.parametrize(("mmu", "gtse"), [(HASH, 0x00), (RADIX, 0x40)])
def test_the_guest_chooses_the_mmu(mmu: int, gtse: int) -> None:
    client = Client("power9")
    assert client.ask(wishes(LEVELS, vector_5(mmu))) == papr.H_SUCCESS
    granted = client.answer()["/chosen", "ibm,architecture-vec-5"]
    assert (granted[OV5_MMU], granted[OV5_RADIX_EXTENSIONS]) == (mmu, gtse)


def test_what_the_guest_does_not_ask_for_is_not_granted() -> None:
    client = Client("power8")
    for affinity in (0x80, 0x00):
        assert client.ask(wishes(LEVELS, vector_5(affinity=affinity))) == papr.H_SUCCESS
        granted = client.answer()["/chosen", "ibm,architecture-vec-5"]
        assert granted[OV5_AFFINITY] == affinity


def test_a_short_vector_asks_for_hash() -> None:
    client = Client("power9")
    assert client.ask(wishes(LEVELS, bytes([4, 0, 0, 0, 0, 0x80]))) == papr.H_SUCCESS
    granted = client.answer()["/chosen", "ibm,architecture-vec-5"]
    assert (granted[OV5_AFFINITY], granted[OV5_MMU]) == (0x80, HASH)


def test_the_answer_has_nothing_that_firmware_may_have_changed() -> None:
    client = Client("power8")
    assert client.ask(wishes(LEVELS, vector_5())) == papr.H_SUCCESS
    tree = client.answer()
    chosen = {name for node, name in tree if node == "/chosen"}
    assert chosen == {
        "linux,pci-probe-only",
        "ibm,arch-vec-5-platform-support",
        "ibm,architecture-vec-5",
    }
    boot = {(item.node, item.name) for item in walk(client.fdt)}
    assert {place for place in boot if place[0] != "/chosen"} <= set(tree)


@pytest.mark.parametrize(
    ("model", "fifth"),
    [
        ("power9", None),
        ("power9", vector_5(BOTH)),
        ("power8", vector_5(RADIX)),
        ("power9", vector_5(xive=0x40)),
    ],
)
def test_bad_vectors_are_refused(model: str, fifth: bytes | None) -> None:
    assert Client(model).ask(wishes(LEVELS, fifth)) == papr.H_PARAMETER


def test_a_buffer_that_is_too_small_is_left_alone() -> None:
    client = Client("power8")
    request = wishes(LEVELS, vector_5())
    assert client.ask(request, len(client.fdt) + 3) == papr.H_PARAMETER
    assert client.dma.read(BUFFER, 4) == bytes(4)
    assert client.ask(request, len(client.fdt) + 4) == papr.H_SUCCESS


def test_update_dt_takes_a_tree_and_refuses_all_else() -> None:
    client = Client("power8")
    client.dma.write(BUFFER, client.fdt)
    assert client.call(HcallNumber.H_UPDATE_DT, BUFFER) == papr.H_SUCCESS
    assert client.call(HcallNumber.H_UPDATE_DT, BUFFER + 4) == papr.H_PARAMETER
    client.dma.write(BUFFER + 4, struct.pack(">I", 0x7FFFFFFF))  # totalsize
    assert client.call(HcallNumber.H_UPDATE_DT, BUFFER) == papr.H_PARAMETER
