"""The table of options: each is declared once, for the parser and for the help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.options.builder import ConfigBuilder

#: The help's sections, in order.
GROUPS = ("Machine", "Boot", "Console", "Storage", "Network", "Devices", "Debugging and help")

Handler = Callable[[ConfigBuilder, str], None]


class HelpRequested(Exception):  # noqa: N818 (not an error)
    """The user asked for text, which is the message, instead of a machine."""


@dataclass(frozen=True)
class Option:
    """One option. `argument` is its form for the help; empty: the option takes none."""

    names: tuple[str, ...]
    argument: str
    help: str
    group: str
    handler: Handler


_options: list[Option] = []
_by_name: dict[str, Option] = {}


def option(*names: str, argument: str = "", help: str, group: str) -> Callable[[Handler], Handler]:
    """Declare the decorated handler as the option called any of `names` (without the dash)."""

    def declare(handler: Handler) -> Handler:
        assert group in GROUPS
        entry = Option(names, argument, help, group, handler)
        _options.append(entry)
        _by_name.update(dict.fromkeys(names, entry))
        return handler

    return declare


def find_option(name: str) -> Option | None:
    """Return the option with that name (without dashes)."""
    return _by_name.get(name)


def all_options() -> tuple[Option, ...]:
    """Every option, as declared."""
    return tuple(_options)
