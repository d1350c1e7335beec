"""A saved stream as other readers see it: ours of the documented format, and QEMU's own script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emu.machine import Machine
from emu.memory.endian import GuestEndian
from emu.options import parse_command_line
from machines.pseries.machine import PseriesMachine
from tests.support.guest_images import missing_compilers, write_disk, write_image
from tests.support.stream_edit import without_ram
from tests.support.stream_reader import (
    PAGE,
    SavedStream,
    Structure,
    fields_size,
    lines_of,
    main,
    read_stream,
)

pytestmark = pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers")
#: QEMU's scripts/analyze-migration.py, where somebody has it.
ANALYZER = os.environ.get("ANALYZE_MIGRATION", "")
DEVICES = ("block", "net", "console", "rng", "balloon")


@dataclass
class Case:
    """A machine that was saved while its guest worked, and the stream."""

    machine: Machine
    stream: SavedStream
    path: Path


def _options(folder: Path, board: str) -> list[str]:
    pci = board == "pseries"
    suffix = "pci" if pci else "device"
    mmu = "hash" if pci else "off"
    image = write_image(folder / "image.bin", test="load", order="le", mmu=mmu, pace="1")
    disk = write_disk(folder / "disk.img", 3001)
    options = ["-M", board, "-m", "256" if pci else "32", "-nodefaults", "-bios", str(image)]
    options += ["-chardev", "ringbuf,id=c", "-serial", "chardev:c"]
    options += ["-drive", f"file={disk},if=none,format=raw,id=d"]
    for kind, properties in (
        ("blk", ",drive=d"),
        ("net", ""),
        ("serial", ",id=serial"),
        ("rng", ""),
        ("balloon", ""),
    ):
        options += ["-device", f"virtio-{kind}-{suffix}{properties}"]
    options += ["-chardev", "ringbuf,id=p", "-device", "virtserialport,chardev=p,name=port"]
    return options


@pytest.fixture(scope="module", params=["pseries", "virtmmio"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    with Machine(parse_command_line(_options(folder, request.param))) as machine:
        machine.start()
        machine.console.wait_for("TICK 5 ", timeout=120)
        machine.migration.migrate(f"file:{folder}/saved")
        machine.migration.wait(120)
        assert machine.migration.query()["status"] == "completed"
        yield Case(machine, read_stream((folder / "saved").read_bytes()), folder / "saved")


def test_every_section_is_there(case: Case) -> None:
    """Reading it has checked every size, index, footer and checksum."""
    names = [name for name, _ in case.stream.sections]
    assert names[-1] == "ppc64emu/integrity"
    expected = {
        f"{component.name}": component.description.version
        for component in case.machine.board.components()
    }
    found = {section.name: section.version for section in case.stream.sections.values()}
    assert found == {**expected, "ppc64emu/integrity": 2}
    for kind in DEVICES:
        assert len([name for name in names if name.endswith(f"/virtio-{kind}")]) == 1


def test_memory_is_whole(case: Case) -> None:
    ram = case.machine.board.partition.ram
    assert case.stream.ram_size == ram.size
    assert set(case.stream.pages) == set(range(ram.size // PAGE))
    for number, page in case.stream.pages.items():
        assert ram.read(number * PAGE, PAGE) == (page or bytes(PAGE)), f"page {number:#x}"


def test_hash_page_table_is_whole(case: Case) -> None:
    board = case.machine.board
    if not isinstance(board, PseriesMachine):
        assert not case.stream.hash_entries
        return
    entries = np.asarray(board.hpt_memory).reshape(-1, 16)
    valid = np.flatnonzero(entries[:, 7] & 1).tolist()
    assert sorted(case.stream.hash_entries) == valid
    assert len(valid) > 500
    for index, entry in case.stream.hash_entries.items():
        assert bytes(entries[index]) == entry


def test_registers_are_the_cpus(case: Case) -> None:
    vcpu = case.machine.board.vcpus[0]
    state = case.stream["cpu"].state
    assert state["nip"] == vcpu.pc
    assert state["gpr"] == [vcpu.gpr(number) for number in range(32)]
    assert state["msr"] == vcpu.msr
    assert state["msr"] & 1, "the guest is little-endian"
    assert state["pvr"] == int(vcpu.record["pvr"])


def test_devices_are_described_by_name(case: Case) -> None:
    """The disk is in use by a little-endian guest, the others have never been."""
    disk = case.stream["/virtio-block"].state["virtio"]
    device = next(d for d in case.machine.board.virtio_devices() if d.name == disk_name(case))
    assert disk["status"] == device.status == 7
    assert disk.subsections["virtio/device_endian"]["device_endian"] == GuestEndian.LITTLE.value
    rings = disk.subsections["virtio/rings"]
    record = device.queues[0].record
    assert disk["queues.0.last_avail_idx"] == int(record["last_avail"]) > 5
    assert rings["queues.0.used_idx"] == int(record["used_idx"])
    assert rings["queues.0.inuse"] == 0
    assert disk["config"][:8] == (3001).to_bytes(8, "big")
    for kind in DEVICES[1:]:
        other = case.stream[f"/virtio-{kind}"].state["virtio"]
        assert other["status"] == 0
        assert "virtio/device_endian" not in other.subsections


def disk_name(case: Case) -> str:
    (found,) = [
        device.name
        for device in case.machine.board.virtio_devices()
        if device.DEVICE_ID.name == "BLOCK"
    ]
    return found


def test_sizes_add_up(case: Case) -> None:
    """A section is as long as its description says, subsections included."""
    entries = {
        (entry["name"], entry["instance_id"]): entry for entry in case.stream.description["devices"]
    }
    assert entries.keys() == case.stream.sections.keys()
    for key, section in case.stream.sections.items():
        assert section.end - section.start == whole_size(entries[key]), key


def whole_size(entry: dict[str, object]) -> int:
    """Bytes of a structure with all of its subsections, and theirs."""
    fields: list[dict[str, object]] = entry["fields"]  # type: ignore[assignment]
    size = fields_size(entry)
    inner = [item["struct"] for item in fields if item["type"] == "struct"]
    for struct in inner:
        size += whole_size(struct) - fields_size(struct)  # type: ignore[arg-type]
    for subsection in entry.get("subsections", ()):  # type: ignore[attr-defined]
        size += 2 + len(subsection["vmsd_name"]) + 4 + whole_size(subsection)
    return size


def test_every_field_is_printed(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stream_reader", str(case.path)])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    fields = sum(len(lines_of(section.state)) for section in case.stream.sections.values())
    assert len(lines) == 1 + len(case.stream.sections) + fields
    assert "    virtio.[virtio/device_endian].device_endian = 1" in lines
    assert any(line.startswith("    virtio.queues.0.last_avail_idx = ") for line in lines)


@pytest.mark.skipif(not ANALYZER, reason="ANALYZE_MIGRATION names no script of QEMU's")
def test_qemus_script_reads_the_same(case: Case, tmp_path: Path) -> None:
    """Without RAM, whose records are not QEMU's."""
    stripped = tmp_path / "stripped"
    stripped.write_bytes(without_ram(case.stream.data))
    result = subprocess.run(
        [sys.executable, ANALYZER, "-f", str(stripped), "-d", "state"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for section in case.stream.sections.values():
        title = f"{section.name} ({section.number})"
        compare(section.state, found[title], title)


def compare(ours: Structure, theirs: dict[str, object], where: str) -> None:
    """Every field and subsection is in both, with the same value."""
    assert theirs.keys() == {*ours.fields, *ours.subsections}, where
    for name, value in ours.fields.items():
        match(value, theirs[name], f"{where}.{name}")
    for name, inner in ours.subsections.items():
        compare(inner, theirs[name], f"{where}.{name}")  # type: ignore[arg-type]


def match(ours: object, theirs: object, where: str) -> None:
    """Numbers come as hexadecimal text, bytes as pairs of digits."""
    if isinstance(ours, Structure):
        compare(ours, theirs, where)  # type: ignore[arg-type]
    elif isinstance(ours, list):
        items = theirs if isinstance(theirs, list) else [theirs]
        assert len(ours) == len(items), where
        for index, (one, other) in enumerate(zip(ours, items, strict=True)):
            match(one, other, f"{where}.{index}")
    elif isinstance(ours, bytes):
        assert bytes.fromhex(str(theirs)) == ours, where
    elif isinstance(ours, bool):
        assert str(theirs) == str(ours), where
    else:
        assert int(str(theirs).split()[0], 16) % (1 << 64) == int(str(ours)) % (1 << 64), where
