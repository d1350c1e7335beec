"""The pytest plugin's machines: fixtures, markers, console, reports."""

from __future__ import annotations

import pytest

import emu.migration.source
import emu.options
import emu.pytest_plugin.factory  # noqa: F401 - pytester forgets what a run inside imports
from emu.chardev.config import ConfigError
from emu.pytest_plugin.recipe import option_words, recipe
from tests.unit.plugin_tools import MARKED, OPTIONS, echo, run, write_program
from tests.unit.virtmmio_tools import leave, put, store

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(120)

STATUS_OF_SLOT_0 = 0x80_0000_1070  # docs/virtmmio.md; virtio 1.2, 4.2.2


def test_a_run_without_machines_does_not_import_the_emulator(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("ppc64emu")
            ours = {name for name in sys.modules if name.partition(".")[0] == "emu"}
            assert ours == {"emu", "emu.native_cache", "emu.pytest_plugin",
                            "emu.pytest_plugin.report"}
            assert not {"numba", "numpy", "unicorn"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_machine_is_configured_by_marker_and_talks(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        r"""
        def test_it(machine):
            assert machine.console.expect("ready").before == ""
            machine.console.sendline("x=17 y=-4")
            found = machine.console.expect(r"x=(\d+) y=(?P<y>\S+)\n")
            assert (found[1], found["y"], found.text) == ("17", "-4", "x=17 y=-4\n")
            machine.console.send("q")
            assert machine.wait() == 5
            assert machine.console.text.startswith("ready\nx=17")
        """,
    )
    result.assert_outcomes(passed=1)


def test_expect_fails_with_the_tail_and_the_report_shows_the_console(
    pytester: pytest.Pytester,
) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        r"""
        def test_it(machine):
            machine.console.expect("ready")
            machine.console.send("abc")
            machine.console.expect("never", timeout=0.2)
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *ExpectError: serial0: no match for 'never' within 0.2 s; the guest is running;*",
            "E *  | ready",
            "E *  | abc",
            "*machine, console serial0, the last lines; the guest is running*",
            "ready",
            "abc",
        ]
    )
    result.stdout.no_fnmatch_line("*def expect*")


def test_expect_does_not_wait_for_a_guest_that_has_ended(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        r"""
        import time

        def test_it(machine):
            machine.console.expect("ready")
            machine.console.send("q")
            start = time.monotonic()
            with pytest.raises(AssertionError, match="before the guest ended; the guest has ended"):
                machine.console.expect("never", timeout=100)
            assert time.monotonic() - start < 50
        """,
    )
    result.assert_outcomes(passed=1)


def test_output_before_the_end_is_found_after_it(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine):
            machine.console.send("last words q")
            machine.wait()
            machine.console.expect_exact("last words")
        """,
    )
    result.assert_outcomes(passed=1)


def test_machines_are_closed_after_the_test_and_shown_no_more(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        f"""
        made = []

        def test_two(machine_factory):
            made.append(machine_factory(*{OPTIONS!r}, name="first"))
            made.append(machine_factory(*{OPTIONS!r}, start=False))
            assert made[1].state.value == "prelaunch"
            assert not any(machine.closed for machine in made)

        def test_later():
            assert [machine.closed for machine in made] == [True, True]
            assert [machine.name for machine in made] == ["first", "machine 2"]
            assert made[0].emulator._thread.is_alive() is False
            assert False
        """,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*console serial0*")


def test_markers_add_up_and_a_configuration_stands_alone(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        """
        from emu.config import MachineConfig

        @pytest.mark.ppc64emu("-cpu", "power9", m=32, S=True)
        def test_options(machine):
            config = machine.config
            assert (config.cpu, config.ram_size, config.start_paused) == ("power9", 32 << 20, True)
            assert machine.state.value in ("prelaunch", "paused")

        @pytest.mark.ppc64emu(MachineConfig(
            machine="virtmmio", ram_size=64 << 20, bios="image.bin", cpu="power9"))
        def test_configuration(machine):
            machine.console.expect("ready")
            assert machine.config.ram_size == 64 << 20
        """,
    )
    result.assert_outcomes(passed=2)


def test_matrix_gives_each_cell_its_cpu_and_byte_order(pytester: pytest.Pytester) -> None:
    for order in ("be", "le"):
        write_program(pytester.path, echo(), name=f"image-{order}.bin")
    result = run(
        pytester,
        """
        import pytest

        pytestmark = pytest.mark.ppc64emu_matrix(
            cpus=["power8", "power9"], endians=["be", "little"])

        @pytest.mark.ppc64emu("-M", "virtmmio", m=16, bios="image-{endian}.bin")
        def test_marked(machine, guest_cpu, guest_endian):
            assert machine.config.cpu == guest_cpu
            assert machine.config.bios == f"image-{guest_endian}.bin"
            assert guest_endian in ("be", "le")

        def test_made(machine_factory, guest_cpu):
            machine = machine_factory(M="virtmmio", m=16, bios="image-{endian}.bin")
            assert machine.config.cpu == guest_cpu
        """,
        options=("-v",),
    )
    result.assert_outcomes(passed=8)
    cells = [f"{cpu}-{order}" for cpu in ("power8", "power9") for order in ("be", "le")]
    for cell in cells:
        result.stdout.fnmatch_lines([f"*test_marked*{cell}* PASSED*"])


def test_machine_without_a_matrix_keeps_its_words(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        """
        def test_it(machine_factory, guest_cpu, guest_endian):
            assert guest_cpu is guest_endian is None
            machine = machine_factory("-name", "{cpu}-{endian}", *%OPTIONS%)
            assert machine.config.name == "{cpu}-{endian}"
        """.replace("%OPTIONS%", repr(OPTIONS)),
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("ppc64emu_matrix(endians=['middle'])", "unknown byte order 'middle'"),
        ("ppc64emu_matrix(cpu=['power8'])", "takes cpus="),
        ("ppc64emu_matrix()", "takes cpus="),
    ],
)
def test_mistakes_in_the_matrix_are_told_when_tests_are_collected(
    pytester: pytest.Pytester, marker: str, message: str
) -> None:
    result = run(
        pytester,
        f"""
        import pytest

        @pytest.mark.{marker}
        def test_it(machine):
            pass
        """,
    )
    assert result.ret != 0
    assert message in result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str()


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ("ppc64emu('-cpu', 'z80', bios='image.bin')", "-cpu z80: unable to find CPU model 'z80'*"),
        ("ppc64emu(bios='absent.bin')", "-bios absent.bin: could not open 'absent.bin': *"),
        ("ppc64emu('-M', 'virtmmio')", "nothing to boot: give kernel=FILE or bios=FILE"),
        ("ppc64emu('-help')", "a test cannot ask for help:*"),
        ("ppc64emu(bios=1.5)", "1.5 is no option: *"),
        ("ppc64emu('-monitor', 'stdio', S=True)", "a monitor cannot be on stdio: *"),
        ("skipif(False, reason='')", "the machine fixture needs @pytest.mark.ppc64emu(OPTIONS)"),
    ],
)
def test_mistakes_in_options_are_one_line(
    pytester: pytest.Pytester, marks: str, message: str
) -> None:
    result = run(
        pytester,
        f"""
        import pytest

        @pytest.mark.{marks}
        def test_it(machine):
            pass
        """,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*test_it: {message}"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("E  *")


def test_mistakes_in_a_factorys_options_can_be_tested(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        from emu.config import ConfigError

        def test_it(machine_factory):
            with pytest.raises(ConfigError, match="unable to find CPU"):
                machine_factory("-cpu", "z80", bios="image.bin")
        """,
    )
    result.assert_outcomes(passed=1)


def test_results_of_an_image_are_checked(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, put("PASS: a\n1..1\nok 1 - b\n"), leave(0), name="good.bin")
    write_program(pytester.path, put("PASS: a\nFAIL: b\n"), leave(0), name="bad.bin")
    write_program(pytester.path, put("hello\n"), leave(0), name="silent.bin")
    write_program(pytester.path, put("PASS: a\n"), leave(9), name="status.bin")
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.parametrize(("name", "message"), [
            ("bad", "failed: b"),
            ("silent", "no result lines"),
            ("status", "exit status 9"),
        ])
        def test_bad(machine_factory, name, message):
            machine = machine_factory(M="virtmmio", m=16, bios=name + ".bin")
            with pytest.raises(AssertionError, match=message):
                machine.check_results()

        def test_good(machine_factory):
            machine = machine_factory(M="virtmmio", m=16, bios="good.bin")
            assert [result.name for result in machine.check_results()] == ["a", "b"]
        """,
    )
    result.assert_outcomes(passed=4)


def test_wait_that_is_too_short_fails_with_the_console(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine):
            machine.console.expect("ready")
            machine.wait(0.1)
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *GuestTimeout: machine: the guest still runs after 0.1 s"])
    result.stdout.fnmatch_lines(["*console serial0*", "ready"])


def test_fault_of_the_emulator_fails_a_test_that_does_not_look(pytester: pytest.Pytester) -> None:
    write_program(pytester.path, echo())
    result = run(
        pytester,
        MARKED,
        """
        def test_it(machine):
            machine.console.expect("ready")

            def fault():
                raise RuntimeError("broken inside")

            machine.emulator.post(fault)
            machine.emulator.wait()
        """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *GuestFailure: internal error of the emulator: *broken inside"])


def test_log_of_a_machine_is_in_the_report_and_ends_with_the_test(
    pytester: pytest.Pytester,
) -> None:
    write_program(pytester.path, store(STATUS_OF_SLOT_0, 0x01000000), leave(0))
    result = run(
        pytester,
        MARKED,
        """
        from emu.log import enabled_items

        @pytest.mark.ppc64emu("-d", "virtio,in_asm", device="virtio-rng-device")
        def test_it(machine):
            machine.wait()
            machine.close()
            assert enabled_items() == {"virtio", "in_asm"}
            assert False

        def test_later():
            assert not enabled_items()

        @pytest.mark.ppc64emu("-D", "log.txt")
        def test_file(machine):
            pass
        """,
    )
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*Captured log*",
            "*: status 0x1 features*",
            "*2000: *lis r10*",
            "*-D: the log of a test is *",
        ]
    )


def test_keywords_are_options() -> None:
    words = option_words(
        ("-cpu", "power9"), {"m": 512, "no_reboot": True, "S": False, "device": ["a", "b"]}
    )
    assert words == ["-cpu", "power9", "-m", "512", "-no-reboot", "-device", "a", "-device", "b"]


def test_consoles_on_the_terminal_are_kept_in_memory() -> None:
    for words in ((), ("-nographic",), ("-serial", "stdio"), ("-serial", "mon:stdio")):
        config = recipe(*words).build()
        assert [type(chardev).__name__ for chardev in config.serial] == ["MemoryConfig"], words
    shared = recipe("-chardev", "stdio,id=c", "-serial", "chardev:c").build()
    assert shared.serial[0] is shared.chardevs["c"]
    assert type(shared.serial[0]).__name__ == "MemoryConfig"
    assert recipe("-serial", "none").build().serial == ()


def test_configuration_with_options_is_refused() -> None:
    from emu.config import MachineConfig

    with pytest.raises(ConfigError, match="alone"):
        recipe(MachineConfig(), "-S")
