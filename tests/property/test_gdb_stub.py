"""Whatever a client sends, the emulator lives, and the next packet is answered."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.events import RunState
from emu.gdb.packet import MAX_PACKET, Packet, PacketReader, Signal, escape, frame, unescape
from emu.machine import Machine
from tests.support import asm
from tests.support.gdb_client import GdbClient
from tests.support.gdb_guest import ENTRY, address_of, gdb_guest

REPLY = re.compile(
    rb"OK|E[0-9a-f]{2}|E\..*|T[0-9a-f]{2}thread:1;.*|[0-9a-f]*|QC1|m1|l|O[0-9a-f]+|1|"
    rb"vCont;.*|PacketSize.*|ENABLE.*|0x[0-9a-f]+|[ml]<?.*",
    re.DOTALL,
)
LETTERS = "?cCsSvDbHTgGpPmMXZzqQ!ABdeiIjJNortuwxyY"
NAMES = (
    *("vCont;", "vCont?", "vMustReplyEmpty", "qSupported:", "qXfer:features:read:target.xml:"),
    *("qfThreadInfo", "qsThreadInfo", "qC", "qAttached", "qThreadExtraInfo,", "QStartNoAckMode"),
    *("qqemu.sstep", "qqemu.sstep=", "Qqemu.sstep=", "Qqemu.PhyMemMode:", "Hg", "Hc", "Z0,", "Z2,"),
    *("z3,", "m", "M", "X", "P", "p", "G", "g", "bc", "s", "S05", "qSymbol::", "vCont;s", "D;1"),
)
TAIL = st.text("0123456789abcdef,;:=-p. xZ}*\x7f", max_size=40)
NUMBERS = st.integers(0, (1 << 64) + 5).map(lambda value: f"{value:x}")
CONTENT = st.one_of(
    st.builds(lambda letter, tail: letter + tail, st.sampled_from(LETTERS), TAIL),
    st.builds(lambda name, tail: name + tail, st.sampled_from(NAMES), TAIL),
    st.builds(lambda n, a, b: f"{n}{a},{b}", st.sampled_from(NAMES), NUMBERS, NUMBERS),
    st.builds(lambda n, a, b: f"{n}{a},{b}:{b}", st.sampled_from(NAMES), NUMBERS, NUMBERS),
)
# Commands that end the emulator or leave the session are for other tests
HARMLESS = CONTENT.filter(lambda text: text[:1] not in ("k", "D") and "vKill" not in text)
LOOP = [
    *(asm.li(3, 0x4000), asm.addi(5, 5, 1), asm.stw(5, 3), asm.lwz(6, 3), asm.li(3, 0xE0)),
    asm.b(-20),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One guest for all examples; it stores, loads, calls and loops."""
    with gdb_guest(tmp_path_factory.mktemp("gdb"), *LOOP) as guest:
        yield guest


def repair(machine: Machine) -> None:
    """The guest's state may be anything by now: make it what it was."""
    vcpu = machine.board.vcpus[0]
    vcpu.reset_state()
    vcpu.pc = ENTRY
    machine.board.partition.dma.write(ENTRY, asm.assemble(*LOOP))


def sane(machine: Machine) -> None:
    """A new client finds a working stub and a working guest."""
    with GdbClient(address_of(machine)) as client:
        assert client.ask("qC") == b"QC1"
        assert len(client.ask("g")) > 1000
        machine.on_vcpu(lambda: repair(machine))
        assert client.ask("Z0,104,4") == b"OK"
        assert client.ask("vCont;c") == b"T05thread:1;"
        assert client.ask("z0,104,4") == b"OK"
        assert client.ask("s") == b"T05thread:1;"


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_random_bytes(machine: Machine, pieces: list[bytes]) -> None:
    with GdbClient(address_of(machine)) as client, contextlib.suppress(ConnectionError):
        for piece in pieces:
            client.send(piece.replace(b"k", b"m").replace(b"K", b"m"))
    sane(machine)


@given(st.lists(HARMLESS, min_size=1, max_size=12))
def test_random_packets_are_answered_one_by_one(machine: Machine, packets: list[str]) -> None:
    """Ctrl-C behind each: one that lets the guest run gets its stop reply by that."""
    with GdbClient(address_of(machine)) as client:
        for packet in packets:
            client.put(packet.encode("latin-1").replace(b"#", b"").replace(b"$", b""))
            client.send(b"\x03")
            reply = client.reply()
            while reply.startswith(b"O") and reply != b"OK":
                reply = client.reply()
            assert REPLY.fullmatch(reply), (packet, reply)
    assert machine.state.state not in (RunState.INTERNAL_ERROR, RunState.SHUTDOWN)
    sane(machine)


@given(st.lists(HARMLESS, max_size=6), st.integers(0, 200))
def test_disconnection_anywhere(machine: Machine, packets: list[str], cut: int) -> None:
    data = b"".join(frame(packet.encode("latin-1")) for packet in packets)
    with GdbClient(address_of(machine)) as client, contextlib.suppress(ConnectionError):
        client.send(data[:cut])
    sane(machine)


def test_a_packet_that_is_too_long(machine: Machine) -> None:
    with GdbClient(address_of(machine)) as client:
        assert client.ask(b"m" + b"0" * MAX_PACKET) == b"E22"
        assert client.ask(b"X0,1:" + b"a" * (4 << 20)) == b"E22"
        assert client.ask("qC") == b"QC1"


def test_the_longest_packet_is_taken(machine: Machine) -> None:
    with GdbClient(address_of(machine)) as client:
        size = MAX_PACKET - len("X10000,3ff0:")
        data = b"X10000,%x:" % size + b"a" * size
        assert client.ask(data) == b"OK"


def test_a_packet_without_end_takes_no_memory(machine: Machine) -> None:
    with GdbClient(address_of(machine)) as client:
        client.send(b"$" + b"a" * (8 << 20))
        assert machine.gdb is not None
        assert len(machine.gdb._reader._content) <= MAX_PACKET
        client.send(b"$qC#b4")
        assert client.reply() == b"QC1"


@given(st.binary(max_size=300))
def test_escapes_are_undone(data: bytes) -> None:
    wire = escape(data)
    assert not set(wire) & set(b"#$")
    assert unescape(wire) == data


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 7))
def test_packets_survive_any_cut(contents: list[bytes], size: int) -> None:
    contents = [escape(content) for content in contents]
    stream = b"+\x03" + b"".join(frame(content) for content in contents)
    reader, found = PacketReader(), []
    for start in range(0, len(stream), size):
        found += list(reader.feed(stream[start : start + size]))
    assert found == [Signal.INTERRUPT, *(Packet(content) for content in contents)]


@given(st.binary(max_size=2000))
def test_the_reader_takes_anything(data: bytes) -> None:
    for item in PacketReader().feed(data):
        assert isinstance(item, Packet | Signal)
