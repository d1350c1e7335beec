"""The command on emulators that misbehave: scripts stand in for them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from emu.runner.__main__ import main

GOOD = "echo 'PASS: a'"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.bin"
    path.write_bytes(bytes(0x104))
    return path


def script(tmp_path: Path, text: str) -> str:
    """A program in place of the emulator."""
    path = tmp_path / "emulator"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def command(tmp_path: Path, text: str, image: Path, *more: str) -> list[str]:
    return ["--emulator", script(tmp_path, text), str(image), *more]


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (GOOD, 0, "1 passed"),
        (f"{GOOD}; exit 4", 1, "exit status 4"),
        ("kill -SEGV $$", 1, "the emulator was ended by SIGSEGV"),
        (f"{GOOD}; exec sleep 100", 1, "timeout after 0.5 s"),
        (f"trap '' TERM; {GOOD}; while :; do sleep 0.1; done", 1, "timeout after 0.5 s"),
        ("echo 'SKIP: a'", 0, "1 skipped"),
        ("exit 0", 1, "no result lines on the console"),
        (f"sleep 100 & {GOOD}", 0, "1 passed"),
        (f"{GOOD}; echo 'ppc64emu: guest panicked: x' >&2; exit 3", 1, "guest panic: x"),
        ("head -c 1000000 /dev/zero; echo; " + GOOD, 0, "1 passed"),
        (f"{GOOD}; head -c 1000000 /dev/zero >&2", 0, "1 passed"),
        ("exec <&- ; read x; " + GOOD, 0, "1 passed"),
        ("read x; " + GOOD, 0, "1 passed"),
        ("printf 'PASS: a'", 0, "1 passed"),
    ],
)
def test_endings(
    tmp_path: Path,
    image: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    status: int,
    words: str,
) -> None:
    assert main(command(tmp_path, text, image, "--timeout", "0.5")) == status
    assert words in capsys.readouterr().out


def test_what_an_emulator_leaves_behind_is_ended(tmp_path: Path, image: Path) -> None:
    text = f"sleep 1000 & echo $! > {tmp_path}/pid; {GOOD}"
    assert main(command(tmp_path, text, image)) == 0
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tests_run_side_by_side_and_are_told_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.bin").write_bytes(bytes(0x104))
    # Each waits until all have started.
    text = f"""
        touch {tmp_path}/started.$$
        while [ $(ls {tmp_path}/started.* | wc -l) -lt 4 ]; do sleep 0.02; done
        {GOOD}
    """
    arguments = ["--emulator", script(tmp_path, text), "-j4", "--timeout", "60", str(tmp_path)]
    assert main(arguments) == 0
    table = capsys.readouterr().out.split("reason")[1]
    assert re.findall(r"^(\w)\.bin", table, re.M) == list("abcd")


def test_no_more_run_at_once_than_wanted(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / f"{name}.bin").write_bytes(bytes(0x104))
    text = f"""
        mkdir {tmp_path}/one 2>/dev/null || mkdir {tmp_path}/two 2>/dev/null || exit 9
        sleep 0.05
        rmdir {tmp_path}/two 2>/dev/null || rmdir {tmp_path}/one
        {GOOD}
    """
    assert main(["--emulator", script(tmp_path, text), "-j1", str(tmp_path)]) == 0


def test_files_are_kept(tmp_path: Path, image: Path) -> None:
    logs, junit = tmp_path / "deep" / "logs", tmp_path / "junit.xml"
    text = f"{GOOD}; printf '\\377\\000'; echo note >&2"
    more = ("--log-dir", str(logs), "--junit-xml", str(junit))
    assert main(command(tmp_path, text, image, *more)) == 0
    log = (logs / "image.bin.log").read_bytes()
    assert log == b"PASS: a\n\xff\x00\n[messages of the emulator]\nnote\n"
    assert ET.parse(junit).getroot().get("tests") == "1"


def test_a_full_disk_ends_the_run(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "image.bin.log").symlink_to("/dev/full")
    text = f"echo $$ > {tmp_path}/pid; {GOOD}; exec sleep 1000"
    assert main(command(tmp_path, text, image, "--log-dir", str(logs))) == 2
    assert capsys.readouterr().err.endswith("image.bin.log: No space left on device\n")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_names_of_files_may_be_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"\xff\n\x1b[1m.bin")
    (tmp_path / name).write_bytes(bytes(0x104))
    junit, logs = tmp_path / "junit.xml", tmp_path / "logs"
    more = ["--junit-xml", str(junit), "--log-dir", str(logs)]
    assert main(["--emulator", script(tmp_path, GOOD), *more, str(tmp_path / name)]) == 0
    assert "\ufffd.bin  passed" in capsys.readouterr().out
    assert [path.name for path in logs.iterdir()] == ["_.bin.log"]
    assert ET.parse(junit).getroot()[0].get("name") == "\ufffd.bin"


def test_an_emulator_that_is_not_there(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--emulator", str(tmp_path / "gone"), str(image)]) == 1
    assert "error: cannot start the emulator: No such file" in capsys.readouterr().out


def test_a_skipped_test_is_not_run(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests.toml").write_text('defaults.skip = "not today"')
    assert main(command(tmp_path, f"touch {tmp_path}/ran", image)) == 0
    assert "not today" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/gone.elf"], "/gone.elf: No such file or directory"),
        (["--config", "/gone.toml", "."], "/gone.toml: No such file or directory"),
        (["-k", "nothing*", "IMAGE"], "no test matches nothing*"),
        (["--log-dir", "/dev/null/x", "IMAGE"], "/dev/null"),
        (["--junit-xml", "/gone/x.xml", "IMAGE"], "/gone/x.xml: No such file or directory"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    image: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(image) if word == "IMAGE" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ppc64emu-test: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["-j0", "x"], ["--timeout", "-1", "x"], ["--log-size", "5", "x"], ["--result", "x", "x"], []],
)
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_list_and_select(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.bin").write_bytes(bytes(0x104))
    assert main(["--list", str(tmp_path), "-k", "o*"]) == 0
    assert capsys.readouterr().out == "other.bin\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_emulator_outlives_the_command(
    tmp_path: Path, image: Path, signum: signal.Signals
) -> None:
    text = f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000"
    arguments = [sys.executable, "-m", "emu.runner", *command(tmp_path, text, image)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as runner:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pid = int((tmp_path / "pid").read_text())
        os.kill(runner.pid, signum)
        _, errors = runner.communicate(timeout=60)
        expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
        assert runner.returncode == expected[signum]
    if signum is not signal.SIGKILL:
        assert errors.decode() == "ppc64emu-test: interrupted\n"
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
