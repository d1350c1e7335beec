"""The stub's packets, by a client of our own: what each does and how it is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from emu.cpu.isa import MSR_LE, MSR_ME, MSR_SF
from emu.events import RunState
from emu.gdb.registers import REGISTERS
from emu.machine import Machine
from tests.support import asm
from tests.support.gdb_client import GdbClient
from tests.support.gdb_guest import COUNT, ENTRY, client_of, gdb_guest

NUMBER = {register.name: index for index, register in enumerate(REGISTERS)}
PC, MSR, R5 = NUMBER["pc"], NUMBER["msr"], NUMBER["r5"]
STOPPED = b"T05thread:1;"
DATA = 0x10000


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A guest that counts in r5; it has not started."""
    with gdb_guest(tmp_path) as guest:
        yield guest


@pytest.fixture
def client(machine: Machine) -> Iterator[GdbClient]:
    """Connected to it."""
    with client_of(machine) as connection:
        yield connection


def features(client: GdbClient, *, step: int = 0x1000) -> bytes:
    """The target description, in pieces."""
    text, last = b"", False
    while not last:
        reply = client.ask(f"qXfer:features:read:target.xml:{len(text):x},{step:x}")
        assert reply[:1] in (b"m", b"l")
        last = reply[:1] == b"l"
        text += reply[1:]
    return text


def test_what_is_supported(client: GdbClient) -> None:
    words = client.ask("qSupported:multiprocess+;swbreak+;hwbreak+").split(b";")
    wanted = {b"qXfer:features:read+", b"QStartNoAckMode+", b"vContSupported+", b"swbreak+"}
    assert wanted <= set(words)
    assert int(words[0].removeprefix(b"PacketSize="), 16) >= 0x4000
    assert client.ask("vCont?") == b"vCont;c;C;s;S"
    assert client.ask("qAttached") == b"1"
    assert client.ask("vMustReplyEmpty") == b""
    for unknown in ("", "!", "qCRC:0,1", "qSupportedX", "QNonStop:1", "vFlashDone", "x", "\x7f"):
        assert client.ask(unknown) == b"", unknown


def test_reverse_execution_is_refused(client: GdbClient) -> None:
    for packet in ("bs", "bc"):
        assert client.ask(packet) == b"E.reverse execution is not supported"


def test_acknowledgements_and_the_mode_without(client: GdbClient) -> None:
    client.put(b"qC")
    assert client.sign() == b"+"
    assert client.reply() == b"QC1"
    assert client.ask("QStartNoAckMode") == b"OK"
    client.acknowledge = False
    client.put(b"qC")
    assert client.sign() == b"$"


def test_a_wrong_checksum_is_not_acknowledged(client: GdbClient) -> None:
    client.send(b"$qC#00")
    assert client.sign() == b"-"
    assert client.ask("qC") == b"QC1"


def test_a_reply_is_repeated_on_request(client: GdbClient) -> None:
    client.acknowledge = False
    assert client.ask("qC") == b"QC1"
    client.send(b"-")
    assert client.reply() == b"QC1"


def test_the_description_is_what_the_registers_are(client: GdbClient) -> None:
    document = features(client, step=100)
    assert document == features(client)
    tree = ElementTree.fromstring(document.decode())
    assert tree.findtext("architecture") == "powerpc:common64"
    described = [reg for feature in tree.iter("feature") for reg in feature.iter("reg")]
    size = sum(int(reg.get("bitsize", "0")) for reg in described) // 8
    assert len(client.ask("g")) == 2 * size
    assert [reg.get("name") for reg in described] == [register.name for register in REGISTERS]
    for feature, first, count in (("core", "r0", 38), ("fpu", "f0", 33), ("altivec", "vr0", 34)):
        found = tree.find(f"./feature[@name='org.gnu.gdb.power.{feature}']")
        assert found is not None
        names = [reg.get("name") for reg in found.iter("reg")]
        assert (names[0], len(names)) == (first, count)
    assert client.ask("qXfer:features:read:other.xml:0,100") == b"E00"
    assert client.ask("qXfer:features:read:target.xml:fffffff,100") == b"l"


