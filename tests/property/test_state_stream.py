"""Mutated state streams are refused with a reason, or load; nothing else ever happens."""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.machine import Machine
from emu.memory.endian import GuestEndian
from emu.migration.destination import receive
from emu.migration.stream import MigrationError
from emu.options import parse_command_line
from tests.support.stream_edit import Frame, integrity_section, resealed

_DEVICES = ("rng", "balloon", "serial", "net")
#: No stream takes longer, or more memory.
_SECONDS = 30.0
_MEMORY_KIB = 512 * 1024


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
    begun = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    why = ""
    try:
        receive(machine.migration, Recorded(data))  # type: ignore[arg-type]
    except MigrationError as error:
        why = str(error)
        assert why
        assert why.isprintable()
    assert time.monotonic() - begun < _SECONDS
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < _MEMORY_KIB, f"{after - before} KiB more at the most: {why}"
    return why


def test_unchanged_stream_loads_with_its_byte_order(stream: bytes, target: Machine) -> None:
    assert _load(target, stream) == ""
    device = target.devices["rng"]
    assert device.latched_endian is GuestEndian.LITTLE
    assert (device.status, device.queues[0].enabled) == (7, True)
    assert target.devices["balloon"].latched_endian is GuestEndian.BIG


def test_stream_without_the_byte_order_gives_the_platform_s(stream: bytes, target: Machine) -> None:
    """What a version would send that does not know the subsection."""
    start = stream.index(b"\x05\x14virtio/device_endian")
    cut = stream[:start] + stream[start + 2 + 0x14 + 4 + 1 :]
    assert "ppc64emu/integrity" in _load(target, cut)
    assert _load(target, resealed(cut)) == ""
    assert target.devices["rng"].latched_endian is GuestEndian.BIG


positions = st.floats(0, 1, exclude_max=True)
#: Whether the checksum is right all the same, so that the change comes as far as the devices.
sealed = st.booleans()


@dataclass(frozen=True)
class Devices:
    """A stream, and where its devices' sections are."""

    stream: bytes
    frame: Frame
    end: int

    def place(self, at: int, size: int = 0) -> int:
        """Some place in them with so much behind it, for any number."""
        return self.frame.begin + at % (self.end - self.frame.begin - size)

    def with_bytes(self, at: int, new: bytes, seal: bool) -> bytes:
        """The stream with other bytes at a place."""
        place = self.place(at, len(new))
        return self.sealed(self.stream[:place] + new + self.stream[place + len(new) :], seal)

    def sealed(self, data: bytes, seal: bool = True) -> bytes:
        """With a checksum that fits, if that is wanted."""
        return resealed(data, self.frame) if seal else data


@pytest.fixture(scope="module")
def devices(stream: bytes) -> Devices:
    return Devices(stream, Frame.of(stream), integrity_section(stream))


@given(place=positions, bit=st.integers(0, 7))
def test_flipped_bit_anywhere(stream: bytes, target: Machine, place: float, bit: int) -> None:
    broken = bytearray(stream)
    broken[int(place * len(stream))] ^= 1 << bit
    _load(target, bytes(broken))


@given(at=st.integers(0, 1 << 20), value=st.binary(min_size=1, max_size=8), seal=sealed)
def test_changed_bytes_of_a_device(
    devices: Devices, target: Machine, at: int, value: bytes, seal: bool
) -> None:
    _load(target, devices.with_bytes(at, value, seal))


@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=20),
)
def test_several_changed_bytes(
    devices: Devices, target: Machine, changes: list[tuple[int, int]]
) -> None:
    broken = bytearray(devices.stream)
    for at, value in changes:
        broken[devices.place(at)] = value
    _load(target, devices.sealed(bytes(broken)))


@given(place=positions)
def test_truncated_stream_is_refused(stream: bytes, target: Machine, place: float) -> None:
    description = stream.rindex(b'{"page_size"')
    assert _load(target, stream[: int(place * description)])


@given(
    at=st.integers(0, 1 << 20),
    value=st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\0\x10\0\0"]),
    seal=sealed,
)
def test_length_fields(
    devices: Devices, target: Machine, at: int, value: bytes, seal: bool
) -> None:
    _load(target, devices.with_bytes(at, value, seal))


@given(
    first=st.integers(0, 1 << 20),
    second=st.integers(0, 1 << 20),
    size=st.integers(1, 400),
    seal=sealed,
)
def test_pieces_in_other_places(
    devices: Devices, target: Machine, first: int, second: int, size: int, seal: bool
) -> None:
    source = devices.place(first, size)
    _load(target, devices.with_bytes(second, devices.stream[source : source + size], seal))


@given(at=st.integers(0, 1 << 20), size=st.integers(1, 300), seal=sealed)
def test_missing_pieces(devices: Devices, target: Machine, at: int, size: int, seal: bool) -> None:
    place = devices.place(at, size)
    broken = devices.stream[:place] + devices.stream[place + size :]
    _load(target, devices.sealed(broken, seal))


@given(
    record=st.binary(min_size=8, max_size=64), kind=st.sampled_from([0, 0x10, 0x400, 0x800, 0xC00])
)
def test_records_of_memory(stream: bytes, target: Machine, record: bytes, kind: int) -> None:
    """In front of the first record: any count, any pages, any method."""
    section = stream.index(b"\x02\0\0\0\x02") + 5  # PART, number 2
    word = int.from_bytes(record[:8], "big") & ~0xFFF | kind
    _load(target, stream[:section] + word.to_bytes(8, "big") + record[8:] + stream[section:])
