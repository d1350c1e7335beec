"""Snapshots of the pytest plugin: one boot for many tests, each from the same state."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import emu.migration.source
import emu.options
import emu.pytest_plugin.factory  # noqa: F401 - pytester forgets what a run inside imports
from emu.pytest_plugin.snapshot import copy_sparse
from tests.unit.plugin_tools import OPTIONS, REWRITE, count, run, write_program

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def program(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, count(0x8000))


MARKED = f"""
    import pytest

    pytestmark = [pytest.mark.ppc64emu(*{OPTIONS!r}, device="virtio-rng-device")]
    boots = []

    def ready(machine):
        boots.append(machine)
        machine.console.expect("go")
        machine.stop()
        machine.memory.write_int(0x9000, 0xC0FFEE)
        machine.registers["r3"] = 1 << 40
        machine.cont()
"""


def test_each_test_starts_from_the_state_of_one_boot(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        MARKED,
        """
        pytestmark.append(pytest.mark.ppc64emu_snapshot(until=ready))

        @pytest.mark.parametrize("turn", range(3))
        def test_it(machine, turn):
            assert len(boots) == 1
            assert machine is not boots[0] and boots[0].closed
            assert machine.console.text == ""  # it was printed before
            assert machine.memory.read_int(0x9000) == 0xC0FFEE
            assert machine.registers["r4"] == 0x1234
            assert machine.registers["r3"] > 1 << 40
            while (before := machine.memory.read_int(0x8000)) == 0:
                pass
            while machine.memory.read_int(0x8000) == before:
                pass  # it runs
            machine.memory.write_int(0x9000, 0)
        """,
    )
    result.assert_outcomes(passed=3)


def test_each_cell_of_the_matrix_has_a_snapshot_of_its_own(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        MARKED,
        """
        pytestmark += [
            pytest.mark.ppc64emu_snapshot(until=ready),
            pytest.mark.ppc64emu_matrix(cpus=["power8", "power9"]),
        ]

        @pytest.mark.parametrize("turn", range(2))
        def test_it(machine, guest_cpu, turn):
            assert machine.config.cpu == guest_cpu

        def test_boots(guest_cpu):
            assert sorted(machine.config.cpu for machine in boots) == ["power8", "power9"]
        """,
    )
    result.assert_outcomes(passed=6)


@pytest.mark.parametrize(("scope", "boots"), [("module", 2), ("session", 1)])
def test_snapshot_lives_as_long_as_its_scope(
    pytester: pytest.Pytester, scope: str, boots: int
) -> None:
    module = f"""
        import pytest
        from helper import count, files, ready

        @pytest.mark.ppc64emu(*{OPTIONS!r})
        @pytest.mark.ppc64emu_snapshot(until=ready, scope={scope!r})
        def test_it(machine, tmp_path_factory):
            assert len(files(tmp_path_factory)) == 1
    """
    helper = """
        count = []

        def ready(machine):
            machine.console.expect("go")
            count.append(1)

        def files(factory):
            return list(factory.getbasetemp().glob("ppc64emu-snapshots0/*"))
    """
    last = f"""
        from helper import count, files

        def test_boots(tmp_path_factory):
            assert len(count) == {boots}
            assert len(files(tmp_path_factory)) == {2 - boots}
    """
    pytester.makepyfile(helper=helper, test_1=module, test_2=module, test_3=last)
    result = pytester.runpytest_inprocess("--basetemp=base", "-W", REWRITE)
    result.assert_outcomes(passed=3)
    assert not list((pytester.path / "base").glob("ppc64emu-snapshots0"))


def test_pattern_is_awaited_and_a_boot_without_it_shows_its_console(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        MARKED,
        """
        @pytest.mark.ppc64emu_snapshot("g.\\n")
        def test_good(machine):
            pass

        @pytest.mark.ppc64emu_snapshot("never", timeout=0.3)
        def test_bad(machine):
            pass
        """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *no match for 'never' within 0.3 s; the guest is running*"])
    result.stdout.fnmatch_lines(["*machine to be saved, console serial0, the last lines*", "go"])


def test_factories_make_and_restore_snapshots(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        f"""
        import pytest

        @pytest.fixture(scope="module")
        def booted(snapshot_factory):
            return snapshot_factory(*{OPTIONS!r}, until="go")

        def test_several_at_once(booted, snapshot_factory, machine_factory):
            assert snapshot_factory(*{OPTIONS!r}, until="go") is booted
            assert booted.console == "go\\n"
            machines = [machine_factory(booted) for _ in range(3)]
            assert len({{machine.registers["r4"] for machine in machines}}) == 1
            assert [machine.state.value for machine in machines] == ["running"] * 3
        """,
    )
    result.assert_outcomes(passed=1)


def test_machine_saves_itself_and_goes_on(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine, machine_factory, tmp_path):
            machine.console.expect("go")
            snapshot = machine.save(tmp_path / "state")
            assert machine.state.value == "running"
            machine.memory.write_int(0x9000, 1)
            machine.stop()
            stopped = machine.save(tmp_path / "stopped")
            assert machine_factory(snapshot).memory.read_int(0x9000) == 0
            other = machine_factory(stopped)
            assert other.memory.read_int(0x9000) == 1
            assert other.state.value == "paused"
            assert other.registers.state().gpr == machine.registers.state().gpr
            other.cont()
        """,
    )
    result.assert_outcomes(passed=1)


def test_damaged_snapshot_is_one_clear_failure(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine, machine_factory, tmp_path):
            snapshot = machine.save(tmp_path / "state")
            snapshot.path.write_bytes(snapshot.path.read_bytes()[:5000])
            machine_factory(snapshot)
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *GuestFailure: machine 2 is not restored: the guest could not be loaded: *"]
    )


@pytest.mark.parametrize(
    "arguments", ["", "'x', scope='class'", "'x', 'y'", "until='x', seconds=3"]
)
def test_wrong_arguments_of_the_marker_are_told(pytester: pytest.Pytester, arguments: str) -> None:
    result = run(
        pytester,
        MARKED,
        f"""
        @pytest.mark.ppc64emu_snapshot({arguments})
        def test_it(machine):
            pass
        """,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it: ppc64emu_snapshot takes until=PATTERN or FUNCTION, *"])


def test_temporary_disks_cannot_be_saved(pytester: pytest.Pytester) -> None:
    (pytester.path / "disk.img").write_bytes(bytes(1 << 20))
    result = run(
        pytester,
        MARKED,
        """
        @pytest.mark.ppc64emu(
            "-drive", "file=disk.img,if=none,id=d,format=raw,snapshot=on",
            "-device", "virtio-blk-device,drive=d",
        )
        def test_it(machine, tmp_path):
            from emu.config import ConfigError

            with pytest.raises(ConfigError, match="drive 'd' has snapshot=on"):
                machine.save(tmp_path / "state")
        """,
    )
    result.assert_outcomes(passed=1)


def test_holes_of_a_disk_stay_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(8 << 20)
        file.write(b"data" * 4096)
        file.seek((64 << 20) - 5)
        file.write(b"e")
    copy_sparse(source, target)
    assert source.read_bytes() == target.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks
    with source.open("wb") as file:
        file.truncate(12345)
    copy_sparse(source, target)
    assert target.read_bytes() == bytes(12345)
    os.mkfifo(tmp_path / "pipe")
    for wrong in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="regular"):
            copy_sparse(wrong, target)
