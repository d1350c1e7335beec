"""-dfilter's ranges, and the options for traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.config import ConfigError
from emu.config_trace import ProfileConfig, SymbolFile
from emu.log import DESCRIPTIONS
from emu.options import HelpRequested, parse_command_line
from emu.trace.filter import MAX_RANGES, parse_ranges


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("0x8000..0x8fff", 0x8000, 0x8FFF),
        ("0xffffffc000080000+0x200", 0xFFFFFFC000080000, 0xFFFFFFC0000801FF),
        ("0xffffffc000060000-0x1000", 0xFFFFFFC00005F001, 0xFFFFFFC000060000),
        ("4096+1", 4096, 4096),
        ("010..0X20", 8, 0x20),
        ("0xffffffffffffffff+1", (1 << 64) - 1, (1 << 64) - 1),
    ],
)
def test_ranges_are_those_of_qemu(text: str, first: int, last: int) -> None:
    assert parse_ranges(text) == ((first, last),)


def test_ranges_may_be_many() -> None:
    assert parse_ranges("1+1,2..3") == ((1, 1), (2, 3))


@pytest.mark.parametrize(
    "text",
    ["", "1", "1+", "+1", "1..x", "2..1", "5+0", "5-0", "0-2", "089+1", "1+1,", "1~2",
     "0x10000000000000000+1", "0xffffffffffffffff+2", "-1..2", "1...2"],
)  # fmt: skip
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="range"):
        parse_ranges(text)


def test_there_is_a_limit() -> None:
    parse_ranges(",".join(["1+1"] * MAX_RANGES))
    with pytest.raises(ConfigError, match="at most"):
        parse_ranges(",".join(["1+1"] * (MAX_RANGES + 1)))


def test_options_fill_the_configuration(tmp_path: Path) -> None:
    names = tmp_path / "names@2"
    names.write_text("")
    argv = ["-dfilter", "9+9", "-dfilter", "1+2", "-profile", "out,hz=50"]
    argv += ["-symbols", str(names), "-symbols", f"{names}@0x10", "-d", "in_asm,int", "-d", "exec"]
    config = parse_command_line(argv)
    assert config.trace.ranges == ((1, 2),)
    assert config.trace.symbols == (SymbolFile(str(names)), SymbolFile(str(names), 0x10))
    assert config.trace.profile == ProfileConfig("out", 50)
    assert config.log_items == {"in_asm", "int", "exec"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-dfilter", "1"], "-dfilter 1: bad range '1'"),
        (["-symbols", "/no/such"], "-symbols /no/such: /no/such: No such file"),
        (["-symbols", "/dev/null@x"], "'x' is not an address"),
        (["-profile", ",hz=5"], "Parameter 'file' is missing"),
        (["-profile", "f,hz=0"], "hz is a number from 1 to"),
        (["-profile", "f,rate=1"], "rate"),
    ],
)
def test_mistakes_name_the_option(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_command_line(argv)


def test_unknown_item_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        parse_command_line(["-d", "in_asm,foo"])
    assert "unknown log item 'foo'" in str(error.value)
    assert all(name in str(error.value) for name in DESCRIPTIONS)
    assert "\n" not in str(error.value)


def test_help_lists_the_items() -> None:
    with pytest.raises(HelpRequested) as text:
        parse_command_line(["-d", "help"])
    lines = str(text.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*DESCRIPTIONS, "all"]
