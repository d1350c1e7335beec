"""The result of a test: how it ended, what its lines say, what was expected."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from emu.runner.collect import Test
from emu.runner.config import Settings
from emu.runner.judge import Ending, Result, judge
from emu.runner.junit import write_junit
from emu.runner.lines import LineParser, Outcome
from emu.runner.log import TAIL, ConsoleLog
from emu.runner.process import Finished

GOOD, BAD, SKIPPED, SILENT = "PASS: a\n", "PASS: a\nFAIL: b\n", "SKIP: a\n", "hello\n"
PANIC = "ppc64emu: guest panicked: no init\n"
ERROR = "ppc64emu: -m 1: RAM is too small\n"


def finished(
    console: str = GOOD,
    *,
    status: int | None = 0,
    number: int = 0,
    timed_out: bool = False,
    messages: str = "",
    **settings: object,
) -> Finished:
    """A test that printed this and ended so."""
    parser = LineParser()
    results = parser.feed(console.encode()) + parser.finish()
    return Finished(
        test=Test("t", Path("/t.elf"), Settings(**settings), Path("/"), True),  # type: ignore[arg-type]
        verdict=parser.verdict(),
        results=results,
        status=status,
        signal=number,
        timed_out=timed_out,
        messages=messages,
        tail=console.encode(),
    )


@pytest.mark.parametrize(
    ("done", "outcome", "reason"),
    [
        (finished(GOOD), Outcome.PASSED, ""),
        (finished(BAD), Outcome.FAILED, "failed: b"),
        (finished(SKIPPED), Outcome.SKIPPED, "a"),
        (finished(SILENT), Outcome.FAILED, "no result lines on the console"),
        (finished(GOOD, status=4), Outcome.FAILED, "exit status 4"),
        (finished(BAD, status=4), Outcome.FAILED, "exit status 4; failed: b"),
        (finished(GOOD, status=77), Outcome.SKIPPED, "exit status 77"),
        (finished(SKIPPED, status=77), Outcome.SKIPPED, "a"),
        (finished(BAD, status=77), Outcome.FAILED, "failed: b"),
        (finished(GOOD, status=3), Outcome.FAILED, "exit status 3"),
        (finished(GOOD, status=3, messages=PANIC), Outcome.FAILED, "guest panic: no init"),
        (
            finished(GOOD, status=1, messages=ERROR),
            Outcome.FAILED,
            "emulator error: -m 1: RAM is too small",
        ),
        (
            finished(GOOD, status=5, messages="ppc64emu: warning: -icount: no\n"),
            Outcome.FAILED,
            "exit status 5",
        ),
        (
            finished(
                GOOD, status=5, messages="ppc64emu: compiling hot paths (first run only) ...\n"
            ),
            Outcome.FAILED,
            "exit status 5",
        ),
        (
            finished(GOOD, status=None, number=11),
            Outcome.FAILED,
            "the emulator was ended by SIGSEGV",
        ),
        (finished(GOOD, timed_out=True, timeout=2.5), Outcome.FAILED, "timeout after 2.5 s"),
        (
            finished(BAD, timed_out=True, status=None, number=9),
            Outcome.FAILED,
            "timeout after 60 s; failed: b",
        ),
        (finished(SILENT, result="status"), Outcome.PASSED, ""),
        (finished(BAD, result="status"), Outcome.PASSED, ""),
        (finished(GOOD, result="status", status=1), Outcome.FAILED, "exit status 1"),
    ],
)
def test_result(done: Finished, outcome: Outcome, reason: str) -> None:
    result = judge(done)
    assert (result.outcome, result.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("done", "outcome", "reason"),
    [
        (finished(BAD, expect="fail"), Outcome.XFAILED, "failed: b"),
        (finished(GOOD, expect="fail"), Outcome.FAILED, "passed, but a failure was expected"),
        (finished(SKIPPED, expect="fail"), Outcome.SKIPPED, "a"),
        (finished(GOOD, expect="fail", timed_out=True), Outcome.XFAILED, "timeout after 60 s"),
        (
            finished(GOOD, expect="fail", status=1, messages=ERROR),
            Outcome.FAILED,
            "emulator error: -m 1: RAM is too small",
        ),
        (
            finished(GOOD, expect="timeout", timed_out=True),
            Outcome.PASSED,
            "timeout after 60 s, as expected",
        ),
        (finished(BAD, expect="timeout", timed_out=True), Outcome.FAILED, "failed: b"),
        (finished(GOOD, expect="timeout"), Outcome.FAILED, "timeout was expected"),
        (
            finished(SILENT, expect="panic", status=3, messages=PANIC),
            Outcome.PASSED,
            "guest panic: no init, as expected",
        ),
        (
            finished(GOOD, expect="panic", status=3),
            Outcome.FAILED,
            "panic was expected; exit status 3",
        ),
        (finished(SILENT, expect=7, status=7), Outcome.PASSED, "exit status 7, as expected"),
        (
            finished(GOOD, expect=7, status=8),
            Outcome.FAILED,
            "exit status 7 was expected; exit status 8",
        ),
        (finished(GOOD, expect=7), Outcome.FAILED, "exit status 7 was expected"),
        (finished(GOOD, expect=0), Outcome.PASSED, ""),
    ],
)
def test_expectations(done: Finished, outcome: Outcome, reason: str) -> None:
    result = judge(done)
    assert (result.outcome, result.reason) == (outcome, reason)


def junit(tmp_path: Path, *results: Result) -> ET.Element:
    path = tmp_path / "junit.xml"
    write_junit(path, results, 1.5)
    return ET.parse(path).getroot()


def cases(root: ET.Element) -> dict[str, str]:
    """Of the only suite: name to the kind of its child."""
    return {
        str(case.get("name")): case[0].tag if len(case) else "" for case in root[0].iter("testcase")
    }


def test_junit_counts(tmp_path: Path) -> None:
    both = [judge(finished(BAD)), judge(finished("SKIP: a\nPASS: b\n"))]
    root = junit(tmp_path, *both)
    assert {key: root.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
        **{"tests": "4", "failures": "1", "skipped": "1", "errors": "0"}
    }


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (finished(BAD), {"a": "", "b": "failure"}),
        (finished(GOOD, status=4), {"a": "", "t": "failure"}),
        (finished(BAD, status=4), {"a": "", "b": "failure", "t": "failure"}),
        (finished(SILENT), {"t": "failure"}),
        (finished(SILENT, result="status"), {"t": ""}),
        (finished("1..0 # SKIP no\n"), {"t": "skipped"}),
        (finished("1..2\nok 1 a\n"), {"a": "", "t": "failure"}),
        (finished(BAD, expect="fail"), {"a": "", "b": "skipped"}),
        (finished(GOOD, expect="fail"), {"a": "", "t": "failure"}),
    ],
)
def test_junit_says_each_thing_once(
    tmp_path: Path, done: Finished, expected: dict[str, str]
) -> None:
    assert cases(junit(tmp_path, judge(done))) == expected


def test_junit_is_xml_whatever_came(tmp_path: Path) -> None:
    done = finished("PASS: \ufffe <&\"']]> \x0b\n\x00\x1b[1m", messages="\x00\x08")
    done.tail = bytes(range(256))
    root = junit(tmp_path, judge(done))
    assert list(cases(root)) == [" <&\"']]>"] or "<&" in next(iter(cases(root)))
    assert root[0].find("system-out") is not None


def test_a_log_keeps_both_ends(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log", 100)
    for number in range(1000):
        log.write(b"%06d\n" % number)
    log.close(b"note\n")
    text = (tmp_path / "log").read_bytes()
    assert text.startswith(b"000000\n000001\n")
    assert b"\n[... 6900 bytes are left out here ...]\n" in text
    assert text.endswith(b"000998\n000999\n\n[messages of the emulator]\nnote\n")


@pytest.mark.parametrize("size", [0, 1, 49, 50, 51, 99, 100])
def test_a_small_log_is_whole(tmp_path: Path, size: int) -> None:
    log = ConsoleLog(tmp_path / "log", 100)
    data = bytes(range(size))
    for start in range(0, size, 7):
        log.write(data[start : start + 7])
    log.close()
    assert (tmp_path / "log").read_bytes() == data
    assert log.tail() == data


def test_a_log_needs_little_memory(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log", 4096)
    for _ in range(100):
        log.write(bytes(65536))
    assert len(log._recent) <= 4 * TAIL
    log.close()


def test_an_ending_is_told_apart_from_a_status() -> None:
    assert judge(finished(status=3)).ending is Ending.EXIT
    assert judge(finished(status=3, messages=PANIC)).ending is Ending.PANIC
