"""Mutated state streams are refused with a reason, or load; nothing else ever happens."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.machine import Machine
from emu.memory.endian import GuestEndian
from emu.migration.destination import receive
from emu.migration.stream import MigrationError
from emu.options import parse_command_line

_DEVICES = ("rng", "balloon", "serial", "net")


class Recorded:
    """A channel of one direction, from memory."""

    has_return_path = False

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._data.read(size)

    def read_into(self, views: Sequence[memoryview]) -> int:
        return self._data.readinto(views[0])

    def write(self, data: bytes) -> None:
        raise AssertionError("nothing is written back")

    def drain(self, seconds: float) -> None:
        raise AssertionError("nothing is written back")


def _machine(folder: Path, *more: str) -> Machine:
    image = folder / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    argv = ["-m", "256M", "-nodefaults", "-bios", str(image), "-S", *more]
    for kind in _DEVICES:
        argv += ["-device", f"virtio-{kind}-pci,id={kind}"]
    machine = Machine(parse_command_line(argv))
    machine.start()
    return machine


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A saved machine whose devices have been driven a little."""
    folder = tmp_path_factory.mktemp("source")
    with _machine(folder) as machine:
        device = machine.devices["rng"]
        device.latched_endian = GuestEndian.LITTLE
        device.set_features(1 << 28 | 1 << 29, modern=False)
        queue = device.queues[0]
        queue.place(0x10000, 0x11000, 0x12000)
        device.enable_queue(queue)
        device.set_status(7)
        machine.migration.migrate(f"file:{folder}/saved")
        machine.migration.wait(60)
        assert machine.migration.query()["status"] == "completed"
    return (folder / "saved").read_bytes()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with _machine(tmp_path_factory.mktemp("target"), "-incoming", "defer") as machine:
        yield machine


def _load(machine: Machine, data: bytes) -> str:
    """Why it was refused; empty if it was not."""
    try:
        receive(machine.migration, Recorded(data))  # type: ignore[arg-type]
    except MigrationError as error:
        return str(error)
    return ""


def test_unchanged_stream_loads_with_its_byte_order(stream: bytes, target: Machine) -> None:
    assert _load(target, stream) == ""
    device = target.devices["rng"]
    assert device.latched_endian is GuestEndian.LITTLE
    assert (device.status, device.queues[0].enabled) == (7, True)
    assert target.devices["balloon"].latched_endian is GuestEndian.BIG


def test_stream_without_the_byte_order_gives_the_platform_s(stream: bytes, target: Machine) -> None:
    """What an older version would send; the integrity section notices, as it should."""
    start = stream.index(b"\x05\x14virtio/device_endian")
    cut = stream[:start] + stream[start + 2 + 0x14 + 4 + 1 :]
    assert "ppc64emu/integrity" in _load(target, cut)


positions = st.floats(0, 1, exclude_max=True)


@given(place=positions, bit=st.integers(0, 7), near_end=st.booleans())
def test_flipped_bit(
    stream: bytes, target: Machine, place: float, bit: int, near_end: bool
) -> None:
    broken = bytearray(stream)
    span = 40_000 if near_end else len(stream)  # devices come last
    broken[len(stream) - span + int(place * span)] ^= 1 << bit
    _load(target, bytes(broken))


@given(place=positions)
def test_truncated_stream_is_refused(stream: bytes, target: Machine, place: float) -> None:
    description = stream.rindex(b'{"page_size"')
    assert _load(target, stream[: int(place * description)])


@given(place=positions, value=st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)]))
def test_length_fields(stream: bytes, target: Machine, place: float, value: bytes) -> None:
    span = 40_000
    at = len(stream) - span + int(place * (span - 4))
    _load(target, stream[:at] + value + stream[at + 4 :])


@given(first=positions, second=positions, size=st.integers(1, 400))
def test_pieces_in_other_places(
    stream: bytes, target: Machine, first: float, second: float, size: int
) -> None:
    span = 40_000
    base = len(stream) - span
    a, b = base + int(first * (span - size)), base + int(second * (span - size))
    broken = bytearray(stream)
    broken[b : b + size] = stream[a : a + size]
    _load(target, bytes(broken))
