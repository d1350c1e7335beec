"""Runs of pytest inside pytest, and images of a few instructions, for the tests of the plugin."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support import asm
from tests.unit.virtmmio_tools import CONSOLE, image, leave, put

#: What a marker or a factory needs for these images.
OPTIONS = ["-M", "virtmmio", "-m", "16", "-nodefaults", "-bios", "image.bin"]
#: The plugin is imported already when pytest runs inside pytest.
REWRITE = "ignore::pytest.PytestAssertRewriteWarning"
MARKED = f"""
    import pytest
    pytestmark = pytest.mark.ppc64emu(*{OPTIONS!r})
"""


def write_program(directory: Path, *code: asm.Code, name: str = "image.bin") -> Path:
    """Write an image of big-endian code."""
    path = directory / name
    path.write_bytes(image(code, {}))
    return path


def echo(status: int = 5) -> asm.Code:
    """Print "ready", then what comes in; end with a status after "q"."""
    body = [
        asm.lbz(11, 10, 4),
        asm.cmpd(11, 12),
        asm.bc(12, 2, -8),
        asm.lbz(11, 10, 5),
        asm.stb(11, 10),
        asm.cmpd(11, 13),
        asm.bne(-24),
    ]
    registers = [asm.li(12, 0), asm.li(13, ord("q")), asm.li64(10, CONSOLE)]
    return [put("ready\n"), registers, body, leave(status)]


def count(address: int, marker: int = 0x1234) -> asm.Code:
    """Print "go", then count up in r3 and store it at an address, for ever; r4 is `marker`."""
    return [
        put("go\n"),
        asm.li64(4, marker),
        asm.li64(5, address),
        asm.li(3, 0),
        asm.addi(3, 3, 1),
        asm.std(3, 5),
        asm.b(-8),
    ]


def run(pytester: pytest.Pytester, *texts: str, options: tuple[str, ...] = ()) -> pytest.RunResult:
    """Run a test file in this process."""
    pytester.makepyfile("".join(textwrap.dedent(text) for text in texts))
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", REWRITE, *options)
