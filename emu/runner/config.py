"""Settings of test images: the TOML file, and how its tables make the tests of a directory.

    [defaults]                 # for every image
    machine = "pseries"

    [tests."smp*.elf"]         # more settings for images by name or pattern
    smp = 2

    [tests.clock-set]          # a run of its own: an image may be run several times
    image = "rtas.elf"
    append = "set"

docs/runner.md lists the keys.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

CONFIG_NAME = "tests.toml"
DEFAULT_TIMEOUT = 60.0
MAX_TIMEOUT = 7 * 86400.0


class RunnerError(Exception):
    """A mistake of the user; the text is one line for stderr."""


@dataclass(frozen=True)
class Settings:
    """How one image is run and judged; None and empty: the emulator's default.

    `timeout` is in seconds. `expect` is "pass", "fail", "timeout", "panic" or an exit status.
    `result` is "lines", or "status" if only the exit status counts. `boot` is "auto", "kernel"
    or "bios". `skip` is the reason not to run it.
    """

    machine: str = ""
    cpu: str = ""
    memory: str = ""
    smp: str = ""
    append: str = ""
    initrd: str = ""
    firmware: str = ""
    boot: str = "auto"
    devices: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    timeout: float = DEFAULT_TIMEOUT
    expect: str | int = "pass"
    result: str = "lines"
    skip: str = ""


def _text(value: Any) -> str:
    if isinstance(value, str) and "\0" not in value:
        return value
    raise ValueError("a string is needed")


def _text_or_number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(item) for item in value)
    raise ValueError("a list of strings is needed")


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT:
        return float(value)
    raise ValueError("a number of seconds above 0 is needed")


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value in choices:
            return str(value)
        raise ValueError(f"one of {', '.join(choices)} is needed")

    return convert


_EXPECTED = ("pass", "fail", "timeout", "panic")


def _expectation(value: Any) -> str | int:
    if value in _EXPECTED:
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return value
    raise ValueError(f"one of {', '.join(_EXPECTED)} or an exit status is needed")


def _skip(value: Any) -> str:
    if isinstance(value, bool):
        return "skipped by the configuration" if value else ""
    return _text(value)


#: Converters of the keys; each raises ValueError with what is needed.
KEYS: Mapping[str, Callable[[Any], Any]] = {
    "machine": _text,
    "cpu": _text,
    "memory": _text_or_number,
    "smp": _text_or_number,
    "append": _text,
    "initrd": _text,
    "firmware": _text,
    "boot": _one_of("auto", "kernel", "bios"),
    "devices": _texts,
    "arguments": _texts,
    "timeout": _seconds,
    "expect": _expectation,
    "result": _one_of("lines", "status"),
    "skip": _skip,
}
assert set(KEYS) == {entry.name for entry in fields(Settings)}


@dataclass(frozen=True)
class TestTable:
    """One `[tests.NAME]`: `image` is empty if NAME is a pattern that only adds settings."""

    __test__ = False  # not pytest's

    name: str
    image: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """A configuration file; `directory` is where its relative paths start."""

    directory: Path | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[TestTable, ...] = ()


def load_config(path: Path) -> Config:
    """Read a file; RunnerError says what is wrong with it, and where."""
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RunnerError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunnerError(f"{path}: {' '.join(str(error).split())}") from error
    for key in tree:
        if key not in ("defaults", "tests"):
            raise RunnerError(f"{path}: unknown table '{key}' (known: defaults, tests)")
    defaults = _settings(f"{path}: defaults", tree.get("defaults", {}))
    tests = tree.get("tests", {})
    if not isinstance(tests, dict):
        raise RunnerError(f"{path}: tests: tables [tests.NAME] are needed")
    tables = tuple(_table(path, name, value) for name, value in tests.items())
    return Config(path.resolve().parent, defaults, tables)


def _table(path: Path, name: str, value: Any) -> TestTable:
    where = f"{path}: tests.{name}"
    if not isinstance(value, dict):
        raise RunnerError(f"{where}: a table is needed")
    if re.search(r"[\x00-\x1f\x7f]", name) or not name.strip():
        raise RunnerError(f"{where!r}: the name has control characters or is empty")
    rest = dict(value)
    image = rest.pop("image", "")
    if not isinstance(image, str) or "\0" in image:
        raise RunnerError(f"{where}: image: a string is needed")
    return TestTable(name, image, _settings(where, rest))


def _settings(where: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise RunnerError(f"{where}: a table is needed")
    result = {}
    for key, value in table.items():
        if key not in KEYS:
            raise RunnerError(f"{where}: unknown key '{key}' (known: image, {', '.join(KEYS)})")
        try:
            result[key] = KEYS[key](value)
        except ValueError as error:
            raise RunnerError(f"{where}: {key}: {error}") from error
    return result
