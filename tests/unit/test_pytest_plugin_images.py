"""Guest images as pytest items (`--guest-image-dir`), and the plugin below pytest-xdist."""

from __future__ import annotations

from pathlib import Path

import pytest

import emu.pytest_plugin.images  # noqa: F401 - pytester forgets what a run inside imports
from tests.unit.plugin_tools import OPTIONS, REWRITE, echo, write_program
from tests.unit.virtmmio_tools import SPIN, leave, put

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(180)

DEFAULTS = '[defaults]\nmachine = "virtmmio"\nmemory = 16\ntimeout = 60\n'
OPTION = ("--guest-image-dir", "images")


@pytest.fixture
def images(pytester: pytest.Pytester) -> Path:
    """A directory with a good image and settings for images of the flat board."""
    directory = pytester.mkdir("images")
    (directory / "tests.toml").write_text(DEFAULTS)
    write_program(directory, put("PASS: one\n"), leave(0), name="good.bin")
    return directory


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in this process; each image has a process of its own."""
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", REWRITE, *arguments)


def write_failing(directory: Path) -> None:
    code = put("hello\nPASS: one\nFAIL: two: is 3\n")
    write_program(directory, code, leave(0), name="fails.bin")


def test_each_image_is_an_item(pytester: pytest.Pytester, images: Path) -> None:
    with (images / "tests.toml").open("a") as file:
        file.write('[tests.left-out]\nimage = "spare.bin"\nskip = "not today"\n')
        file.write('[tests.known]\nimage = "bad.bin"\nexpect = "fail"\n')
    write_program(images, put("SKIP: no such device\n"), leave(0), name="skips.bin")
    write_program(images, put("FAIL: a fault\n"), leave(0), name="bad.bin")
    write_program(images, put("PASS: never run\n"), leave(0), name="spare.bin")
    (images / "types.py").write_text("raise AssertionError('not Python's module')\n")
    result = run(pytester, *OPTION, "-v", "-rsx")
    result.assert_outcomes(passed=1, skipped=2, xfailed=1)
    result.stdout.fnmatch_lines_random(
        [
            "images/bad.bin::known XFAIL*",
            "images/good.bin::good.bin PASSED*",
            "images/skips.bin::skips.bin SKIPPED*",
            "images/spare.bin::left-out SKIPPED*",
            "SKIPPED *: no such device",
            "SKIPPED *: not today",
            "XFAIL images/bad.bin::known - *failed: a fault",
        ]
    )
    assert result.ret == 0


def test_failed_image_tells_its_lines_and_its_console(
    pytester: pytest.Pytester, images: Path
) -> None:
    write_failing(images)
    result = run(pytester, *OPTION)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*guest image fails.bin*",
            "failed: two: is 3",
            "  line 3: FAIL two: is 3",
            "*Captured console call*",
            "hello",
            "PASS: one",
            "FAILED images/fails.bin::fails.bin - *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_hanging_image_is_ended_and_told(pytester: pytest.Pytester, images: Path) -> None:
    with (images / "tests.toml").open("a") as file:
        file.write('[tests."hangs.bin"]\ntimeout = 2\n')
    write_program(images, put("PASS: one\n"), SPIN, name="hangs.bin")
    result = run(pytester, *OPTION)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["timeout after 2 s*", "*FAILED images/hangs.bin*"])


def test_one_image_can_be_chosen(pytester: pytest.Pytester, images: Path) -> None:
    write_failing(images)
    for name in ("images/good.bin", "images/good.bin::good.bin"):
        run(pytester, *OPTION, name).assert_outcomes(passed=1)
    run(pytester, *OPTION, "-k", "good").assert_outcomes(passed=1, deselected=1)


def test_other_tests_are_collected_only_if_they_are_named(
    pytester: pytest.Pytester, images: Path
) -> None:
    pytester.makepyfile(test_other="def test_it(): pass")
    pytester.makeini("[pytest]\ntestpaths = .\n")
    collect = ("--collect-only", "-q")
    alone = run(pytester, *OPTION, *collect)
    alone.stdout.fnmatch_lines(["images/good.bin::good.bin"])
    alone.stdout.no_fnmatch_line("*test_other*")
    for others in ("test_other.py", "."):
        both = run(pytester, *OPTION, others, *collect)
        both.stdout.fnmatch_lines_random(["images/good.bin::good.bin", "test_other.py::test_it"])
        assert both.stdout.str().count("images/good.bin") == 1
    run(pytester, *collect).stdout.no_fnmatch_line("*good.bin*")


def test_directory_outside_the_project_is_collected(
    pytester: pytest.Pytester, images: Path
) -> None:
    project = pytester.mkdir("project")
    (project / "pytest.ini").write_text("[pytest]\n")
    result = run(pytester, "-c", "project/pytest.ini", *OPTION, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["images/good.bin::good.bin PASSED*"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "ERROR: --guest-image-dir images: no such directory"),
        ("", "no test images found"),
        ("[defaults]\nspeed = 3\n", "*tests.toml: defaults: unknown key 'speed'*"),
    ],
)
def test_mistakes_are_told_in_one_line(
    pytester: pytest.Pytester, settings: str | None, message: str
) -> None:
    if settings is not None:
        (pytester.mkdir("images") / "tests.toml").write_text(settings)
    result = run(pytester, *OPTION)
    assert result.ret != 0
    output = pytest.LineMatcher(result.outlines + result.errlines)
    output.fnmatch_lines([message])
    output.no_fnmatch_line("*Traceback*")
    output.no_fnmatch_line("INTERNALERROR*")


def test_workers_of_xdist_share_nothing(pytester: pytest.Pytester, images: Path) -> None:
    write_failing(images)
    write_program(pytester.path, echo())
    pytester.makepyfile(
        f"""
        import pytest

        pytestmark = [pytest.mark.ppc64emu(*{OPTIONS!r}), pytest.mark.ppc64emu_snapshot("ready")]

        @pytest.mark.parametrize("turn", range(6))
        def test_it(machine, turn, worker_id):
            assert f"popen-{{worker_id}}" in machine.config.incoming
            machine.console.sendline(f"turn {{turn}}")
            machine.console.expect(f"turn {{turn}}\\n")

        def test_failure(machine):
            machine.console.expect("never", timeout=0.2)
        """
    )
    result = pytester.runpytest_subprocess("-n", "2", *OPTION, ".")
    result.assert_outcomes(passed=7, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "failed: two: is 3",
            "*Captured console call*",
            "*machine, console serial0, the last lines; the guest is running*",
        ]
    )
