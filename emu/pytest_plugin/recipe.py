"""From what a test says about its machine (options, keywords, a configuration) to a MachineConfig.

    recipe("-cpu", "power9", kernel="vmlinux", append="console=hvc0", device=["virtio-rng-pci"])

Positional arguments are words of the command line, in QEMU's syntax. A keyword is the option of
that name: `m="1G"` is `-m 1G`, `no_reboot=True` is `-no-reboot`, a list repeats the option.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from emu.chardev.config import ChardevConfig, ConfigError, MemoryConfig, StdioConfig

if TYPE_CHECKING:
    from emu.config import MachineConfig

#: Byte orders as they are written for guests, and as Python calls them.
ENDIANS: Mapping[str, str] = {"be": "big", "le": "little", "big": "big", "little": "little"}


@dataclass(frozen=True)
class Recipe:
    """Words of a command line, or a configuration."""

    words: tuple[str, ...] = ()
    config: MachineConfig | None = None

    def build(self, cell: Mapping[str, str] | None = None) -> MachineConfig:
        """The configuration, for a cell of the matrix; ConfigError for mistakes.

        Consoles on stdio are kept in memory; without -serial there is one such console.
        `cell` may have "cpu" and "endian": `{cpu}` and `{endian}` in words are replaced, and the
        CPU is the machine's.
        """
        cell = cell or {}
        if self.config is not None:
            config = replace(self.config, cpu=cell["cpu"]) if "cpu" in cell else self.config
            return _with_memory_console(config)
        words = [_filled(word, cell) for word in self.words]
        if "cpu" in cell:
            words += ["-cpu", cell["cpu"]]
        console = not any(word in ("-serial", "--serial") or "spapr-vty" in word for word in words)
        if console:
            words += ["-serial", "null"]
        from emu.options import HelpRequested, parse_command_line

        try:
            config = parse_command_line(words, warn=_warn)
        except HelpRequested as text:
            raise ConfigError(f"a test cannot ask for help:\n{text}") from None
        if console:
            config = replace(config, serial=(MemoryConfig(id="serial0"),))
        return _with_memory_console(config)


def recipe(*arguments: Any, **options: Any) -> Recipe:
    """What a test's arguments mean; ConfigError if they cannot be meant."""
    from emu.config import MachineConfig

    if arguments and isinstance(arguments[0], MachineConfig):
        if len(arguments) > 1 or options:
            raise ConfigError("give a MachineConfig alone, without options")
        return Recipe(config=arguments[0])
    return Recipe(tuple(option_words(arguments, options)))


def option_words(arguments: Sequence[Any], options: Mapping[str, Any]) -> list[str]:
    """The command line that positional and keyword arguments stand for."""
    words = [_text(argument) for argument in arguments]
    for name, value in options.items():
        option = "-" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif isinstance(value, list | tuple):
            for item in value:
                words += [option, _text(item)]
        elif value is not None and value is not False:
            words += [option, _text(value)]
    return words


def _text(value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{value!r} is no option: a string, a path or a number is needed")


def _filled(word: str, cell: Mapping[str, str]) -> str:
    for name, value in cell.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _warn(message: str) -> None:
    warnings.warn(f"ppc64emu: {message}", stacklevel=2)


def _with_memory_console(config: MachineConfig) -> MachineConfig:
    """The terminal is pytest's: what would be on standard input and output is kept in memory."""
    replaced: dict[int, ChardevConfig] = {}

    def memory(chardev: ChardevConfig) -> ChardevConfig:
        if not isinstance(chardev, StdioConfig):
            return chardev
        return replaced.setdefault(id(chardev), MemoryConfig(id=chardev.id))

    serial = tuple(memory(chardev) for chardev in config.serial)
    chardevs = {name: memory(chardev) for name, chardev in config.chardevs.items()}
    if any(isinstance(monitor.chardev, StdioConfig) for monitor in config.monitors):
        raise ConfigError("a monitor cannot be on stdio: the terminal is pytest's")
    if not replaced:
        return config
    return replace(config, serial=serial, chardevs=chardevs)
