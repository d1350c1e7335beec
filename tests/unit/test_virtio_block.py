"""Virtio block device: every request in every byte order and framing, and what is refused."""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from devices.block.image import Image
from devices.block.open import open_image
from devices.virtio.block import VirtioBlock
from devices.virtio.block_options import BlockFeature, BlockOptions
from devices.virtio.constants import Feature, Status
from emu.chardev.config import ConfigError
from emu.memory.endian import GuestEndian
from tests.support.block import MemoryImage, numbered
from tests.support.virtio import KIND_NAMES, KINDS, FakeHost, MockDriver

Kind = tuple[GuestEndian, int]
IN, OUT, SCSI_CMD, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 2, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
CACHE = BlockFeature.FLUSH.mask | BlockFeature.CONFIG_WCE.mask
SECTORS = 64

every_kind = pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)


class Disk:
    """A device on an image, and its driver."""

    def __init__(self, image: Image, kind: Kind, features: int, options: BlockOptions) -> None:
        self.host = FakeHost()
        self.image = image
        self.device = VirtioBlock("disk", self.host, options, image)
        self.driver = MockDriver(self.device, kind[0], kind[1] | features)
        self.driver.setup()

    def header(self, type: int, sector: int = 0) -> bytes:
        return self.driver.pack("IIQ", type, 0, sector)

    def ask(
        self, readable: Sequence[bytes], writable: Sequence[int], *, indirect: bool = False
    ) -> tuple[int, bytes]:
        """One request by itself: its status and the data before it."""
        token = self.driver.submit(0, readable, writable, indirect=indirect)
        ((used, length, data),) = self.driver.wait_used(0)
        assert (used, length) == (token, len(data))
        return data[-1], data[:-1]

    def read(self, sector: int, size: int) -> tuple[int, bytes]:
        return self.ask([self.header(IN, sector)], [size, 1])

    def write(self, sector: int, data: bytes) -> int:
        return self.ask([self.header(OUT, sector), data], [1])[0]


Make = Callable[..., Disk]


