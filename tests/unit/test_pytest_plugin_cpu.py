"""The pytest plugin's view of the CPU: memory, registers, breakpoints."""

from __future__ import annotations

import pytest

import emu.options
import emu.pytest_plugin.debugger
import emu.pytest_plugin.factory  # noqa: F401 - pytester forgets what a run inside imports
from tests.unit.plugin_tools import MARKED, count, echo, run, write_program

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(120)


def test_memory_in_both_byte_orders(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, count(0x8000))
    result = run(
        pytester,
        MARKED,
        """
        from emu.pytest_plugin.memory import AddressError

        def test_it(machine):
            machine.console.expect("go")
            memory = machine.memory
            memory.write(0x9000, bytes(range(1, 9)))
            assert memory.read(0x9000, 4) == bytes((1, 2, 3, 4))
            assert memory.read_int(0x9000, 4, "be") == 0x01020304
            assert memory.read_int(0x9000, 4, "le") == 0x04030201
            assert memory.read_int(0x9000) == 0x0102030405060708  # the guest's order
            memory.write_int(0x9100, 0xABCD, 2, "little")
            assert memory.read(0x9100, 2) == bytes((0xCD, 0xAB))
            memory.write(0x9200, b"name" + bytes(1))
            assert memory.read_string(0x9200) == "name"
            assert memory.read_int(0x8000) <= memory.read_int(0x8000)
            for size, address in ((1, 16 << 20), (8, (16 << 20) - 4), (1, -1)):
                with pytest.raises(AddressError):
                    memory.read(address, size)
                with pytest.raises(AddressError):
                    memory.write(address, bytes(size))
            with pytest.raises(ValueError, match="order"):
                memory.read_int(0, 4, "middle")
            assert machine.virtual.translate(0x9000) == 0x9000  # real mode
            with pytest.raises(AddressError):
                machine.virtual.read(1 << 64, 1)
        """,
    )
    result.assert_outcomes(passed=1)


def test_code_written_by_a_test_is_executed(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, count(0x8000))
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine):
            machine.console.expect("go")
            at = machine.registers["nip"] & ~0xFF
            code = machine.memory.read(at, 0x100)
            where = at + code.index(bytes.fromhex("38630001"))  # addi r3, r3, 1
            machine.memory.write(where, bytes.fromhex("38600777"))  # li r3, 0x777
            while machine.memory.read_int(0x8000) != 0x777:
                pass
        """,
    )
    result.assert_outcomes(passed=1)


def test_registers_by_name(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, count(0x8000, marker=0xFEDC_BA98_7654_3210))
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine):
            machine.console.expect("go")
            machine.stop()
            registers = machine.registers
            assert registers["r4"] == registers["GPR4"] == 0xFEDC_BA98_7654_3210
            assert registers["msr"] >> 63 == 1
            assert 0x2000 <= registers["nip"] == registers["pc"] < 0x3000
            for name, value in {
                "r31": 7, "f3": 5, "v2": 1 << 127, "vs2": 3, "cr": 0x12345678, "cr7": 4,
                "lr": 0x100, "srr0": 0x200, "SPRG1": 9, "dec": (1 << 64) - 5,
            }.items():
                registers[name] = value
                assert registers[name] == (-5 if name == "dec" else value), name
            assert registers["cr"] == 0x12345674
            assert registers["vs34"] == 1 << 127
            assert registers["vs3"] >> 64 == 5
            assert registers["r4"] == 0xFEDC_BA98_7654_3210
            registers["r4"] = -1
            assert registers["r4"] == (1 << 64) - 1
            for name in ("r32", "cr8", "spr", "vs64"):
                with pytest.raises(KeyError, match="no register"):
                    registers[name]
            with pytest.raises(ValueError, match="32 bits"):
                registers["cr"] = 1 << 32
            with pytest.raises(LookupError, match="has 1"):
                machine.registers_of(1)["r3"]
            before = registers["r3"]
            machine.cont()
            registers["r3"] = before + (1 << 40)
            assert registers["r3"] > before + (1 << 40) - 1
            assert "srr1" in registers and len(dict(registers)) == len(registers)
        """,
    )
    result.assert_outcomes(passed=1)


def test_state_is_there_after_the_end(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo(status=0))
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine):
            machine.console.send("q")
            assert machine.wait() == 0
            assert machine.registers["r13"] == ord("q")
            assert machine.memory.read(0x100, 1) == bytes([0x48])
            machine.close()
            with pytest.raises(LookupError, match="closed"):
                machine.registers["r13"]
        """,
    )
    result.assert_outcomes(passed=1)


def test_breakpoints_watchpoints_and_steps(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, count(0x8000))
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine):
            machine.console.expect("go")
            debugger = machine.debugger
            code = machine.memory.read(0x2000, 0x200)
            increment = 0x2000 + code.index(bytes.fromhex("38630001"))
            debugger.add_breakpoint(increment)
            counts = []
            for _ in range(3):
                stop = debugger.run()
                assert (stop.kind.name, stop.pc) == ("BREAKPOINT", increment)
                counts.append(machine.registers["r3"])
            assert counts[1:] == [counts[0] + 1, counts[0] + 2]
            assert debugger.step().pc == increment + 4
            assert machine.registers["r3"] == counts[2] + 1
            debugger.remove_breakpoint(increment)
            debugger.add_watchpoint(0x8000, 8)
            for value in (counts[2], counts[2] + 1):
                stop = debugger.run()
                assert (stop.kind.name, stop.pc, stop.hit.address) == (
                    "WATCHPOINT", increment + 4, 0x8000)
                assert machine.memory.read_int(0x8000) == value
            debugger.remove_watchpoint(0x8000, 8)
            with pytest.raises(AssertionError, match="no breakpoint was reached within"):
                debugger.run(timeout=0.2)
            debugger.release()
            assert machine.state.value == "running"
        """,
    )
    result.assert_outcomes(passed=1)


def test_breakpoint_before_the_first_instruction_and_an_end_without_one(
    pytester: pytest.Pytester,
) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        """
        @pytest.mark.ppc64emu("-S")
        def test_it(machine):
            machine.debugger.add_breakpoint(0x2000)
            assert machine.debugger.run().pc == 0x2000
            machine.console.send("q")
            with pytest.raises(AssertionError, match="no breakpoint was reached: the guest has"):
                machine.debugger.run()
        """,
    )
    result.assert_outcomes(passed=1)
