"""QMP commands by name, with the arguments they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.machine import Machine

Arguments = dict[str, Any]
Handler = Callable[["Machine", Arguments], Any]


class QmpError(Exception):
    """A command failed; ``kind`` is QMP's error class, the text its description."""

    def __init__(self, description: str, kind: str = "GenericError") -> None:
        super().__init__(description)
        self.kind = kind


@dataclass(frozen=True)
class Command:
    """One command.  ``arguments`` maps names to types; a trailing ``?`` marks optional ones."""

    name: str
    handler: Handler
    arguments: Mapping[str, type]

    def check(self, given: Any) -> Arguments:
        """The arguments if they fit; :class:`QmpError` otherwise, in QEMU's words."""
        if not isinstance(given, dict):
            raise QmpError("QMP input member 'arguments' must be an object")
        known = {name.rstrip("?"): kind for name, kind in self.arguments.items()}
        for name, value in given.items():
            if name not in known:
                raise QmpError(f"Parameter '{name}' is unexpected")
            if not _is(value, known[name]):
                raise QmpError(
                    f"Invalid parameter type for '{name}', expected: {_NAMES[known[name]]}"
                )
        for name in self.arguments:
            if not name.endswith("?") and name not in given:
                raise QmpError(f"Parameter '{name}' is missing")
        return given


_NAMES = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object"}


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


COMMANDS: dict[str, Command] = {}


def command(name: str, /, **arguments: type) -> Callable[[Handler], Handler]:
    """Register a command; ``_`` in an argument's name stands for ``-``, ``_opt`` for optional."""

    def register(handler: Handler) -> Handler:
        named = {
            (key.removesuffix("_opt") + ("?" if key.endswith("_opt") else "")).replace("_", "-"): t
            for key, t in arguments.items()
        }
        COMMANDS[name] = Command(name, handler, named)
        return handler

    return register