def test_registers_are_read_and_written(client: GdbClient) -> None:
    assert client.register(PC) == ENTRY
    assert client.register(MSR) == MSR_SF | MSR_ME
    assert client.register(NUMBER["pvr"]) == 0x004D0200
    values = {
        "r0": "0123456789abcdef",
        "r31": "ffffffffffffffff",
        "cr": "12345678",
        "lr": "c000000000000000",
        "ctr": "0000000000000005",
        "xer": "e0000000",
        "f3": "4000000000000000",
        "vs3h": "1111111122222222",
        "vr7": "00112233445566778899aabbccddeeff",
        "fpscr": "0000000000000003",
        "vscr": "00010000",
        "vrsave": "00000007",
        "srr0": "0000000000001234",
        "sprg3": "fedcba9876543210",
        "dec": "ffffffffffffff00",
        "tb": "0000001000000000",
        "pc": "0000000000000200",
    }
    for name, value in values.items():
        assert client.ask(f"P{NUMBER[name]:x}={value}") == b"OK", name
    for name, value in values.items():
        assert client.ask(f"p{NUMBER[name]:x}") == value.encode(), name


def test_all_registers_at_once(client: GdbClient) -> None:
    before = client.ask("g")
    start = 2 * sum(register.size for register in REGISTERS[:R5])
    changed = before[:start] + b"00000000deadbeef" + before[start + 16 :]
    assert client.ask(b"G" + changed) == b"OK"
    assert client.register(R5) == 0xDEADBEEF
    assert client.ask("g") == changed


def test_registers_follow_the_byte_order_of_the_guest(client: GdbClient) -> None:
    assert client.ask(f"P{R5:x}=0102030405060708") == b"OK"
    assert client.ask(f"P{MSR:x}={MSR_SF | MSR_ME | MSR_LE:016x}") == b"OK"
    assert client.ask(f"p{R5:x}") == b"0807060504030201"
    assert client.ask(f"P{R5:x}=1100000000000000") == b"OK"
    assert client.ask(f"P{NUMBER['vr1']:x}=01" + "00" * 15) == b"OK"
    assert client.ask(f"p{MSR:x}") == struct.pack("<Q", MSR_SF | MSR_ME | MSR_LE).hex().encode()
    assert client.ask(f"P{MSR:x}={struct.pack('<Q', MSR_SF | MSR_ME).hex()}") == b"OK"
    assert client.register(R5) == 0x11
    assert client.ask(f"p{NUMBER['vr1']:x}") == b"00" * 15 + b"01"


@pytest.mark.parametrize(
    "packet",
    [
        *("p", "p-1", "pffff", "p10000000000000000", "p0x1", "p 1", "p1_0"),
        *("P0", "P0=", "P0=12", "P0=zz", "Pffff=00", "P=0", "G", "G00", "Gxyz"),
        f"P{NUMBER['pvr']:x}=0000000000000000",
        *(
            "m",
            "m0",
            "m0,",
            "m,1",
            "m0,1,1",
            "mxyz,1",
            "m-1,1",
            "M0,1",
            "M0,1:",
            "M0,2:00",
            "M0,1:0",
        ),
        *(
            "X0,1:",
            "X0,2:a",
            "X0,1:}",
            "Z",
            "Z0",
            "Z0,100",
            "Z0,102,4",
            "Z9,100,4",
            "Z0,100,4;X1,0",
        ),
        *(
            "Z2,100,0",
            "Z2,ffffffffffffffff,2",
            "z9,0,4",
            "H",
            "Hg",
            "Hx1",
            "Hg99",
            "T",
            "T99",
            "T-5",
        ),
        *(
            "vCont;",
            "vCont;x",
            "vCont;c:99",
            "vCont;s:",
            "vCont;C",
            "vCont;Czz",
            "vCont;t",
            "C",
            "Czz",
        ),
        *("cxyz", "sxyz", "qXfer:features:read:target.xml:", "qXfer:features:read:target.xml:0"),
        *("qThreadExtraInfo,99", "qRcmd,zz", "qRcmd,1", "Qqemu.sstep=0", "Qqemu.PhyMemMode:x"),
    ],
)
def test_nonsense_is_an_error(client: GdbClient, packet: str) -> None:
    assert client.ask(packet) == b"E22"
    assert client.register(PC) == ENTRY


