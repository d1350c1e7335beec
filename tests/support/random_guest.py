"""Run random instructions; a crash of this process is an emulator bug.

``python -m tests.support.random_guest SEED BLOCKS MODEL [FIRST]`` runs ``BLOCKS`` blocks of random
words in changing modes (supervisor and user; real, hash and radix; both byte orders), after a
sweep over all SPR numbers.  Every exit of ``run()`` must be a known one.  Prints the number of
exits by reason.
"""

from __future__ import annotations

import collections
import faulthandler
import random
import sys
import threading

from emu.cpu import layout
from emu.cpu.isa import MSR_DR, MSR_IR, MSR_LE, MSR_ME, MSR_PR, MSR_SF, Spr
from emu.cpu.record import ExitReason
from emu.cpu.vcpu import Vcpu
from emu.memory.bus import MmioWindow
from tests.support import asm
from tests.support.bare import BareMachine
from tests.support.paging import (
    SHIFT_1G,
    SHIFT_16M,
    HashTable,
    Page,
    ProcessTable,
    RadixTree,
    Segment,
    set_slb,
)

RAM = 32 << 20
MMIO = 1 << 32
BLOCK = 0x100000
WORDS = 48
_PROCESS_TABLE, _TREE = 0x1800000, 0x1810000
_M64 = (1 << 64) - 1
_FACILITIES = 1 << 25 | 1 << 23 | 1 << 13  # vector, VSX, floating point


