"""Streams that do not fit: one clear line that names the section, and a status that is not 0.

Everything but the fault is right with them, the checksum too.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from emu.machine import Machine
from emu.options import parse_command_line
from tests.support.guest_images import missing_compilers, write_disk, write_image
from tests.support.stream_edit import replaced, resealed, twice, without_section
from tests.support.stream_reader import SavedStream, read_stream

pytestmark = pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers")
BLOCK = "virtio-mmio@0/virtio-block"


@dataclass
class Saved:
    """A machine's options, and its stream."""

    options: list[str]
    stream: SavedStream


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("saved")
    image = write_image(folder / "image.bin", test="load", order="le")
    disk = write_disk(folder / "disk.img", 3001)
    options = ["-nodefaults", "-bios", str(image), "-M", "virtmmio", "-m", "32"]
    options += ["-drive", f"file={disk},if=none,format=raw,id=d"]
    options += ["-device", "virtio-blk-device,drive=d", "-device", "virtio-rng-device"]
    console = ["-chardev", "ringbuf,id=c", "-serial", "chardev:c"]
    with Machine(parse_command_line([*options, *console])) as machine:
        machine.start()
        machine.console.wait_for("TICK 3 ", timeout=120)
        machine.migration.migrate(f"file:{folder}/saved")
        machine.migration.wait(120)
    return Saved(options, read_stream((folder / "saved").read_bytes()))


def refusal(saved: Saved, data: bytes, folder: Path, *more: str) -> str:
    """The line with which a process refuses a stream."""
    file = folder / "stream"
    file.write_bytes(data)
    command = [sys.executable, "-m", "emu", "-display", "none", "-serial", "null", *saved.options]
    result = subprocess.run(
        [*command, *more, "-incoming", f"file:{file}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert not result.stdout
    lines = [line for line in result.stderr.splitlines() if "compiling hot" not in line]
    assert len(lines) == 1, result.stderr
    return lines[0].removeprefix("ppc64emu: load of migration failed: ")


def head(name: str, version: int) -> bytes:
    """Name, instance and version as they are in a section's head."""
    return bytes((len(name),)) + name.encode() + bytes(4) + version.to_bytes(4, "big")


def _other_pvr(stream: SavedStream) -> bytes:
    pvr = stream["cpu"].state["pvr"].to_bytes(4, "big")
    return replaced(stream, "cpu", head("cpu", 1) + pvr, head("cpu", 1) + b"\0\x4d\x12\x34")


def _status_as_a_flag(stream: SavedStream) -> bytes:
    """The first queue is neither enabled nor not."""
    rings = b"virtio/rings\0\0\0\x01"
    return replaced(stream, BLOCK, rings + b"\x01", rings + b"\x02")


def _too_long(stream: SavedStream) -> bytes:
    config = stream[BLOCK].state["virtio.config"]
    size = len(config).to_bytes(4, "big")
    return replaced(stream, BLOCK, size + config, b"\xff\xff\xff\xff" + config)


def _request_in_flight(stream: SavedStream) -> bytes:
    queue = stream[BLOCK].state["virtio.queues"][0]
    fields = queue["num"].to_bytes(4, "big") + queue["desc"].to_bytes(8, "big")
    index = queue["last_avail_idx"]
    old = fields + index.to_bytes(2, "big")
    return replaced(stream, BLOCK, old, fields + (index + 1 & 0xFFFF).to_bytes(2, "big"))


FAULTS: dict[str, tuple[Callable[[SavedStream], bytes], str]] = {
    "missing": (lambda s: without_section(s, "intc"), "section 'intc' is missing"),
    "unknown": (
        lambda s: replaced(s, "intc", head("intc", 1), head("xntc", 1)),
        "unknown section 'xntc'",
    ),
    "other instance": (
        lambda s: replaced(s, "intc", head("intc", 1), head("intc", 1)[:8] + b"\1\0\0\0\1"),
        "unknown section 'intc', instance 1",
    ),
    "newer": (
        lambda s: replaced(s, "intc", head("intc", 1), head("intc", 2)),
        "section 'intc': version 2 is not supported (known: 1 to 1)",
    ),
    "older": (
        lambda s: replaced(s, BLOCK, head(BLOCK, 2), head(BLOCK, 1)),
        f"section '{BLOCK}': virtio-mmio-v1: version 1 is not supported (known: 2 to 2)",
    ),
    "twice": (lambda s: twice(s, "intc"), "section 'intc' comes twice"),
    "unknown subsection": (
        lambda s: replaced(s, BLOCK, b"virtio/rings", b"virtio/xings"),
        f"section '{BLOCK}': virtio: unknown subsection 'virtio/xings'",
    ),
    "newer subsection": (
        lambda s: replaced(s, BLOCK, b"virtio/rings\0\0\0\x01", b"virtio/rings\0\0\0\x07"),
        f"section '{BLOCK}': virtio/rings: version 7 is not supported (known: 1 to 1)",
    ),
    "no footer": (
        lambda s: resealed(s.data[: s["intc"].end] + b"\x7f" + s.data[s["intc"].end + 1 :]),
        "section 'intc': no footer where it should end",
    ),
    "no flag": (_status_as_a_flag, f"section '{BLOCK}': enabled: 2 is neither 0 nor 1"),
    "too long": (_too_long, f"section '{BLOCK}': config: 4294967295 bytes, 4096 at most"),
    "request": (_request_in_flight, f"section '{BLOCK}': queue 0: 0 requests in flight"),
    "other CPU": (_other_pvr, "section 'cpu': the source's PVR is 0x4d1234"),
    "damaged": (
        lambda s: s.data[: s["intc"].start] + b"\x5a" + s.data[s["intc"].start + 1 :],
        "section 'ppc64emu/integrity': the stream is corrupt",
    ),
    "empty": (lambda s: b"", "the stream ends after 0 bytes"),
    "text": (lambda s: b"#!/bin/sh\n", "not a migration stream (wrong magic)"),
    "cut": (lambda s: s.data[: s["intc"].start + 3], "section 'intc': the stream ends after"),
    "no description": (
        lambda s: s.data[: s["ppc64emu/integrity"].end + 5],
        "the stream ends after",
    ),
}


@pytest.mark.parametrize(("spoil", "why"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_is_named(
    saved: Saved, tmp_path: Path, spoil: Callable[[SavedStream], bytes], why: str
) -> None:
    data = spoil(saved.stream)
    assert data != saved.stream.data
    assert refusal(saved, data, tmp_path).startswith(why)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-m", "64"], "ram: the source has 32 MiB, this machine 64 MiB"),
        (["-M", "pseries", "-m", "256"], "configuration: machine type is 'virtmmio'"),
        (["-device", "virtio-balloon-device"], "section 'virtio-mmio@2/virtio-balloon' is missing"),
        (["-global", "virtio-mmio.force-legacy=false"], "version: 1 at the source, 2 at this"),
    ],
    ids=["memory", "machine", "device", "interface"],
)
def test_other_machine_is_named(saved: Saved, tmp_path: Path, options: list[str], why: str) -> None:
    assert why in refusal(saved, saved.stream.data, tmp_path, *options)