def test_memory(client: GdbClient) -> None:
    assert client.ask(f"m{ENTRY:x},8") == asm.assemble(COUNT).hex().encode()
    assert client.ask(f"M{DATA:x},4:01020304") == b"OK"
    assert client.ask(f"X{DATA + 4:x},4:".encode() + b"}\x03}\x04}]*") == b"OK"
    assert client.ask(f"X{DATA:x},0:") == b"OK"
    assert client.ask(f"m{DATA:x},8") == b"01020304" + b"#$}*".hex().encode()
    assert client.ask(f"m{DATA:x},0") == b""


def test_memory_across_pages_and_in_large_pieces(client: GdbClient) -> None:
    data = bytes(range(256)) * 8
    assert client.ask(f"M{DATA + 0xF00:x},{len(data):x}:{data.hex()}") == b"OK"
    assert client.ask(f"m{DATA + 0xF00:x},{len(data):x}") == data.hex().encode()
    assert len(client.ask("m0,ffffffff")) == 0x4000


def test_memory_that_is_not_there(client: GdbClient) -> None:
    top = 256 << 20
    assert client.ask(f"m{top:x},4") == b"E14"
    assert client.ask(f"m{top - 2:x},4") == b"0000"  # as far as it goes
    assert client.ask(f"M{top - 2:x},4:01020304") == b"E14"
    assert client.ask(f"m{top - 2:x},2") == b"0000"
    assert client.ask("mffffffffffffffff,ff") == b"E14"
    assert client.ask("m20080000000,4") == b"E14"  # a device


def test_physical_memory(client: GdbClient, machine: Machine) -> None:
    """Behind the guest's translation: an effective address that is not mapped."""
    assert client.ask("qqemu.PhyMemMode") == b"0"
    relocated = MSR_SF | MSR_ME | 0x30
    assert client.ask(f"P{MSR:x}={relocated:016x}") == b"OK"
    assert client.ask(f"m{ENTRY:x},4") == b"E14"
    assert client.ask("Qqemu.PhyMemMode:1") == b"OK"
    assert client.ask("qqemu.PhyMemMode") == b"1"
    assert client.ask(f"m{ENTRY:x},4") == asm.assemble(COUNT)[:4].hex().encode()
    assert client.ask("m100000000,4") == b"E14"
    assert client.ask("Qqemu.PhyMemMode:0") == b"OK"
    assert client.ask(f"m{ENTRY:x},4") == b"E14"


def test_step(client: GdbClient) -> None:
    for packet in ("s", "vCont;s", "vCont;s:1", "vCont;s:p1.1;c", "S05", "vCont;S05:1"):
        client.ask(f"P{PC:x}={ENTRY:016x}")
        assert client.ask(packet) == STOPPED, packet
        assert client.register(PC) == ENTRY + 4
    assert client.register(R5) == 6
    assert client.ask(f"s{ENTRY:x}") == STOPPED
    assert client.register(R5) == 7


@pytest.mark.parametrize("packet", ["c", "C05", "vCont;c", "vCont;c:1", "vCont;C05:-1"])
def test_continue_and_interrupt(client: GdbClient, machine: Machine, packet: str) -> None:
    client.put(packet.encode())
    assert client.sign() == b"+"
    while not machine.board.vcpus[0].gpr(5):
        pass
    assert client.interrupt() == b"T02thread:1;"
    assert machine.state.state is RunState.PAUSED
    assert client.register(R5) > 0


def test_an_interrupt_right_behind_a_continue(client: GdbClient) -> None:
    """Whether or not the guest has begun to run, there is exactly one reply."""
    for _ in range(50):
        client.send(b"$c#63\x03")
        assert client.reply() == b"T02thread:1;"
        assert client.ask("qC") == b"QC1"


