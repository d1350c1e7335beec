"""What a test image can say: outcomes, single results, the verdict on a whole run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """Of one test, or of a whole image."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    #: Failed, and was expected to (XFAIL, KFAIL, TAP's "not ok # TODO").
    XFAILED = "xfailed"
    #: The image says nothing about tests; only of a whole image.
    NONE = "none"


class LineResult(NamedTuple):
    """One result line.

    `name` is the text after the keyword or the TAP description (a TAP point without one is its
    number); `message` is the reason for a skip, an expected failure or a failure, often empty.
    `line` counts the console's lines from 1. Texts have no control characters and at most
    `TEXT_LIMIT` characters.
    """

    name: str
    outcome: Outcome
    message: str = ""
    line: int = 0


@dataclass(frozen=True)
class Verdict:
    """What all lines of one console say together; `reason` is one line, empty for a plain pass."""

    outcome: Outcome
    reason: str = ""
    counts: Counter[Outcome] = field(default_factory=Counter)