class _Device:
    """Registers that forget."""

    def mmio_read(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def mmio_write(self, offset: int, data: bytes) -> None:
        pass


def privileged_word(rng: random.Random) -> int:
    """An instruction that changes how the CPU itself works."""
    rt, rb = rng.randrange(32), rng.randrange(32)
    spr = rng.randrange(1024)
    fixed = [asm.RFID, asm.SLBIA, asm.WAIT, asm.SC, asm.SCV_0, asm.RFSCV, asm.PTESYNC, asm.ISYNC]
    fixed += [0x4C000324, 0x4C000364, 0x4C0003A4, 0x4C0003E4, 0x4C0002E4]  # doze .. rvwinkle, stop
    fixed += [0x00000200, 0x4C000224, 0x4C000064, asm.TRAP]  # attn, hrfid, rfi, trap
    return rng.choice(
        [
            asm.mtspr(spr, rt),
            asm.mtspr(spr, rt),
            asm.mfspr(rt, spr),
            asm.mtmsrd(rt, rng.randrange(2)),
            0x7C000124 | rt << 21,  # mtmsr
            asm.slbmte(rt, rb),
            asm.slbie(rb),
            asm.slbmfee(rt, rb),
            asm.slbmfev(rt, rb),
            0x7C0007A7 | rt << 21 | rb << 11,  # slbfee.
            0x7C0003E4 | rng.randrange(8) << 21,  # slbia IH
            0x7C0003A4 | rt << 21 | rb << 11,  # slbieg
            asm.tlbie(rb, rt, rng.randrange(4), rng.randrange(2), rng.randrange(2)),
            asm.tlbiel(rb, rt, rng.randrange(4), rng.randrange(2), rng.randrange(2)),
            asm.msgsndp(rb),
            0x7C00015C | rb << 11,  # msgclrp
            0x7C00019C | rb << 11,  # msgsnd
            rng.choice(fixed),
            rng.choice(fixed),
        ]
    )


def random_word(rng: random.Random) -> int:
    """An instruction word: privileged, of a crowded opcode, or anything."""
    kind = rng.random()
    if kind < 0.3:
        return privileged_word(rng)
    word = rng.getrandbits(32)
    if kind < 0.85:
        opcode = rng.choice((31, 31, 31, 19, 4, 59, 60, 63, 57, 58, 61, 62, 17))
        word = opcode << 26 | word & 0x3FFFFFF
    return word


def _value(rng: random.Random) -> int:
    """A register's content: an address that exists, or one that does not, or a number."""
    return rng.choice(
        (
            rng.randrange(RAM),
            rng.randrange(RAM) & ~15,
            RAM - rng.randrange(32),
            MMIO + rng.randrange(0x2000) - 8,
            0x28000000 | rng.getrandbits(4),  # a doorbell message
            rng.getrandbits(64),
            rng.getrandbits(64) & rng.getrandbits(64) & rng.getrandbits(64),
            rng.getrandbits(16),
            _M64 - rng.getrandbits(8),
            MSR_SF | rng.getrandbits(16),
        )
    )


class _Watchdog:
    """Kicks the vCPU out of endless loops."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._runs = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def run(self) -> ExitReason:
        """``vcpu.run()``, for at most two periods."""
        self._runs += 1
        return self._vcpu.run()

    def _watch(self) -> None:
        seen = 0
        while not self._done.wait(0.02):
            if seen == self._runs:
                self._vcpu.kick()
            seen = self._runs

    def close(self) -> None:
        """Stop watching."""
        self._done.set()
        self._thread.join()


class RandomGuest:
    """A machine that runs random blocks."""

    def __init__(self, model: str) -> None:
        self.machine = BareMachine(model, ram=RAM)
        self.machine.partition.add_mmio(MmioWindow(MMIO, 0x1000, _Device()))
        self.machine.partition.ticker.start()
        self.machine.partition.start_clock()
        self.table = HashTable(self.machine)
        self.exits: collections.Counter[str] = collections.Counter()
        self._watchdog = _Watchdog(self.machine.vcpu)

    def block(self, rng: random.Random) -> None:
        """Run one block of random words."""
        machine, vcpu = self.machine, self.machine.vcpu
        little = rng.random() < 0.5
        vcpu.reset_state()
        fill = (asm.assemble(asm.EXIT) + asm.assemble(asm.EXIT, little=True)) * 512
        for page in (0, 0x1000, 0x2000, 0x17000, BLOCK, BLOCK + 0x1000):
            machine.partition.dma.write(page, fill)
        words = [random_word(rng) for _ in range(WORDS)]
        machine.partition.dma.write(BLOCK, asm.assemble(words, little=little))
        vcpu.msr = self._mode(rng, little)
        for number in range(32):
            vcpu.set_gpr(number, _value(rng))
        for spr in (Spr.SRR0, Spr.SRR1, Spr.AMR, Spr.FSCR):
            vcpu.set_spr(spr, _value(rng))
        for place in (layout.ENV_LR, layout.ENV_CTR, layout.ENV_XER):
            vcpu._poke64(place, _value(rng))
        self._run(rng, vcpu)

    def every_spr(self) -> None:
        """Read and write all 1024 SPR numbers, privileged and not."""
        vcpu = self.machine.vcpu
        for number in range(2048):
            vcpu.reset_state()
            msr = self._mode(random.Random(f"spr {number}"), little=False)
            for code in (asm.mtspr(number >> 1, 4), asm.mfspr(5, number >> 1)):
                self.machine.load(BLOCK, code, little=False)
                vcpu.msr, vcpu.pc = msr, BLOCK
                vcpu.set_gpr(4, 0x0123456789ABCDEF)
                self.exits[self._watchdog.run().name] += 1

    def close(self) -> None:
        """Stop the machine."""
        self._watchdog.close()
        self.machine.close()

    def _mode(self, rng: random.Random, little: bool) -> int:
        msr = MSR_SF | (MSR_ME if rng.random() < 0.9 else 0) | (MSR_LE if little else 0)
        msr |= rng.getrandbits(32) & _FACILITIES | (rng.getrandbits(16) & 0x8F00)
        translation = rng.choice(("real", "hash", "radix"))
        record = self.machine.partition.record
        record["radix"] = 0
        if translation == "real":
            return msr
        if translation == "hash":
            segment = Segment(0, 0x123, SHIFT_16M)
            set_slb(self.machine.vcpu, 0, segment)
            self.table.bytes[:] = 0
            for where in range(0, RAM, 1 << SHIFT_16M):
                self.table.insert(segment, where, where, Page())
        else:
            tree = RadixTree(self.machine, _TREE)
            tree.insert(0, 0, SHIFT_1G, 0x7)
            ProcessTable(self.machine, _PROCESS_TABLE).set(0, tree)
        return msr | MSR_IR | MSR_DR | (MSR_PR if rng.random() < 0.6 else 0)

    def _run(self, rng: random.Random, vcpu: Vcpu) -> None:
        msr, pc = vcpu.msr, BLOCK
        for _ in range(2 * WORDS):
            vcpu.msr, vcpu.pc = msr, pc
            reason = self._watchdog.run()
            self.exits[reason.name] += 1
            if reason is ExitReason.CHECKSTOP or not BLOCK <= vcpu.spr(Spr.SRR0) < BLOCK + 4096:
                return
            pc = vcpu.spr(Spr.SRR0) + 4


def main(seed: int, blocks: int, model: str, first: int = 0) -> None:
    """Run the blocks ``first`` .. ``blocks`` of a seed."""
    faulthandler.enable()
    guest = RandomGuest(model)
    guest.every_spr()
    for number in range(first, blocks):
        print(number, end="\r", file=sys.stderr, flush=True)
        guest.block(random.Random(f"{seed}/{number}"))
    guest.close()
    print(*(f"{name}={count}" for name, count in sorted(guest.exits.items())))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:5]))
