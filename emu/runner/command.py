"""The emulator's command line for one test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from emu.runner.collect import Test
from emu.runner.config import Settings

#: Console on the standard output, nothing else there.
_ALWAYS = ("-nodefaults", "-display", "none", "-serial", "stdio")


@dataclass(frozen=True)
class Emulator:
    """What runs the images: `command` is a program in QEMU's manner, empty for ours."""

    command: tuple[str, ...] = ()

    @property
    def own(self) -> bool:
        """Whether it is ours, which has the test exit on pseries and can be forked."""
        return not self.command


def emulator_arguments(test: Test, emulator: Emulator, extra: Sequence[str] = ()) -> list[str]:
    """Options (without the program) that run a test; `extra` come last."""
    settings = test.settings
    arguments = [*_ALWAYS]
    if machine := _machine(settings, emulator):
        arguments += ["-M", machine]
    pairs = (
        ("-cpu", settings.cpu),
        ("-m", settings.memory),
        ("-smp", settings.smp),
        *_images(test),
        ("-initrd", _path(test, settings.initrd)),
        ("-append", settings.append),
        *(("-device", device) for device in settings.devices),
    )
    for option, value in pairs:
        if value:
            arguments += [option, value]
    return [*arguments, *settings.arguments, *extra]


def _machine(settings: Settings, emulator: Emulator) -> str:
    name = settings.machine or ("pseries" if emulator.own else "")
    kind = name.partition(",")[0].removeprefix("type=")
    if emulator.own and kind == "pseries" and "x-test-exit=" not in name:
        return f"{name},x-test-exit=on"
    return name


def _images(test: Test) -> list[tuple[str, str]]:
    """A raw image starts as firmware does; an ELF image as a kernel if nothing else is said."""
    boot = test.settings.boot
    if boot == "auto":
        boot = "kernel" if test.elf or test.settings.firmware else "bios"
    options = [(f"-{boot}", os.fspath(test.image))]
    if test.settings.firmware and boot == "kernel":
        options.append(("-bios", _path(test, test.settings.firmware)))
    return options


def _path(test: Test, text: str) -> str:
    return os.fspath(test.directory / text) if text else ""
