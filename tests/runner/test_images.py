"""`ppc64emu-test` on a directory of fifty images: each has the right result, in one command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emu.runner.log import DEFAULT_LIMIT
from tests.runner.image_set import Expected, write_image_set
from tests.support.guest_images import ROOT, missing_compilers

pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers"),
]
SECONDS = 240.0


@dataclass
class Run:
    """What one command did."""

    expected: dict[str, Expected]
    process: subprocess.CompletedProcess[str]
    logs: Path
    junit: ET.Element

    def suite(self, name: str) -> ET.Element:
        """The JUnit suite of a test."""
        return next(suite for suite in self.junit if suite.get("name") == name)


def properties(suite: ET.Element) -> dict[str, str]:
    """The properties of a JUnit suite."""
    return {str(entry.get("name")): str(entry.get("value")) for entry in suite.iter("property")}


def run_tests(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "emu.runner", *(str(word) for word in arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """The run of the whole directory, made once."""
    with tempfile.TemporaryDirectory(prefix="runner-") as name:
        home = Path(name)
        images, logs, junit = home / "images", home / "logs", home / "junit.xml"
        images.mkdir()
        expected = write_image_set(images)
        process = run_tests("-j2", "--log-dir", logs, "--junit-xml", junit, images)
        yield Run(expected, process, logs, ET.parse(junit).getroot())


def test_every_image_has_its_result(run: Run) -> None:
    table = run.process.stdout
    for name, expected in run.expected.items():
        suite = run.suite(name)
        assert properties(suite)["result"] == expected.outcome, f"{name}\n{table}"
        (line,) = re.findall(rf"^{expected.outcome.upper()} +{re.escape(name)} .*$", table, re.M)
        assert expected.reason in line
    assert len(run.junit) == len(run.expected) >= 50


def test_the_command_says_so(run: Run) -> None:
    counts = [
        f"{sum(e.outcome == outcome for e in run.expected.values())} {outcome}"
        for outcome in ("passed", "failed", "skipped")
    ]
    assert run.process.returncode == 1
    assert f"{', '.join(counts)} in " in run.process.stdout
    assert all("compiling hot paths" in line for line in run.process.stderr.splitlines())


def test_nothing_is_drawn_without_a_terminal(run: Run) -> None:
    assert "\x1b" not in run.process.stdout


@pytest.mark.parametrize("order", ["be", "le"])
def test_a_flood_leaves_a_small_log_with_both_ends(run: Run, order: str) -> None:
    log = (run.logs / f"pseries-flood-{order}.bin.log").read_bytes()
    assert len(log) <= DEFAULT_LIMIT + 100
    left_out = re.search(rb"\n\[\.\.\. (\d+) bytes are left out here \.\.\.\]\n", log)
    assert left_out is not None
    assert int(left_out[1]) > 99 << 20
    assert log.startswith(b"0123456789abcdef")
    assert log.endswith(b"abcde\n")


@pytest.mark.parametrize("order", ["be", "le"])
def test_garbage_is_kept_as_it_is(run: Run, order: str) -> None:
    log = (run.logs / f"pseries-garbage-{order}.bin.log").read_bytes()
    assert bytes(range(10)) in log
    assert b"\xff\x00" in log
    cases = [
        case.get("name") for case in run.suite(f"pseries-garbage-{order}.bin").iter("testcase")
    ]
    assert cases == ["one"]


@pytest.mark.parametrize("order", ["be", "le"])
def test_junit_has_the_lines(run: Run, order: str) -> None:
    suite = run.suite(f"pseries-unit-pass-{order}.bin")
    assert [case.get("name") for case in suite.iter("testcase")] == ["one: two", "three", "four"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "0", "2")
    failed = run.suite(f"pseries-tap-fail-{order}.bin")
    failures = [case.get("name") for case in failed.iter("testcase") if len(case)]
    assert failures == ["second"]


def test_junit_says_what_no_line_says(run: Run) -> None:
    suite = run.suite("pseries-hang-le.bin")
    cases = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert cases["one"] is None
    failure = cases["pseries-hang-le.bin"]
    assert failure is not None
    assert str(failure.get("message")).startswith("timeout after")


def test_no_emulator_is_left(run: Run) -> None:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"emu.runner" in entry.read_bytes() and os.fsencode(run.logs) in entry.read_bytes():
                found.append(entry)
        except OSError:
            continue
    assert found == []
