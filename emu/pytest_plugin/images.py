"""Guest test images as pytest items: one for each run of an image.

What a directory holds, how an image is run and how its output is judged is the runner's
(docs/runner.md). An item is a whole run rather than a result line: lines are known only when the
image has run, and items are collected before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from emu.runner.collect import Test, collect
from emu.runner.command import Emulator, emulator_arguments
from emu.runner.config import RunnerError
from emu.runner.judge import Result, judge
from emu.runner.launcher import ProgramLauncher
from emu.runner.lines import LineResult, Outcome, clean
from emu.runner.log import DEFAULT_LIMIT
from emu.runner.pool import Pool
from emu.runner.process import Finished

_TAIL_LINES = 40
_SHOWN_FAILURES = 20


def add_directories(config: pytest.Config, directories: Sequence[Path]) -> None:
    """Let pytest collect these directories; alone, if no path was given."""
    for directory in directories:
        if not directory.is_dir():
            raise pytest.UsageError(f"--guest-image-dir {directory}: no such directory")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []
    given = [Path(text.partition("::")[0]).resolve() for text in config.args]
    for directory in directories:
        if not any(path.is_relative_to(directory.resolve()) for path in given):
            config.args.append(str(directory))


def collect_directory(
    path: Path, parent: pytest.Collector, directories: Sequence[Path]
) -> pytest.Collector | None:
    """The collector of a directory of images; None if it is not one."""
    if path.resolve() not in {directory.resolve() for directory in directories}:
        return None
    return _collector(ImageDirectory, parent, path)


def _collector(
    kind: type[pytest.Directory | pytest.File], parent: pytest.Collector, path: Path, **more: Any
) -> pytest.Collector:
    root = parent.config.rootpath
    # pytest's own name for anything outside the project is the project's.
    name = path.relative_to(root) if path.is_relative_to(root) else path
    collector: pytest.Collector = kind.from_parent(
        parent, path=path, nodeid=name.as_posix(), **more
    )
    return collector


class ImageDirectory(pytest.Directory):
    """A directory given with --guest-image-dir."""

    def collect(self) -> Iterable[pytest.Collector]:
        """Its images; a mistake in its configuration is an error of collection."""
        try:
            tests = collect([str(self.path)])
        except RunnerError as error:
            raise self.CollectError(str(error)) from None
        runs: dict[str, list[Test]] = {}
        for test in tests:
            runs.setdefault(test.image.name, []).append(test)
        for name, of_image in runs.items():
            yield _collector(ImageFile, self, self.path / name, tests=of_image)


class ImageFile(pytest.File):
    """An image, with its runs."""

    def __init__(self, *, tests: Sequence[Test], **rest: Any) -> None:
        super().__init__(**rest)
        self._tests = tests

    def collect(self) -> Iterable[pytest.Item]:
        """An item for each run; most images have one."""
        for test in self._tests:
            yield ImageItem.from_parent(self, name=test.name, test=test)


class ImageFailure(Exception):  # noqa: N818
    """An image has failed; the text is for the report."""


class ImageItem(pytest.Item):
    """One run of one image, in an emulator of its own process."""

    def __init__(self, *, test: Test, **rest: Any) -> None:
        super().__init__(**rest)
        self.test = test
        if test.settings.skip:
            self.add_marker(pytest.mark.skip(reason=test.settings.skip))

    def runtest(self) -> None:
        """Run the image; what is not a pass is raised."""
        arguments = emulator_arguments(self.test, Emulator())
        # -P: what lies in the directory of the images is no module of Python's.
        launcher = ProgramLauncher([sys.executable, "-P", "-m", "emu"])
        pool = Pool(launcher, _Silent(), 1, None, DEFAULT_LIMIT)
        (finished,) = pool.run([(self.test, arguments)])
        result = judge(finished)
        self._add_sections(finished)
        if result.outcome is Outcome.SKIPPED:
            pytest.skip(result.reason)
        if result.outcome is Outcome.XFAILED:
            pytest.xfail(result.reason)
        if result.bad:
            raise ImageFailure(_explanation(result))

    def _add_sections(self, finished: Finished) -> None:
        lines = [clean(line) for line in finished.tail.replace(b"\r", b"").split(b"\n")]
        self.add_report_section("call", "console", "\n".join(lines[-_TAIL_LINES:]))
        if finished.messages:
            self.add_report_section("call", "messages of the emulator", finished.messages)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """An image's failure is its reason alone: its code is not Python."""
        if isinstance(excinfo.value, ImageFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The image's file and the test's name."""
        return self.test.image, 0, f"guest image {self.test.name}"


def _explanation(result: Result) -> str:
    failures = [r for r in result.finished.results if r.outcome is Outcome.FAILED]
    lines = [result.reason]
    for failure in failures[:_SHOWN_FAILURES]:
        why = f": {failure.message}" if failure.message else ""
        lines.append(f"  line {failure.line}: FAIL {failure.name}{why}")
    if len(failures) > _SHOWN_FAILURES:
        lines.append(f"  and {len(failures) - _SHOWN_FAILURES} more")
    return "\n".join(lines)


class _Silent:
    """The pool's listener: pytest tells how things go."""

    def started(self, test: Test) -> None:
        """See `Listener`."""

    def result(self, test: Test, result: LineResult) -> None:
        """See `Listener`."""

    def finished(self, done: Finished) -> None:
        """See `Listener`."""

    def tick(self, running: Iterable[Test]) -> None:
        """See `Listener`."""
