"""From paths and configuration files to the list of tests."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from emu.runner.config import CONFIG_NAME, Config, RunnerError, Settings, TestTable, load_config
from emu.runner.lines import clean
from firmware.elf_header import ELFDATA2LSB, EM_PPC64, ET_DYN, ET_EXEC, is_elf

#: Endings of raw images that a directory is searched for.
RAW_SUFFIXES = (".bin", ".flat", ".raw")
_HEADER_SIZE = 64


@dataclass(frozen=True)
class Test:
    """One run of one image; relative paths of its settings start at `directory`."""

    __test__ = False  # not pytest's

    name: str
    image: Path
    settings: Settings
    directory: Path
    elf: bool


def collect(
    paths: Iterable[str], config: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> list[Test]:
    """The tests of files and directories, in order; RunnerError if there are none.

    `config` is the configuration for all; without one, that beside the images counts.
    `overrides` (converted settings by key) come after the defaults of a configuration.
    """
    given = None if config is None else load_config(config)
    known: dict[Path, Config] = {}
    tests: list[Test] = []
    for text in paths:
        path = Path(text)
        home = path if path.is_dir() else path.parent
        settings = given or _config_of(home, known)
        single = not path.is_dir()
        found = [_existing(path)] if single else _images_in(path, settings)
        if not single:
            _check_all_are_there(settings, found)
        for image in found:
            tests += _tests_of(image, settings, overrides or {}, path if single else None)
    if not tests:
        raise RunnerError("no test images found")
    return _with_unique_names(tests)


def _config_of(home: Path, known: dict[Path, Config]) -> Config:
    home = home.resolve()
    if home not in known:
        path = home / CONFIG_NAME
        known[home] = load_config(path) if path.is_file() else Config()
    return known[home]


def _existing(path: Path) -> Path:
    _header(path)
    return path


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_SIZE)
    except OSError as error:
        raise RunnerError(f"{path}: {error.strerror}") from error


def _is_executable(header: bytes) -> bool:
    """Whether an ELF header is that of an executable for ppc64: no object file, no host program."""
    if len(header) < _HEADER_SIZE or not is_elf(memoryview(header)):
        return False
    order: Literal["little", "big"] = "little" if header[5] == ELFDATA2LSB else "big"
    kind, machine = (int.from_bytes(header[at : at + 2], order) for at in (16, 18))
    return kind in (ET_EXEC, ET_DYN) and machine == EM_PPC64


def _images_in(directory: Path, config: Config) -> list[Path]:
    """ELF files and those named as raw images, without the firmware that tests are run with."""
    tables = [config.defaults, *(table.settings for table in config.tables)]
    firmware = {
        (config.directory or directory).joinpath(table["firmware"]).resolve()
        for table in tables
        if table.get("firmware")
    }
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise RunnerError(f"{directory}: {error.strerror}") from error
    return [
        entry
        for entry in entries
        if entry.is_file()
        and entry.resolve() not in firmware
        and (entry.suffix in RAW_SUFFIXES or _is_executable(_header(entry)))
    ]


def _tests_of(
    image: Path, config: Config, overrides: Mapping[str, Any], given: Path | None
) -> list[Test]:
    base: dict[str, Any] = {**config.defaults, **overrides}
    for table in config.tables:
        if not table.image and fnmatch.fnmatchcase(image.name, table.name):
            base |= table.settings
    directory = config.directory or Path.cwd()
    elf = is_elf(memoryview(_header(image)))
    image = image.resolve()

    def test(name: str, more: Mapping[str, Any]) -> Test:
        return Test(clean(os.fsencode(name)), image, Settings(**{**base, **more}), directory, elf)

    runs = [table for table in config.tables if table.image and _is_run_of(table, image)]
    return [test(run.name, run.settings) for run in runs] or [test((given or image).name, {})]


def _check_all_are_there(config: Config, images: list[Path]) -> None:
    for table in config.tables:
        if table.image and not any(_is_run_of(table, image) for image in images):
            raise RunnerError(f"tests.{table.name}: there is no image '{table.image}'")


def _is_run_of(table: TestTable, image: Path) -> bool:
    return fnmatch.fnmatchcase(image.name, table.image)


def _with_unique_names(tests: list[Test]) -> list[Test]:
    """The names, with the directory in front and then a number where they are not unique."""
    counts = Counter(test.name for test in tests)
    tests = [
        replace(test, name=f"{test.image.parent.name}/{test.name}")
        if counts[test.name] > 1
        else test
        for test in tests
    ]
    counts = Counter(test.name for test in tests)
    seen: Counter[str] = Counter()
    result = []
    for test in tests:
        seen[test.name] += 1
        number = f"#{seen[test.name]}" if counts[test.name] > 1 else ""
        result.append(replace(test, name=f"{test.name}{number}"))
    return result
