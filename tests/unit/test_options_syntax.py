"""QEMU's syntax of keys and values, numbers and sizes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import MIB, ConfigError
from emu.options.syntax import (
    join_keyvals,
    parse_keyvals,
    parse_number,
    parse_size,
)

KEYS = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(KEYS, VALUES))
def test_keyvals_round_trip(pairs: dict[str, str]) -> None:
    assert parse_keyvals(join_keyvals(pairs)) == pairs


@given(VALUES, st.dictionaries(KEYS, VALUES))
def test_implied_key_round_trip(first: str, pairs: dict[str, str]) -> None:
    text = join_keyvals({"zz-implied": first, **pairs}).removeprefix("zz-implied=")
    parsed = parse_keyvals(text, implied="zz-implied")
    if text and "=" not in first.split(",")[0]:
        assert parsed == {"zz-implied": first, **pairs}


@given(st.text(max_size=40))
def test_keyvals_never_fails_oddly(text: str) -> None:
    parse_keyvals(text, implied="x")
    if parse_keyvals(text):
        with pytest.raises(ConfigError):
            parse_keyvals(text, known=())


@given(st.integers(0, 1 << 20), st.sampled_from("bkmgtBKMGT"))
def test_size_suffixes(number: int, suffix: str) -> None:
    factor = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[suffix.lower()]
    assert parse_size("s", f"{number}{suffix}", MIB) == number * factor
    assert parse_size("s", f"{number}", MIB) == number * MIB
    assert parse_size("s", f"{number:#x}") == number


@given(st.text(max_size=12))
def test_sizes_and_numbers_never_fail_oddly(text: str) -> None:
    for parse_it in (parse_size, parse_number):
        with contextlib.suppress(ConfigError):
            assert parse_it("s", text) >= 0
