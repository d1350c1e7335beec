"""Test harnesses that take the emulator from a variable such as QEMU= find in ours what they need.

The command lines are those of kvm-unit-tests' scripts for powerpc; the images are our own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guest_images import ROOT, missing_compilers
from tests.support.guest_kernels import boot_rom, kernel_image

pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers"),
]
EMULATOR = [sys.executable, "-m", "emu"]
MACHINE = "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"
SECONDS = 120.0
MISSING = "_NO_FILE_4Uhere_"


def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the emulator to its end."""
    return subprocess.run(
        [*EMULATOR, *arguments],
        **{"stdin": subprocess.DEVNULL, **options},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def messages(errors: str) -> list[str]:
    """Standard error without the note that this is the first run."""
    return [line for line in errors.splitlines() if "compiling hot paths" not in line]


def options_for(kernel: str, *more: str) -> list[str]:
    """The harness's options for one test."""
    return [
        *("-nodefaults", "-accel", "tcg", "-machine", MACHINE, "-bios", str(boot_rom())),
        *("-display", "none", "-serial", "stdio", "-kernel", kernel, *more),
    ]


def options_for_test(name: str, order: str, *more: str) -> list[str]:
    """The harness's options for one of our images."""
    append = f"test={name} order={order}"
    return options_for(str(kernel_image(order)), "-append", append, *more)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_says_what_it_is_like(option: str) -> None:
    result = call(option)
    assert result.returncode == 0
    assert "QEMU" in result.stdout


@pytest.mark.parametrize("option", ["-version", "--version"])
def test_version_has_the_version_of_qemu_to_compare_with(option: str) -> None:
    assert re.search(r"QEMU emulator version (\d+)\.(\d+)\.(\d+)", call(option).stdout)


@pytest.mark.parametrize(
    ("question", "answer"), [(["-machine", "?"], "pseries"), (["-device", "?"], "virtio-blk-pci")]
)
def test_lists(question: list[str], answer: str) -> None:
    result = call(*question)
    assert result.returncode == 0
    assert answer in result.stdout


def test_a_kernel_that_is_not_there_is_reported_last() -> None:
    """Harnesses give one to find out whether the rest of the options is refused."""
    result = call(*options_for(MISSING, "-smp", "1"))
    assert result.returncode == 1
    assert f"could not open kernel '{MISSING}'" in result.stderr
    refused = call(*options_for(MISSING, "-smp", "1000"))
    assert refused.returncode == 1
    assert "could not open kernel" not in refused.stderr
    assert re.search(r"SMP CPUs.*\d+$", refused.stderr.strip())


@pytest.mark.parametrize("order", ["be", "le"])
def test_a_test_is_run_and_its_lines_are_on_stdout(order: str, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    environment.write_text("QEMU_ACCEL=tcg\n")
    more = ("-smp", "1", "-m", "1g", "-initrd", str(environment))
    result = call(*options_for_test("unit-pass", order, *more))
    assert (result.returncode, messages(result.stderr)) == (0, [])
    assert result.stdout.startswith("PASS: one: two\n")
    assert result.stdout.endswith("\n\nEXIT: STATUS=1\n")


def test_standard_input_may_be_closed() -> None:
    more = options_for_test("unit-pass", "be")
    result = call(*more, stdin=None, preexec_fn=lambda: os.close(0))
    assert result.returncode == 0
    assert result.stdout.endswith("EXIT: STATUS=1\n")


def test_timeout_ends_a_test_that_hangs() -> None:
    command = ["timeout", "-k", "30s", "--foreground", "10s", *EMULATOR]
    result = subprocess.run(
        [*command, *options_for_test("hang", "le")],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 124
    assert result.stdout == "PASS: one\n"
    assert "terminating on signal 15" in result.stderr


@pytest.mark.parametrize("base", ["2006-06-17", "2006-06-17T16:01:21"])
def test_the_clock_starts_where_it_is_told(base: str) -> None:
    result = call(*options_for_test("clock", "be", "-rtc", f"base={base}"))
    found = re.search(r"^PASS: clock (\d+) (\d+) (\d+)$", result.stdout, re.M)
    assert found is not None, result.stdout + result.stderr
    assert found.groups() == ("2006", "6", "17")


def test_instruction_counting_is_accepted() -> None:
    result = call(*options_for_test("unit-pass", "be", "-icount", "shift=5"))
    assert result.returncode == 0
    assert "warning" in result.stderr


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """An emulator whose console is a pipe; it is ended after the test."""
    process = subprocess.Popen(
        [*EMULATOR, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def qmp(path: Path, command: str) -> list[dict[str, Any]]:
    """Send a command as the harness does: both requests at once, then no more input."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        client.sendall(b'{ "execute": "qmp_capabilities" }{ "execute": %s }\n' % command.encode())
        client.shutdown(socket.SHUT_WR)
        text = b""
        while text.count(b'"return"') + text.count(b'"error"') < 2:
            data = client.recv(4096)
            if not data:
                break
            text += data
    return [json.loads(line) for line in text.decode().splitlines()]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Lines of the console up to one with `text`."""
    assert process.stdout is not None
    lines = ""
    for line in process.stdout:
        lines += line
        if text in line:
            return lines
    raise AssertionError(f"{text!r} is not in {lines!r}")


def press(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("order", ["be", "le"])
def test_a_test_is_migrated_when_it_asks(order: str, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    monitors = [tmp_path / "source.qmp", tmp_path / "destination.qmp"]
    command = [
        [
            *options_for_test("migrate", order),
            *("-chardev", f"socket,id=mon,path={path},server=on,wait=off"),
            *("-mon", "chardev=mon,mode=control"),
        ]
        for path in monitors
    ]
    with (
        started(*command[0]) as source,
        started(*command[1], "-incoming", f"unix:{incoming}") as destination,
    ):
        assert read_until(source, "Now migrate the VM").startswith("PASS: before\n")
        for path in (incoming, *monitors):
            wait_for(path)
        qmp(monitors[0], f'"migrate", "arguments": {{ "uri": "unix:{incoming}" }}')
        deadline = time.monotonic() + SECONDS
        while '"completed"' not in json.dumps(status := qmp(monitors[0], '"query-migrate"')):
            assert "failed" not in json.dumps(status)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        qmp(monitors[0], '"quit"')
        assert source.wait(SECONDS) == 0
        press(destination)
        assert read_until(destination, "EXIT: STATUS=1").startswith("PASS: after\n")
        assert destination.wait(SECONDS) == 0
        assert not incoming.exists()


def test_a_panic_is_told_through_named_pipes(tmp_path: Path) -> None:
    pipes = [Path(f"{tmp_path}/mon.{end}") for end in ("in", "out")]
    for pipe in pipes:
        os.mkfifo(pipe)
    monitor = ["-chardev", f"pipe,id=mon,path={tmp_path}/mon", "-mon", "chardev=mon,mode=control"]
    with started(*options_for_test("panic", "be"), *monitor, "-S") as process:
        with pipes[0].open("w") as commands:
            commands.write('{ "execute": "qmp_capabilities" }{ "execute": "cont" }\n')
        with pipes[1].open() as events:
            assert any(json.loads(line).get("event") == "GUEST_PANICKED" for line in events)
        assert process.wait(SECONDS) == 3


@pytest.mark.skipif(shutil.which("qemu-system-ppc64") is None, reason="no QEMU to compare with")
@pytest.mark.parametrize("order", ["be", "le"])
def test_our_images_are_the_same_to_qemu(order: str) -> None:
    result = subprocess.run(
        ["qemu-system-ppc64", *options_for_test("unit-pass", order)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0
    assert result.stdout.endswith(
        "SUMMARY: 3 tests, 1 expected failures, 1 skipped\n\nEXIT: STATUS=1\n"
    )


def test_a_signal_is_named_on_stderr() -> None:
    with started(*options_for_test("hang", "be")) as process:
        read_until(process, "PASS: one")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        assert "terminating on signal 2" in errors


@pytest.mark.parametrize(
    ("machine", "status"),
    [("pseries", 0), ("pseries,x-test-exit=off", 0), ("pseries,x-test-exit=on", 5)],
)
def test_the_test_exit_is_only_there_on_request(machine: str, status: int) -> None:
    append = "test=status order=be status=5"
    console = ["-nodefaults", "-serial", "stdio"]
    result = call("-M", machine, *console, "-kernel", str(kernel_image("be")), "-append", append)
    assert (result.returncode, result.stdout) == (status, "PASS: one\n")
    assert ("unknown hypercall 0x7e570000" in result.stderr) is (status == 0)
