"""A directory of test images of both byte orders: what each does, and what its result is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.guest_images import write_image
from tests.support.guest_kernels import boot_rom, kernel_image

#: Seconds until a hanging image is ended; the others have much more.
HANG_TIMEOUT = 5
TIMEOUT = 60


@dataclass(frozen=True)
class Expected:
    """Result of one test, and words of its reason."""

    outcome: str
    reason: str = ""


PASSED, FAILED = Expected("passed"), Expected("failed")

#: By the name of the test in tests/guest/tests/results.c, with its "status" after a colon.
ON_PSERIES = {
    "hello": PASSED,
    "tap-pass": PASSED,
    "tap-fail": Expected("failed", "failed: second"),
    "tap-short": Expected("failed", "planned 3 tests but ran 2"),
    "tap-skip": Expected("skipped", "nothing to test here"),
    "tap-bail": Expected("failed", "bail out: the device is gone"),
    "unit-pass": PASSED,
    "unit-fail": Expected("failed", "failed: two"),
    "unit-abort": Expected("failed", "aborted: two: no memory"),
    "unit-skip": Expected("skipped", "one: not on this CPU"),
    "status:0": PASSED,
    "status:5": Expected("failed", "exit status 5"),
    "status:77": Expected("skipped", "exit status 77"),
    "silent": Expected("failed", "no result lines on the console"),
    "hang": Expected("failed", f"timeout after {HANG_TIMEOUT} s"),
    "panic": Expected("failed", "guest panic: the guest gives up"),
    "trap": Expected("failed", "vector=700"),
    "garbage": PASSED,
    "flood": PASSED,
}
ON_VIRTMMIO = {
    "hello": PASSED,
    "tap-pass": PASSED,
    "status:5": Expected("failed", "exit status 5"),
    "panic": Expected("failed", "guest panic: checkstop"),
    "garbage": PASSED,
}
#: ELF images started as kernels, through our small firmware ("rom") or directly.
AS_KERNEL = {"unit-pass": PASSED, "status:5": Expected("failed", "exit status 5")}


def write_image_set(directory: Path) -> dict[str, Expected]:
    """Write images and tests.toml; the results that a run of the directory must give."""
    expected = {}
    for order in ("be", "le"):
        for board, tests in (("pseries", ON_PSERIES), ("virtmmio", ON_VIRTMMIO)):
            for what, result in tests.items():
                name = f"{board}-{what.replace(':', '-')}-{order}.bin"
                test, _, status = what.partition(":")
                write_image(directory / name, test=test, order=order, status=status or "0")
                expected[name] = result
        shutil.copy(kernel_image(order), directory / f"kernel-{order}.elf")
    shutil.copy(boot_rom(), directory / "rom.bin")
    (directory / "tests.toml").write_text(_configuration())
    return expected | {name: AS_KERNEL[what] for name, _, what, _ in _kernel_runs()}


def _kernel_runs() -> list[tuple[str, str, str, str]]:
    """Name, byte order, test and firmware."""
    return [
        (f"{start}-{what.replace(':', '-')}-{order}", order, what, start)
        for order in ("be", "le")
        for what in AS_KERNEL
        for start in ("rom", "direct")
    ]


def _configuration() -> str:
    lines = [
        f"[defaults]\ntimeout = {TIMEOUT}",
        f'[tests."*-hang-*"]\ntimeout = {HANG_TIMEOUT}',
        '[tests."virtmmio-*"]\nmachine = "virtmmio"\nmemory = 64',
    ]
    for name, order, what, start in _kernel_runs():
        test, _, status = what.partition(":")
        lines.append(f'[tests.{name}]\nimage = "kernel-{order}.elf"')
        lines.append(f'append = "test={test} order={order} status={status}"')
        if start == "rom":
            lines.append('firmware = "rom.bin"')
    return "\n".join(lines) + "\n"