def test_a_packet_while_the_guest_runs_stops_it(client: GdbClient, machine: Machine) -> None:
    client.put(b"c")
    machine.state.wait_for(RunState.RUNNING, timeout=10)
    assert client.ask("qC") == b"T02thread:1;"
    assert client.reply() == b"QC1"
    assert machine.state.state is RunState.PAUSED
    for _ in range(20):
        client.put(b"c")
        assert client.ask("?") == b"T02thread:1;"
        assert client.reply() == b"T02thread:1;"


def test_a_stop_is_told_once(client: GdbClient, machine: Machine) -> None:
    """A second continue stops the guest, and lets it run: the old stop is not the new one's."""
    vcpu = machine.board.vcpus[0]
    for _ in range(20):
        client.put(b"c")
        before = vcpu.gpr(5)
        while vcpu.gpr(5) == before:
            pass
        assert client.ask("c") == b"T02thread:1;"
        before = vcpu.gpr(5)
        while vcpu.gpr(5) == before:
            pass
        machine.on_vcpu(lambda: None)
        assert client.pending() == b""
        assert client.interrupt() == b"T02thread:1;"


def test_software_breakpoint(client: GdbClient, machine: Machine) -> None:
    client.ask("qSupported:swbreak+;hwbreak+")
    assert client.ask(f"Z0,{ENTRY + 4:x},4") == b"OK"
    assert client.ask("c") == b"T05thread:1;swbreak:;"
    assert machine.state.state is RunState.DEBUG
    assert client.ask("?") == b"T05thread:1;swbreak:;"
    assert (client.register(PC), client.register(R5)) == (ENTRY + 4, 1)
    assert client.ask(f"m{ENTRY + 4:x},4") == asm.assemble(COUNT)[4:].hex().encode()
    assert client.ask("s") == STOPPED
    assert client.ask("c") == b"T05thread:1;swbreak:;"
    assert client.register(R5) == 2
    assert client.ask(f"z0,{ENTRY + 4:x},4") == b"OK"
    client.put(b"c")
    assert client.interrupt() == b"T02thread:1;"


def test_hardware_breakpoint(client: GdbClient) -> None:
    assert client.ask(f"Z1,{ENTRY + 4:x},4") == b"OK"
    assert client.ask("c") == STOPPED  # the client does not know hwbreak
    client.ask("qSupported:swbreak+;hwbreak+")
    assert client.ask("s") == STOPPED
    assert client.ask("c") == b"T05thread:1;hwbreak:;"


def test_setting_twice_and_removing_what_is_not_there(client: GdbClient) -> None:
    for _ in range(2):
        assert client.ask(f"Z0,{ENTRY + 4:x},4") == b"OK"
    for _ in range(2):
        assert client.ask(f"z0,{ENTRY + 4:x},4") == b"OK"
    client.put(b"c")
    assert client.interrupt() == b"T02thread:1;"


def test_there_is_a_limit_of_breakpoints(client: GdbClient) -> None:
    client.ask("QStartNoAckMode")
    client.acknowledge = False
    replies = {client.ask(f"Z0,{address:x},4") for address in range(0x8000, 0x8000 + 4 * 1024, 4)}
    assert replies == {b"OK"}
    assert client.ask("Z1,100,4") == b"E22"
    replies = {client.ask(f"Z2,{address:x},1") for address in range(64)}
    assert replies == {b"OK"}
    assert client.ask("Z2,100,1") == b"E22"