@pytest.fixture(params=["file", "native", "workers"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes disks on a host file, and on an image that only workers can reach.

    "native" leaves out RWF_NOWAIT, which few file systems have for writes.
    """
    disks: list[Disk] = []

    def make_disk(
        kind: Kind = KINDS[0], features: int = CACHE, read_only: bool = False, **options: object
    ) -> Disk:
        image: Image
        if request.param != "workers":
            path = tmp_path / f"disk{len(disks)}"
            path.write_bytes(numbered(SECTORS))
            image = open_image(str(path), read_only=read_only, discard="unmap")
        else:
            image = MemoryImage(SECTORS * 512, read_only=read_only)
            image.data[:] = numbered(SECTORS)
        disks.append(Disk(image, kind, features, BlockOptions(**options)))  # type: ignore[arg-type]
        if request.param == "native":
            disks[-1].device.record["flags"] = 0
        return disks[-1]

    yield make_disk
    for disk in disks:
        disk.device.close()


def content(disk: Disk) -> bytes:
    """What is on the disk."""
    if isinstance(disk.image, MemoryImage):
        return bytes(disk.image.data)
    return Path(disk.image.path).read_bytes()


@every_kind
def test_read(make: Make, kind: Kind) -> None:
    disk = make(kind)
    assert disk.read(3, 1024) == (OK, numbered(5)[3 * 512 :])
    assert disk.read(0, SECTORS * 512) == (OK, numbered(SECTORS))
    assert disk.driver.transport.queue_interrupts == [0, 0]


@every_kind
def test_write(make: Make, kind: Kind) -> None:
    disk = make(kind)
    data = os.urandom(1536)
    assert disk.write(5, data) == OK
    assert content(disk) == numbered(5) + data + numbered(SECTORS)[8 * 512 :]


@every_kind
def test_flush(make: Make, kind: Kind) -> None:
    disk = make(kind)
    assert disk.ask([disk.header(FLUSH)], [1]) == (OK, b"")
    if isinstance(disk.image, MemoryImage):
        assert disk.image.log == ["flush"]


@every_kind
def test_get_id(make: Make, kind: Kind) -> None:
    disk = make(kind, serial="WD-1234")
    assert disk.ask([disk.header(GET_ID)], [20, 1]) == (OK, b"WD-1234".ljust(20, b"\0"))
    full = make(kind, serial="0123456789abcdefghijklm")
    assert full.ask([full.header(GET_ID)], [20, 1]) == (OK, b"0123456789abcdefghij")
    assert full.ask([full.header(GET_ID)], [4, 1]) == (OK, b"0123")
    odd = make(kind, serial="\udcff")  # of a command line with a byte that is no text
    assert odd.ask([odd.header(GET_ID)], [1, 1]) == (OK, b"\xff")


@every_kind
@pytest.mark.parametrize("type", [DISCARD, WRITE_ZEROES])
def test_discard_and_write_zeroes_ranges_are_little_endian(
    make: Make, kind: Kind, type: int
) -> None:
    disk = make(kind)
    where = struct.pack("<QII", 8, 16, 1 if type == WRITE_ZEROES else 0)
    assert disk.ask([disk.header(type), where], [1]) == (OK, b"")
    if isinstance(disk.image, MemoryImage):
        expected = "zero 4096 8192 unmap" if type == WRITE_ZEROES else "discard 4096 8192"
        assert disk.image.log == [expected]
    else:
        assert disk.read(8, 16 * 512) == (OK, bytes(16 * 512))
    assert disk.read(7, 512)[1] == numbered(8)[7 * 512 :]
    assert disk.read(24, 512)[1] == numbered(25)[24 * 512 :]


@pytest.mark.parametrize("type", [SCSI_CMD, 3, 6, 10, 12, 14, 15, 100, 0x7FFFFFFF])
def test_unknown_requests_are_unsupported(make: Make, type: int) -> None:
    disk = make()
    assert disk.ask([disk.header(type), bytes(16)], [1]) == (UNSUPP, b"")


def test_historical_forms_of_types(make: Make) -> None:
    disk = make(serial="x")
    assert disk.ask([disk.header(5)], [1]) == (OK, b"")  # FLUSH_OUT
    assert disk.ask([disk.header(IN | 1 << 31)], [512, 1]) == (OK, numbered(1))  # BARRIER


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize(
    ("cuts", "room"),
    [
        ([], [512, 512, 1]),
        ([], [1025]),  # the status shares the last buffer
        ([], [1, 1023, 1]),
        ([], [1000, 25]),
        ([8], [1024, 1]),  # the header in two
        ([1, 2, 15], [1024, 1]),
    ],
)
def test_framing_of_reads(make: Make, cuts: list[int], room: list[int], indirect: bool) -> None:
    disk = make(features=CACHE | Feature.RING_INDIRECT_DESC.mask)
    header = disk.header(IN, 2)
    edges = [0, *cuts, 16]
    pieces = [header[a:b] for a, b in itertools.pairwise(edges)]
    assert disk.ask(pieces, room, indirect=indirect) == (OK, numbered(4)[1024:])
    assert_native(disk, cuts)


@pytest.mark.parametrize("cuts", [[], [16], [7, 20], [16, 528], [15, 17, 18, 600], [100]])
def test_framing_of_writes(make: Make, cuts: list[int]) -> None:
    disk = make()
    data = os.urandom(1024)
    request = disk.header(OUT, 1) + data
    edges = [0, *cuts, len(request)]
    pieces = [request[a:b] for a, b in itertools.pairwise(edges)]
    assert disk.ask(pieces, [1]) == (OK, b"")
    assert content(disk)[512:1536] == data
    assert_native(disk, cuts)


def assert_native(disk: Disk, cuts: list[int]) -> None:
    """Native code did it by itself if it could: the header is in one piece."""
    if disk.device.record["flags"] == 0 and all(cut >= 16 for cut in cuts):
        assert not disk.device.flight._workers._threads


def test_the_status_is_the_last_of_many_bytes(make: Make) -> None:
    disk = make()
    status, rest = disk.ask([disk.header(OUT), bytes(512)], [3, 4])
    assert status == OK
    assert rest == bytes(6)


def test_more_pieces_than_a_system_call_takes(make: Make) -> None:
    disk = make(queue_size=1024, features=CACHE | Feature.RING_INDIRECT_DESC.mask)
    # Buffers of the mock driver are 16 bytes apart at least, so none are neighbours.
    size = SECTORS * 512
    pieces = [20] * (size // 20)
    rest = size - sum(pieces)
    assert disk.ask([disk.header(IN)], [*pieces, rest, 1], indirect=True) == (
        OK,
        numbered(SECTORS),
    )


BAD_RANGES = [
    (SECTORS, 512),
    (SECTORS - 1, 1024),
    (1 << 63, 512),
    ((1 << 64) - 1, 512),
    (1 << 55, 512),
    (0, 511),
    (0, 513),
    (0, 1),
]


@pytest.mark.parametrize(("sector", "size"), BAD_RANGES)
def test_requests_outside_the_disk_fail(make: Make, sector: int, size: int) -> None:
    disk = make()
    assert disk.read(sector, size) == (IOERR, bytes(size))
    assert disk.write(sector, b"\xff" * size) == IOERR
    assert content(disk) == numbered(SECTORS)
    assert disk.read(0, 512)[0] == OK


def test_empty_requests_are_done(make: Make) -> None:
    disk = make()
    assert disk.ask([disk.header(IN)], [1]) == (OK, b"")
    assert disk.ask([disk.header(OUT)], [1]) == (OK, b"")
    assert disk.ask([disk.header(IN, SECTORS + 1)], [1]) == (IOERR, b"")


@pytest.mark.parametrize(
    ("type", "data", "status"),
    [
        (DISCARD, struct.pack("<QII", SECTORS, 1, 0), IOERR),
        (DISCARD, struct.pack("<QII", 0, SECTORS + 1, 0), IOERR),
        (DISCARD, struct.pack("<QII", (1 << 64) - 1, 2, 0), IOERR),
        (DISCARD, struct.pack("<QII", 0, 33, 0), IOERR),  # more than the limit
        (DISCARD, struct.pack("<QII", 0, 1, 1), UNSUPP),  # unmap is for write zeroes
        (DISCARD, struct.pack("<QII", 0, 1, 0) * 2, UNSUPP),  # two ranges
        (DISCARD, b"", UNSUPP),
        (DISCARD, bytes(15), UNSUPP),
        (WRITE_ZEROES, struct.pack("<QII", SECTORS, 1, 0), IOERR),
        (WRITE_ZEROES, struct.pack("<QII", 0, 17, 0), IOERR),
        (WRITE_ZEROES, struct.pack("<QII", 0, 1, 2), UNSUPP),  # unknown flag
    ],
)
def test_bad_ranges(make: Make, type: int, data: bytes, status: int) -> None:
    disk = make(max_discard_sectors=32, max_write_zeroes_sectors=16)
    readable = [disk.header(type), data] if data else [disk.header(type)]
    assert disk.ask(readable, [1]) == (status, b"")
    assert content(disk) == numbered(SECTORS)


@pytest.mark.parametrize("type", [DISCARD, WRITE_ZEROES])
def test_what_is_not_offered_is_unsupported(make: Make, type: int) -> None:
    disk = make(discard=False, write_zeroes=False)
    request = [disk.header(type), struct.pack("<QII", 0, 1, 0)]
    assert disk.ask(request, [1]) == (UNSUPP, b"")
    assert not disk.device.device_features & (3 << BlockFeature.DISCARD)


def test_read_only_disk(make: Make) -> None:
    disk = make(read_only=True)
    assert disk.device.device_features & BlockFeature.RO.mask
    assert disk.write(0, bytes(512)) == IOERR
    for type in (DISCARD, WRITE_ZEROES):
        request = [disk.header(type), struct.pack("<QII", 0, 1, 0)]
        assert disk.ask(request, [1]) == (IOERR, b"")
    assert disk.ask([disk.header(FLUSH)], [1]) == (OK, b"")
    assert disk.read(1, 512) == (OK, numbered(2)[512:])
    assert content(disk) == numbered(SECTORS)


@pytest.mark.parametrize(
    ("readable", "writable"), [([bytes(15)], [1]), ([], [17]), ([bytes(16)], [])]
)
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=["legacy", "modern"])
def test_requests_without_header_or_status_break_the_device(
    make: Make, kind: Kind, readable: list[bytes], writable: list[int]
) -> None:
    disk = make(kind)
    disk.driver.submit(0, readable, writable)
    assert disk.device.broken
    assert bool(disk.device.status & Status.NEEDS_RESET) == bool(kind[1])
    disk.driver.submit(0, [disk.header(IN)], [512, 1])
    assert not disk.driver.used(0)
    disk.driver.setup()
    assert disk.read(0, 512)[0] == OK


def test_logical_blocks_of_4_kib(make: Make) -> None:
    disk = make(logical_block_size=4096)
    assert disk.driver.read_config(20, "I") == 4096
    assert disk.read(8, 4096) == (OK, numbered(16)[4096:])
    assert disk.read(1, 4096)[0] == IOERR
    assert disk.read(0, 512)[0] == IOERR
    assert disk.write(0, bytes(4096)) == OK


def test_native_writes_need_no_worker(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    disk = Disk(open_image(str(path)), KINDS[0], CACHE, BlockOptions())
    disk.device.record["flags"] = 0
    disk.driver.submit(0, [disk.driver.pack("IIQ", OUT, 0, 2), b"\x77" * 1024], [1])
    assert [data for _, _, data in disk.driver.used(0)] == [bytes(1)]
    assert path.read_bytes() == bytes(1024) + b"\x77" * 1024 + bytes(6144)
    disk.device.close()


@every_kind
def test_a_batch_needs_one_interrupt(make: Make, kind: Kind) -> None:
    disk = make(kind)
    disk.read(0, SECTORS * 512)  # everything is in the page cache
    disk.driver.transport.queue_interrupts.clear()
    tokens = [
        disk.driver.submit(0, [disk.header(IN, n)], [512, 1], notify=False) for n in range(20)
    ]
    disk.driver.notify(0)
    used = disk.driver.wait_used(0, 20)
    assert {token: data[:-1] for token, _, data in used} == {
        token: numbered(20)[n * 512 : n * 512 + 512] for n, token in enumerate(tokens)
    }
    if not isinstance(disk.image, MemoryImage):
        assert disk.driver.transport.queue_interrupts == [0]


def test_guest_memory_that_was_read_into_is_logged(make: Make) -> None:
    disk = make()
    disk.host.written.clear()
    disk.driver.submit(0, [disk.header(IN)], [512, 1])
    disk.driver.wait_used(0)
    assert {512, 1} <= {size for _, size in disk.host.written}


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=["legacy-be", "modern-le"])
def test_random_requests_against_a_plain_model(make: Make, kind: Kind) -> None:
    disk = make(kind, features=CACHE | Feature.RING_INDIRECT_DESC.mask)
    model = bytearray(numbered(SECTORS))
    randoms = random.Random(1)
    for _ in range(300):
        sector = randoms.randrange(SECTORS)
        size = 512 * randoms.randint(1, min(8, SECTORS - sector))
        place = slice(sector * 512, sector * 512 + size)
        edges = sorted(randoms.sample(range(1, size), randoms.randrange(4)))
        sizes = [b - a for a, b in itertools.pairwise([0, *edges, size])]
        indirect = randoms.random() < 0.5
        if randoms.random() < 0.5:
            if randoms.random() < 0.5:
                sizes[-1] += 1
            else:
                sizes.append(1)
            answer = disk.ask([disk.header(IN, sector)], sizes, indirect=indirect)
            assert answer == (OK, bytes(model[place]))
        else:
            data = randoms.randbytes(size)
            pieces = [data[a:b] for a, b in itertools.pairwise([0, *edges, size])]
            if randoms.random() < 0.5:
                pieces.insert(0, disk.header(OUT, sector))
            else:
                pieces[0] = disk.header(OUT, sector) + pieces[0]
            assert disk.ask(pieces, [1], indirect=indirect) == (OK, b"")
            model[place] = data
    assert content(disk) == model


# Configuration space


@every_kind
def test_configuration_space_in_the_order_of_the_driver(make: Make, kind: Kind) -> None:
    disk = make(
        kind,
        physical_block_size=4096,
        min_io_size=1024,
        opt_io_size=8192,
        num_queues=3,
        max_discard_sectors=0x10000,
        max_write_zeroes_sectors=0x20000,
        discard_granularity=1 << 20,
    )
    form = "QIIHBBIBBHIBBHIIIIIB"
    size = struct.calcsize("<" + form)
    data = disk.device.config_read(0, size, modern=disk.driver.modern)
    values = struct.unpack(disk.driver.endian.struct + form, data)
    assert values == (
        SECTORS, 0, 254, 2, 16, 63, 512, 3, 0, 2, 16, 1, 0, 3, 0x10000, 1, 2048, 0x20000, 1, 1,
    )  # fmt: skip
    assert disk.device.config_read(60, 4, modern=True) == bytes(4)


def test_default_features_are_those_of_qemu(make: Make) -> None:
    bits = {2, 4, 6, 9, 10, 11, 13, 14}
    device = make().device
    assert device.device_features == sum(1 << bit for bit in bits)
    assert make(num_queues=2).device.device_features >> BlockFeature.MQ & 1
    no_cache = make(write_cache=False, config_wce=False).device.device_features
    assert not no_cache & CACHE
    assert make(write_cache=False).device.device_features & CACHE == CACHE


@every_kind
def test_a_driver_switches_the_write_cache(make: Make, kind: Kind) -> None:
    disk = make(kind)
    assert disk.driver.read_config(32, "B") == 1
    disk.driver.write_config(32, "B", 0)
    assert disk.driver.read_config(32, "B") == 0
    assert disk.write(0, bytes(512)) == OK
    if isinstance(disk.image, MemoryImage):
        assert disk.image.log == ["durable write"]
    disk.driver.setup()
    assert disk.driver.read_config(32, "B") == 1  # a reset brings it back
    assert disk.write(0, bytes(512)) == OK
    if isinstance(disk.image, MemoryImage):
        assert disk.image.log == ["durable write", "write"]


def test_other_fields_cannot_be_written(make: Make) -> None:
    disk = make()
    before = disk.device.config_read(0, 60, modern=False)
    for offset in (*range(32), *range(33, 60)):
        disk.driver.write_config(offset, "B", 0xA5)
    assert disk.device.config_read(0, 60, modern=False) == before


@pytest.mark.parametrize(
    ("features", "cached"), [(0, False), (BlockFeature.FLUSH.mask, True), (CACHE, True)]
)
def test_a_driver_that_cannot_flush_gets_no_write_cache(
    make: Make, features: int, cached: bool
) -> None:
    disk = make(features=features)
    assert disk.device.write_cache == cached
    disk.driver.write_config(32, "B", 1 - cached)
    assert disk.device.write_cache == (cached if features != CACHE else not cached)


@every_kind
def test_resize_tells_the_driver(make: Make, kind: Kind) -> None:
    disk = make(kind)
    assert disk.read(SECTORS, 512)[0] == IOERR
    disk.device.resize((SECTORS + 8) * 512)
    assert disk.driver.transport.config_interrupts == 1
    assert disk.driver.read_config(0, "Q") == SECTORS + 8
    assert disk.read(SECTORS, 512) == (OK, bytes(512))
    disk.device.resize(512)
    assert disk.read(0, 512) == (OK, numbered(1))
    assert disk.read(1, 512)[0] == IOERR
    with pytest.raises(ValueError, match="multiple of 512"):
        disk.device.resize(1000)


def test_requests_of_all_queues(make: Make) -> None:
    disk = make(num_queues=4, features=CACHE | BlockFeature.MQ.mask)
    assert len(disk.device.queues) == 4
    for queue in range(4):
        disk.driver.submit(queue, [disk.header(IN, queue)], [512, 1])
        ((_, _, data),) = disk.driver.wait_used(queue)
        assert data == numbered(queue + 1)[queue * 512 :] + b"\0"


def test_a_driver_of_the_other_order_after_a_reset(make: Make) -> None:
    disk = make(KINDS[1])
    assert disk.read(1, 512)[0] == OK
    disk.driver = MockDriver(disk.device, GuestEndian.BIG, CACHE)
    disk.driver.setup()
    assert disk.driver.read_config(0, "Q") == SECTORS
    assert disk.read(2, 512) == (OK, numbered(3)[1024:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_queues": 0}, "num-queues property must be larger than 0"),
        ({"queue_size": 100}, "must be a power of 2"),
        ({"queue_size": 2048}, "must be a power of 2"),
        ({"queue_size": 2}, "must be > 2"),
        ({"logical_block_size": 1000}, "power of 2 between 512"),
        ({"physical_block_size": 256}, "power of 2 between 512"),
        ({"logical_block_size": 4096, "physical_block_size": 512}, "not supported"),
        ({"min_io_size": 100}, "multiple of logical_block_size"),
        ({"discard_granularity": 100}, "multiple of logical_block_size"),
        ({"max_discard_sectors": 0}, "max-discard-sectors"),
        ({"max_write_zeroes_sectors": 1 << 23}, "max-write-zeroes-sectors"),
    ],
)
def test_impossible_properties(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BlockOptions(**options)  # type: ignore[arg-type]
