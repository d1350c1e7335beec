"""Result lines of test images: what is read as a result, and what the whole console says."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.runner.lines import LINE_LIMIT, TEXT_LIMIT, LineParser, LineResult, Outcome, clean

PASSED, FAILED, SKIPPED, XFAILED, NONE = (
    *(Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.XFAILED, Outcome.NONE),
)


def parse(data: bytes | str) -> tuple[list[LineResult], LineParser]:
    parser = LineParser()
    found = parser.feed(data.encode() if isinstance(data, str) else data)
    return found + parser.finish(), parser


def outcomes(text: str) -> list[tuple[str, Outcome]]:
    return [(result.name, result.outcome) for result in parse(text)[0]]


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("PASS: a: b", PASSED),
        ("FAIL: a: b", FAILED),
        ("SKIP: a: b", SKIPPED),
        ("XFAIL: a: b", XFAILED),
        ("KFAIL: a: b", XFAILED),
        ("XPASS: a: b", FAILED),
    ],
)
def test_each_keyword(line: str, outcome: Outcome) -> None:
    assert outcomes(line) == [("a: b", outcome)]


@pytest.mark.parametrize(
    "line",
    [" PASS: x", "PASSED: x", "PASS x", "INFO: PASS: x", "bypass: x", "PASS:", "okay then"],
)
def test_what_is_no_result_line(line: str) -> None:
    found, parser = parse(line + "\n")
    assert found == []
    assert parser.verdict().outcome is NONE


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        ("", NONE, "no result lines on the console"),
        ("PASS: a\n", PASSED, ""),
        ("PASS: a\nFAIL: b\nFAIL: c\n", FAILED, "failed: b (and 1 more)"),
        ("XFAIL: a\n", PASSED, ""),
        ("SKIP: a\nSKIP: b\n", SKIPPED, "a"),
        ("PASS: a\nSUMMARY: 1 tests\n", PASSED, ""),
        ("SUMMARY: 1 tests\n", PASSED, ""),
        (
            "PASS: a\nSUMMARY: 2 tests, 1 unexpected failures\n",
            FAILED,
            "the summary says: 2 tests, 1 unexpected failures",
        ),
        ("PASS: a\nABORT: b: c\nSUMMARY: 1 tests\n", FAILED, "aborted: b: c"),
        ("PASS: a\n\nEXIT: STATUS=1\n", PASSED, ""),
        ("PASS: a\n\nEXIT: STATUS=127\n", FAILED, "the image exits with status 127"),
        ("SUMMARY: 0 tests\n\nEXIT: STATUS=77\n", SKIPPED, ""),
        ("SKIP: a\nSUMMARY: 1 tests, 1 skipped\n\nEXIT: STATUS=77\n", SKIPPED, "a"),
        ("\nEXIT: STATUS=77\n", SKIPPED, ""),
        ("PASS: a\nEXCEPTION: be vector=700\n", FAILED, "exception: be vector=700"),
        ("PASS: a\nDONE: passed\n", PASSED, ""),
        ("DONE: failed\n", FAILED, "the image says it failed"),
    ],
)
def test_verdict_on_keyword_lines(text: str, outcome: Outcome, reason: str) -> None:
    verdict = parse(text)[1].verdict()
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        ("1..2\nok 1\nok 2\n", PASSED, ""),
        ("ok 1\nok 2\n1..2\n", PASSED, ""),
        ("1..2\nok\nok\n", PASSED, ""),
        ("1..2\nok 1 - a\nnot ok 2 - b\n", FAILED, "failed: b"),
        ("1..2\nok 1\n", FAILED, "planned 2 tests but ran 1"),
        ("1..1\nok 1\nok 2\n", FAILED, "planned 1 tests but ran 2"),
        ("1..2\nok 1\nok 1\n", FAILED, "test 1 ran twice"),
        ("1..2\nok 1\nok 3\n", FAILED, "test 3 is outside the plan 1..2"),
        ("1..1\nok 1\n1..1\n", FAILED, "more than one plan: did the guest restart?"),
        ("ok 1\n", FAILED, "no plan (1..N): the image may have ended early"),
        ("TAP version 13\n", FAILED, "no plan (1..N): the image may have ended early"),
        ("1..0 # SKIP no disk\n", SKIPPED, "no disk"),
        ("1..0\n", SKIPPED, ""),
        ("1..1\nok 1 - a # SKIP no disk\n", SKIPPED, "no disk"),
        ("1..1\nnot ok 1 - a # TODO later\n", PASSED, ""),
        ("1..2\nok 1\nBail out! no power\n", FAILED, "bail out: no power"),
        ("1..2\nok 1\nBail out!\n", FAILED, "bail out"),
        ("1..1\nok 1\n    Bail out! in a subtest\n", FAILED, "bail out: in a subtest"),
        ("TAP version 14\n1..1\n    not ok 1\n    1..1\nok 1\n", PASSED, ""),
        ("1..2\nnot ok 1 - a\n", FAILED, "planned 2 tests but ran 1; failed: a"),
        ("1..1\nok 1\nFAIL: b\n", FAILED, "failed: b"),
    ],
)
def test_verdict_on_tap(text: str, outcome: Outcome, reason: str) -> None:
    verdict = parse(text)[1].verdict()
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_tap_points() -> None:
    text = (
        "TAP version 14\n1..7\nok 1 - plain\nnot ok 2 no dash\nok 3 # skip lower case\n"
        "ok 4 - a \\# b # SKIP c\nnot ok 5 - d # TODO: e\nok 6 - f # todo g\nok\n"
    )
    found = [(result.name, result.outcome, result.message) for result in parse(text)[0]]
    assert found == [
        ("plain", PASSED, ""),
        ("no dash", FAILED, ""),
        ("3", SKIPPED, "lower case"),
        ("a # b", SKIPPED, "c"),
        ("d", XFAILED, "e"),
        ("f", PASSED, "g"),
        ("7", PASSED, ""),
    ]


def test_prose_is_a_point_only_in_a_stream() -> None:
    assert outcomes("ok let us begin\n") == []
    assert outcomes("1..1\nok let us begin\n") == [("let us begin", PASSED)]


def test_lines_are_counted_from_one() -> None:
    found, _ = parse(b"x\r\n\nPASS: a\r\nPASS: b\rPASS: c\n")
    assert [result.line for result in found] == [3, 4, 5]


def test_line_ends_cut_in_two_count_once() -> None:
    parser = LineParser()
    found = [
        r for piece in (b"x\r", b"\nPASS: a\r", b"", b"\n", b"PASS: b") for r in parser.feed(piece)
    ]
    found += parser.finish()
    assert [(result.name, result.line) for result in found] == [("a", 2), ("b", 3)]


def test_escape_codes_and_controls_are_not_in_the_way() -> None:
    found, _ = parse(b"\x1b[32mPASS\x1b[0m: a\x00\x07b \x1b]0;title\x07\xff\n")
    assert [(result.name, result.outcome) for result in found] == [("ab \ufffd", PASSED)]


def test_clean_leaves_tabs_alone() -> None:
    assert clean(b"a\tb\x1b(B\x9bc\xc2\x9b\x7f\x00") == "a\tb\ufffdc"


def test_a_last_line_without_newline_counts() -> None:
    parser = LineParser()
    assert parser.feed(b"PASS: a") == []
    assert [result.name for result in parser.finish()] == ["a"]
    assert parser.finish() == []


def test_names_are_cut() -> None:
    ((name, _),) = outcomes("PASS: " + "x" * 10_000)
    assert name == "x" * TEXT_LIMIT


def test_what_follows_an_endless_line_is_read() -> None:
    parser = LineParser()
    for _ in range(100):
        assert parser.feed(b"PASS " * 20_000) == []
    assert [result.name for result in parser.feed(b"\nPASS: a\n")] == ["a"]


@pytest.mark.parametrize(
    "piece", [b"x" * 65536, b"ok " * 20_000, b"PASS: a\n" * 4096, b"\n" * 65536]
)
def test_memory_is_bounded(piece: bytes) -> None:
    parser = LineParser()
    parser.feed(piece)
    tracemalloc.start()
    for _ in range(5):
        parser.feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20  # the results of one piece, not of all
    assert len(parser._rest) <= LINE_LIMIT


@given(
    st.lists(st.binary(max_size=50) | st.sampled_from([b"\nPASS: ", b"\r\n", b"ok 1", b"\n1..3\n"]))
)
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    parser = LineParser()
    found = [result for piece in pieces for result in parser.feed(piece)] + parser.finish()
    whole, other = parse(b"".join(pieces))
    assert found == whole
    assert parser.verdict() == other.verdict()


@given(st.binary(max_size=500))
def test_nothing_raises_and_texts_are_printable(data: bytes) -> None:
    found, parser = parse(b"PASS: " + data)
    parser.verdict()
    for result in found:
        assert result.name.replace("\t", "").isprintable() or not any(
            ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in result.name if c != "\t"
        )
