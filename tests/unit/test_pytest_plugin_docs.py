"""The documents' examples do what they say: files, commands and results are taken from the text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.build_image import build_image, main
from tests.support.guest_images import ROOT, ImageBuildError, missing_compilers

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers"),
]
DOCUMENT = ROOT / "docs" / "writing-a-test-image.md"
_FILE = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MOST_LINES = 30


def example(directory: Path) -> list[str]:
    """Write the document's files; its commands in order."""
    text = DOCUMENT.read_text()
    files = dict(_FILE.findall(text))
    assert sorted(files) == ["sum.c", "test_sum.py"]
    assert sum(len(content.splitlines()) for content in files.values()) <= MOST_LINES
    for name, content in files.items():
        (directory / name).write_text(content)
    return [command.strip() for command in _COMMAND.findall(text)]


def shell(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user with this environment would."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PPC64EMU": str(ROOT), "PATH": programs}
    for name in ("PYTEST_ADDOPTS", "PYTHONPATH", "MAKEFLAGS"):
        variables.pop(name, None)
    return subprocess.run(
        ["sh", "-c", command], cwd=directory, env=variables, capture_output=True, text=True
    )


def test_example_of_writing_a_test_image_works_as_written(tmp_path: Path) -> None:
    build, run = example(tmp_path)
    assert run == "pytest"
    built = shell(build, tmp_path)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "sum.bin").exists()
    done = shell(run, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    images = shell("pytest -v --guest-image-dir .", tmp_path)
    assert images.returncode == 0, images.stdout + images.stderr
    assert "sum.bin::sum.bin PASSED" in images.stdout


def test_example_notices_a_wrong_sum(tmp_path: Path) -> None:
    build, run = example(tmp_path)
    source = tmp_path / "sum.c"
    source.write_text(source.read_text().replace("total, 4321", "total, 4322"))
    assert shell(build, tmp_path).returncode == 0
    failed = shell(run, tmp_path)
    assert failed.returncode == 1
    assert "2 failed" in failed.stdout
    assert "FAIL: 0 be sum: the sum is 0x10e1, not 0x10e2" in failed.stdout


def test_parameters_and_more_sources_are_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(
        '#include "check.h"\nu64 three(void);\n'
        'static void a(void)\n{\n\tchar text[8];\n\n\tparameter("word", text, sizeof(text));\n'
        '\tcell_begin("a");\n\tcheck(streq(text, "hey"), "the word");\n'
        '\tcheck_equal(three(), 3, "three");\n\tcell_end();\n}\nTEST("a", a);\n'
    )
    (tmp_path / "b.S").write_text("\t.globl three\nthree:\n\tli 3, 3\n\tblr\n")
    make = f'make -f {ROOT}/tests/guest/image.mk a.bin SOURCES=b.S PARAMETERS="word=hey order=le"'
    built = shell(make, tmp_path)
    assert built.returncode == 0, built.stderr
    run = shell("ppc64emu -nographic -bios a.bin", tmp_path)
    assert run.stdout.splitlines() == ["PASS: 0 le a checks=2", "DONE: passed"]


def test_mistakes_in_sources_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "a.c", tmp_path / "a.bin"
    source.write_text("int x = y;\n")
    assert main(["-o", str(output), str(source)]) == 1
    assert "'y' undeclared" in capsys.readouterr().err.replace("‘", "'").replace("’", "'")
    assert main(["-o", str(output), "order=be"]) == 1
    assert capsys.readouterr().err == "build_image: no source file\n"
    assert main(["-o", str(output), str(tmp_path / "b.c")]) == 1
    assert capsys.readouterr().err == f"build_image: {tmp_path}/b.c: no such file\n"
    with pytest.raises(ImageBuildError, match=r"\.c or \.S"):
        build_image(output, [tmp_path / "a.txt"])
    assert not output.exists()
