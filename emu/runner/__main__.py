"""The command `ppc64emu-test`: runs guest test images and tells their results."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import io
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from devices.properties import parse_size
from emu.chardev.config import ConfigError
from emu.runner.collect import Test, collect
from emu.runner.command import Emulator, emulator_arguments
from emu.runner.config import KEYS, RunnerError
from emu.runner.judge import Ending, Result
from emu.runner.junit import write_junit
from emu.runner.launcher import ForkLauncher, Launcher, ProgramLauncher
from emu.runner.lines import Outcome, Verdict
from emu.runner.log import DEFAULT_LIMIT, MIN_LIMIT
from emu.runner.pool import Pool, default_parallel
from emu.runner.process import Finished
from emu.runner.report import Reporter

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class _Terminated(BaseException):
    """SIGTERM or SIGHUP."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's) and return its status."""
    options = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # consoles have any characters
    try:
        with _ending_on_signals():
            return _run(options)
    except RunnerError as error:
        print(f"ppc64emu-test: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (KeyboardInterrupt, _Terminated) as error:
        print("ppc64emu-test: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 128 + signal.SIGTERM
    except BrokenPipeError:
        return EXIT_FAILED


def _run(options: argparse.Namespace) -> int:
    tests = collect(options.images, options.config, _overrides(options))
    if options.select:
        tests = [test for test in tests if _selected(test, options.select)]
        if not tests:
            raise RunnerError(f"no test matches {' or '.join(options.select)}")
    emulator = Emulator(tuple(shlex.split(options.emulator)))
    if options.list:
        for test in tests:
            print(test.name)
        return EXIT_OK
    _check_outputs(options)
    begin = time.monotonic()
    with Reporter(len(tests), options.verbose - options.quiet) as reporter:
        results = _run_tests(tests, emulator, reporter, options)
    reporter.summary(results)
    if options.junit_xml is not None:
        try:
            write_junit(options.junit_xml, results, time.monotonic() - begin)
        except OSError as error:
            raise RunnerError(f"{options.junit_xml}: {error.strerror}") from error
    return EXIT_FAILED if any(result.bad for result in results) else EXIT_OK


def _run_tests(
    tests: Sequence[Test], emulator: Emulator, reporter: Reporter, options: argparse.Namespace
) -> list[Result]:
    todo: list[tuple[Test, list[str]]] = []
    for test in tests:
        if test.settings.skip:
            done = Finished(test, Verdict(Outcome.SKIPPED, test.settings.skip))
            reporter.add(Result(done, Outcome.SKIPPED, test.settings.skip, Ending.POWER_OFF))
        else:
            todo.append((test, emulator_arguments(test, emulator, options.emulator_option)))
    if todo:
        launcher: Launcher = (
            ProgramLauncher(emulator.command) if emulator.command else ForkLauncher()
        )
        Pool(launcher, reporter, options.jobs, options.log_dir, options.log_size).run(todo)
    by_name = {result.finished.test.name: result for result in reporter.results}
    return [by_name[test.name] for test in tests]


def _selected(test: Test, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(test.name, pattern) for pattern in patterns)


def _check_outputs(options: argparse.Namespace) -> None:
    """Fail before the tests, not after them."""
    try:
        if options.log_dir is not None:
            options.log_dir.mkdir(parents=True, exist_ok=True)
        if options.junit_xml is not None:
            options.junit_xml.open("ab").close()
    except OSError as error:
        raise RunnerError(f"{error.filename}: {error.strerror}") from error


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP, unless it is ignored from outside, raise `_Terminated`."""

    def handle(signum: int, frame: FrameType | None) -> None:
        raise _Terminated

    signals = (signal.SIGTERM, signal.SIGHUP)
    old = {s: signal.getsignal(s) for s in signals if signal.getsignal(s) != signal.SIG_IGN}
    for signum in old:
        signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, previous in old.items():
            signal.signal(signum, previous)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line."""
    given = {key: getattr(options, key, None) for key in KEYS}
    return {key: KEYS[key](value) for key, value in given.items() if value is not None}


def _setting(key: str, convert: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """An argparse type that accepts what the configuration's key does."""

    def parse(text: str) -> Any:
        try:
            return KEYS[key](convert(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, not '{text}'") from error

    return parse


def _jobs(text: str) -> int:
    if text.isdecimal() and 0 < int(text) <= 1024:
        return int(text)
    raise argparse.ArgumentTypeError(f"a number from 1 to 1024 is needed, not '{text}'")


def _log_size(text: str) -> int:
    try:
        size = parse_size("log-size", text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if size < MIN_LIMIT:
        raise argparse.ArgumentTypeError(f"{MIN_LIMIT} bytes are the least")
    return size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppc64emu-test",
        description="Runs bare-metal test images (ELF or raw, big- or little-endian) and tells "
        "their results, from TAP or PASS:/FAIL: lines on the console and the exit status. "
        "Settings of single images are read from tests.toml beside them. See docs/runner.md.",
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="image|DIR", help="an image, or a directory of them")
    add("-j", "--jobs", type=_jobs, default=default_parallel(), help="emulators at once")
    add("--config", type=Path, help="settings for all images, instead of tests.toml beside them")
    add("-k", "--select", action="append", metavar="PATTERN", help="only tests of that name")
    add("--list", action="store_true", help="only list the tests")
    add("--junit-xml", type=Path, metavar="FILE", help="write the results as JUnit XML")
    add("--log-dir", type=Path, metavar="DIR", help="keep each console in DIR/<test>.log")
    add(
        *("--log-size",),
        type=_log_size,
        default=DEFAULT_LIMIT,
        metavar="SIZE",
        help="the most kept of one console, half of it from the end (1M)",
    )
    add("-v", "--verbose", action="count", default=0, help="show every result line")
    add("-q", "--quiet", action="count", default=0, help="show the totals only")
    add("--emulator", default="", metavar="COMMAND", help="e.g. qemu-system-ppc64, not ours")
    add(
        *("-o", "--emulator-option"),
        action="append",
        default=[],
        metavar="WORD",
        help="one more word for the emulator's command line, e.g. -o=-d -o guest_errors",
    )
    _add_settings(parser.add_argument_group("defaults for the images (as in tests.toml)"))
    return parser


def _add_settings(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    seconds = _setting("timeout", lambda text: float(text))
    add("--timeout", type=seconds, metavar="SECONDS", help="for one image (60)")
    add("-M", "--machine", type=_setting("machine"), help="pseries (default) or virtmmio")
    add("--cpu", type=_setting("cpu"), metavar="MODEL")
    add("-m", "--memory", type=_setting("memory"), metavar="SIZE")
    add("--smp", type=_setting("smp"), metavar="N")
    add("--append", type=_setting("append"), metavar="TEXT", help="kernel command line")
    add("--firmware", type=os.path.abspath, metavar="FILE", help="started before ELF images")
    add("--device", dest="devices", action="append", metavar="DEVICE", help="as -device")
    add("--result", type=_setting("result"), metavar="lines|status", help="what is the result")


if __name__ == "__main__":
    sys.exit(main())
