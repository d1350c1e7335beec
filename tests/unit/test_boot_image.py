"""Where images go in guest RAM, how the guest is entered, and what does not fit."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware.boot_image import (
    FDT_MAX_SIZE,
    FIRMWARE_MAX_SIZE,
    KERNEL_LOAD_ADDR,
    PAGE_64K,
    RTAS_MAX_ADDR,
    AddressRange,
    BootPlan,
    plan_boot,
)
from firmware.errors import ImageError
from firmware.rtas_blob import H_RTAS, RTAS_AREA_SIZE, rtas_blob
from tests.unit.test_elf import KERNEL_BASE, Load, make_elf

MIB = 1 << 20


def kernel_file(path: Path, size: int = 0x2000, *, order: str = "<", entry: int = 0x10) -> Path:
    data = make_elf(
        [Load(KERNEL_BASE, 0, b"k" * 0x40, size)], order=order, entry=KERNEL_BASE + entry
    )
    path.write_bytes(data)
    return path


def file_of(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def overlaps(plan: BootPlan) -> bool:
    ranges = [AddressRange(chunk.address, chunk.memsz) for chunk in plan.chunks] + [plan.fdt]
    ranges.sort(key=lambda part: part.start)
    return any(below.end > above.start for below, above in pairwise(ranges))


def test_direct_boot(tmp_path: Path) -> None:
    kernel = kernel_file(tmp_path / "vmlinux")
    initrd = file_of(tmp_path / "initrd", 5000)
    plan = plan_boot(1024 * MIB, kernel=kernel, initrd=initrd)
    assert plan.kernel == AddressRange(KERNEL_LOAD_ADDR, 0x2000)
    assert plan.kernel_little_endian
    assert plan.initrd == AddressRange(0x420000, 5000)
    assert plan.rtas == AddressRange(1024 * MIB - RTAS_AREA_SIZE, RTAS_AREA_SIZE)
    assert plan.fdt == AddressRange(plan.rtas.start - FDT_MAX_SIZE, FDT_MAX_SIZE)
    assert plan.entry == KERNEL_LOAD_ADDR + 0x10
    assert plan.gprs == {3: plan.fdt.start, 4: KERNEL_LOAD_ADDR, 5: 0}
    assert plan.firmware is None


def test_initrd_is_where_qemu_puts_it(tmp_path: Path) -> None:
    # Seen in QEMU 7.2's device tree: a kernel of 0x9a8bf8 bytes has its initrd at 0xdc0000.
    kernel = kernel_file(tmp_path / "vmlinux", 0x9A8BF8)
    plan = plan_boot(1024 * MIB, kernel=kernel, initrd=file_of(tmp_path / "initrd", 1))
    assert plan.initrd == AddressRange(0xDC0000, 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_firmware_boot(tmp_path: Path, order: str) -> None:
    bios = file_of(tmp_path / "fw.bin", 0x1000)
    kernel = kernel_file(tmp_path / "vmlinux", order=order)
    plan = plan_boot(512 * MIB, kernel=kernel, bios=bios)
    assert plan.entry == 0x100
    assert plan.gprs == {3: plan.fdt.start, 4: 0, 5: 0}
    assert plan.firmware == AddressRange(0, 0x1000)
    assert plan.kernel == AddressRange(KERNEL_LOAD_ADDR, 0x2000)
    assert plan.kernel_little_endian is (order == "<")


def test_elf_firmware_goes_where_it_is_linked(tmp_path: Path) -> None:
    bios = tmp_path / "fw.elf"
    bios.write_bytes(make_elf([Load(0x100000, 0x100000, b"fw", 0x100)], order=">", entry=0x100000))
    plan = plan_boot(512 * MIB, bios=bios)
    assert plan.firmware == AddressRange(0x100000, 0x100)
    assert plan.entry == 0x100000
    assert plan.kernel is None


@pytest.mark.parametrize(
    ("ram", "rma", "top"),
    [
        (4096 * MIB, None, RTAS_MAX_ADDR),
        (4096 * MIB, 256 * MIB, 256 * MIB),
        (64 * MIB, 256 * MIB, 64 * MIB),
        (64 * MIB + 0x1234, None, 64 * MIB),
    ],
)
def test_rtas_is_at_the_top_of_the_rma(tmp_path: Path, ram: int, rma: int | None, top: int) -> None:
    plan = plan_boot(ram, kernel=kernel_file(tmp_path / "vmlinux"), rma_size=rma)
    assert plan.rtas.end == top


def test_placing(tmp_path: Path) -> None:
    kernel = kernel_file(tmp_path / "vmlinux", 3 * MIB)
    plan = plan_boot(16 * MIB, kernel=kernel)
    ram = bytearray(b"\xff" * (16 * MIB))
    plan.place(memoryview(ram))
    assert ram[KERNEL_LOAD_ADDR : KERNEL_LOAD_ADDR + 0x40] == b"k" * 0x40
    assert not any(ram[KERNEL_LOAD_ADDR + 0x40 : KERNEL_LOAD_ADDR + 3 * MIB])
    assert ram[KERNEL_LOAD_ADDR + 3 * MIB] == 0xFF
    assert ram[plan.rtas.start : plan.rtas.start + 20] == rtas_blob()
    assert ram[KERNEL_LOAD_ADDR - 1] == 0xFF


def test_errors(tmp_path: Path) -> None:
    kernel = kernel_file(tmp_path / "vmlinux", 8 * MIB)
    initrd = file_of(tmp_path / "initrd", 8 * MIB)
    huge = file_of(tmp_path / "huge", FIRMWARE_MAX_SIZE + 1)
    short = file_of(tmp_path / "short", 0x100)
    low = tmp_path / "low.elf"
    low.write_bytes(make_elf([Load(0, 0, b"x", 0x500000)], entry=0))
    for arguments, message in (
        ({"ram_size": 64 * MIB}, "nothing to boot"),
        (
            {"ram_size": 64 * MIB, "bios": huge, "initrd": initrd},
            "initrd: an initrd needs a kernel",
        ),
        ({"ram_size": 64 * MIB, "kernel": initrd}, "initrd: not an ELF file"),
        ({"ram_size": 8 * MIB, "kernel": kernel}, "vmlinux: does not fit: it needs RAM up to 0xc0"),
        (
            {"ram_size": 13 * MIB, "kernel": kernel},
            "vmlinux: does not fit: it ends at 0xc00000, and the device tree starts at 0xaf0000",
        ),
        ({"ram_size": 21 * MIB, "kernel": kernel, "initrd": initrd}, "initrd: does not fit"),
        ({"ram_size": 2 * MIB, "kernel": kernel}, "RAM of 2 MiB is too small"),
        ({"ram_size": 0, "kernel": kernel}, "RAM of 0 MiB is too small"),
        ({"ram_size": 64 * MIB, "bios": huge}, "huge: firmware of 4"),
        ({"ram_size": 64 * MIB, "bios": short}, "short: firmware too short"),
        ({"ram_size": 64 * MIB, "bios": tmp_path / "no"}, "no: cannot open"),
        ({"ram_size": 64 * MIB, "kernel": kernel, "initrd": tmp_path / "no"}, "no: cannot open"),
        (
            {"ram_size": 64 * MIB, "kernel": kernel, "bios": low},
            "low.elf: does not fit: it ends at",
        ),
    ):
        with pytest.raises(ImageError, match=message) as raised:
            plan_boot(**arguments)
        assert "\n" not in str(raised.value)


def test_segments_that_collide_only_after_translation(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(make_elf([Load(0, 0, b"a"), Load(1 << 28, 1 << 28, b"b")], entry=0))
    with pytest.raises(ImageError, match="does not fit"):
        plan_boot(1024 * MIB, kernel=path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ram=st.integers(0, 4096 * MIB),
    rma=st.none() | st.integers(1, 4096 * MIB),
    kernel_size=st.none() | st.integers(0x40, 64 * MIB),
    initrd_size=st.none() | st.integers(1, 64 * MIB),
    bios_size=st.none() | st.integers(1, FIRMWARE_MAX_SIZE + 1),
)
def test_placements_never_overlap(
    tmp_path: Path,
    ram: int,
    rma: int | None,
    kernel_size: int | None,
    initrd_size: int | None,
    bios_size: int | None,
) -> None:
    kernel = None if kernel_size is None else kernel_file(tmp_path / "kernel", kernel_size)
    initrd = None if initrd_size is None else file_of(tmp_path / "initrd", initrd_size)
    bios = None if bios_size is None else file_of(tmp_path / "bios", bios_size)
    try:
        plan = plan_boot(ram, kernel=kernel, initrd=initrd, bios=bios, rma_size=rma)
    except ImageError:
        return
    assert not overlaps(plan)
    assert max(chunk.end for chunk in plan.chunks) <= ram
    assert plan.fdt.end <= plan.rtas.start <= RTAS_MAX_ADDR - RTAS_AREA_SIZE
    assert plan.initrd is None or plan.initrd.start % PAGE_64K == 0


def test_rtas_blob() -> None:
    mr, li, ori, sc, blr = struct.unpack(">5I", rtas_blob())
    assert mr == 0x7C641B78
    assert li == 0x38600000
    assert ori == 0x60630000 | H_RTAS
    assert sc == 0x44000022
    assert blr == 0x4E800020