@pytest.mark.parametrize(
    ("kind", "name", "code", "other"),
    [
        (2, b"watch", asm.stw(5, 3, 4), asm.lwz(6, 3, 4)),
        (3, b"rwatch", asm.lwz(6, 3, 4), asm.stw(5, 3, 4)),
        (4, b"awatch", asm.lwz(6, 3, 4), asm.NOP),
        (4, b"awatch", asm.stw(5, 3, 4), asm.NOP),
    ],
)
def test_watchpoints(tmp_path: Path, kind: int, name: bytes, code: int, other: int) -> None:
    loop = [asm.li(3, 0x4000), asm.addi(5, 5, 1), other, code, asm.b(-12)]
    with gdb_guest(tmp_path, *loop) as machine, client_of(machine) as client:
        assert client.ask(f"Z{kind},4004,4") == b"OK"
        for count in (1, 2):
            assert client.ask("c") == b"T05thread:1;%b:4004;" % name
            assert (client.register(PC), client.register(R5)) == (ENTRY + 12, count)
            assert client.ask(f"z{kind},4004,4") == b"OK"
            assert client.ask("s") == STOPPED
            assert client.register(PC) == ENTRY + 16
            assert client.ask(f"Z{kind},4004,4") == b"OK"


def test_a_step_onto_a_watched_access_tells_of_it(tmp_path: Path) -> None:
    code = [asm.li(3, 0x4000), asm.stw(5, 3), asm.b(0)]
    with gdb_guest(tmp_path, *code) as machine, client_of(machine) as client:
        client.ask("Z2,4000,4")
        assert client.ask("s") == STOPPED
        assert client.ask("s") == b"T05thread:1;watch:4000;"
        assert client.register(PC) == ENTRY + 4


def test_steps_with_and_without_interrupts(client: GdbClient) -> None:
    assert client.ask("qqemu.sstepbits") == b"ENABLE=1,NOIRQ=2,NOTIMER=4"
    assert client.ask("qqemu.sstep") == b"0x7"
    assert client.ask("Qqemu.sstep=5") == b"OK"
    assert client.ask("qqemu.sstep") == b"0x5"
    assert client.ask("qqemu.sstep=0x7") == b"OK"
    assert client.ask("qqemu.sstep") == b"0x7"


def test_the_clock_stands_still_in_a_step(client: GdbClient) -> None:
    client.ask(f"P{NUMBER['tb']:x}=0000000000001000")
    assert client.ask("s") == STOPPED
    assert client.register(NUMBER["tb"]) == 0x1000


def test_threads(client: GdbClient) -> None:
    assert client.ask("qfThreadInfo") == b"m1"
    assert client.ask("qsThreadInfo") == b"l"
    assert client.ask("qC") == b"QC1"
    for packet in ("T1", "Tp1.1", "Hg0", "Hg1", "Hgp1.1", "Hc-1", "Hc0", "Hc1"):
        assert client.ask(packet) == b"OK", packet
    assert bytes.fromhex(client.ask("qThreadExtraInfo,1").decode()) == b"CPU#0 [running]"


def monitor(client: GdbClient, line: str) -> str:
    """A command of the human monitor."""
    text, reply = b"", client.ask("qRcmd," + line.encode().hex())
    while reply.startswith(b"O") and reply != b"OK":
        text += bytes.fromhex(reply[1:].decode())
        reply = client.reply()
    assert reply == b"OK"
    return text.decode()


def test_monitor_commands(client: GdbClient) -> None:
    assert monitor(client, "info status") == "VM status: paused (prelaunch)\n"
    assert "NIP 0000000000000100" in monitor(client, "info registers")
    assert "unknown command" in monitor(client, "frobnicate")
    assert monitor(client, "") == ""


def test_registers_of_a_sleeping_cpu_and_a_jump(tmp_path: Path) -> None:
    cede = [asm.li(3, 0xE0), asm.EXIT, asm.b(-8), asm.li(7, 1), asm.b(0)]
    with gdb_guest(tmp_path, *cede) as machine, client_of(machine) as client:
        client.put(b"c")
        while not machine.board.vcpus[0].record["halted"]:
            pass
        assert client.interrupt() == b"T02thread:1;"
        assert client.register(PC) == ENTRY + 8
        assert bytes.fromhex(client.ask("qThreadExtraInfo,1").decode()) == b"CPU#0 [halted]"
        client.put(f"c{ENTRY + 12:x}".encode())
        client.sign()
        machine.state.wait_for(RunState.RUNNING, timeout=10)
        while not machine.on_vcpu(lambda: machine.board.vcpus[0].gpr(7)):
            pass
        client.interrupt()
