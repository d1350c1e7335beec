"""Random instructions never crash the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BLOCKS = 100


@pytest.mark.parametrize(("model", "seed"), [("power8", 1), ("power9", 2)])
def test_random_instructions_end_in_known_exits(model: str, seed: int) -> None:
    """In a process of its own: what this is about are signals."""
    command = [sys.executable, "-m", "tests.support.random_guest", str(seed), str(BLOCKS), model]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    last = done.stderr.replace("\r", "\n")[-2000:]
    assert done.returncode == 0, f"block and error: {last}"
    counts = dict(part.split("=") for part in done.stdout.split())
    assert set(counts) <= {"HYPERCALL", "KICKED", "CHECKSTOP"}
    assert int(counts["HYPERCALL"]) > 1000
