"""Results as JUnit XML, in the form that CI servers read: a suite per test, a case per line."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from emu.runner.judge import Result
from emu.runner.lines import Outcome

#: XML 1.0, 2.2: characters that cannot be in a document at all.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, results: Sequence[Result], seconds: float) -> None:
    """Write the file; OSError if that is not possible."""
    root = ET.Element("testsuites", name="ppc64emu-test", time=f"{seconds:.3f}")
    for result in results:
        root.append(_suite(result))
    for key in ("tests", "failures", "skipped", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _suite(result: Result) -> ET.Element:
    done = result.finished
    name = _text(done.test.name)
    cases = list(_cases(result, name))
    suite = ET.Element("testsuite", name=name, time=f"{done.seconds:.3f}", errors="0")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    properties = {
        "image": str(done.test.image),
        "result": result.outcome.value,
        "ending": result.ending.value,
    }
    if done.log is not None:
        properties["log"] = str(done.log)
    if done.dropped:
        properties["results left out"] = str(done.dropped)
    table = ET.SubElement(suite, "properties")
    for key, value in properties.items():
        ET.SubElement(table, "property", name=key, value=_text(value))
    suite.extend(cases)
    ET.SubElement(suite, "system-out").text = _text(done.tail.decode("utf-8", "replace"))
    if done.messages:
        ET.SubElement(suite, "system-err").text = _text(done.messages)
    return suite


def _cases(result: Result, name: str) -> Iterable[ET.Element]:
    """The lines, and the image itself unless its lines say it all."""
    done = result.finished
    expected = result.outcome is Outcome.XFAILED
    said = False
    for line in done.results:
        case = ET.Element("testcase", classname=name, name=_text(line.name) or "?")
        if line.outcome is Outcome.FAILED and not expected:
            said = True
            ET.SubElement(case, "failure", message=_text(line.message or line.name))
        elif line.outcome in (Outcome.SKIPPED, Outcome.XFAILED):
            kind = "expected failure: " if line.outcome is Outcome.XFAILED else ""
            ET.SubElement(case, "skipped", message=_text(kind + line.message).strip())
        elif line.outcome is Outcome.FAILED:
            ET.SubElement(case, "skipped", message="expected failure")
        yield case
    if done.results and (said or not result.bad):
        plain = done.verdict.outcome is Outcome.FAILED and done.verdict.reason == result.reason
        if not result.bad or (plain and result.reason.startswith("failed: ")):
            return
    case = ET.Element("testcase", classname=name, name=name, time=f"{done.seconds:.3f}")
    if result.bad:
        ET.SubElement(case, "failure", message=_text(result.reason)).text = _text(result.reason)
    elif result.outcome in (Outcome.SKIPPED, Outcome.XFAILED):
        kind = "expected failure: " if result.outcome is Outcome.XFAILED else ""
        ET.SubElement(case, "skipped", message=_text(kind + result.reason))
    yield case


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
