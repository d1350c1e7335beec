"""Reading and changing flattened trees, good ones and broken ones."""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import subprocess

import fdt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.flat_tree import DeviceTree
from firmware.flat_tree_edit import MAX_NAME, drop, replace, tree_size, walk


def blob() -> bytes:
    tree = DeviceTree()
    tree.root.string("model", "m")
    chosen = tree.root.child("chosen")
    chosen.u32("a", 1)
    chosen.raw("odd", b"12345")
    chosen.flag("flag")
    chosen.child("inner@1").u64("reg", 5)
    return tree.to_bytes()


BLOB = blob()


def names(data: bytes | bytearray) -> list[tuple[str, str]]:
    return [(item.node, item.name) for item in walk(data)]


def test_walk_finds_every_property_with_its_path() -> None:
    assert names(BLOB) == [
        ("/", "model"),
        ("/chosen", "a"),
        ("/chosen", "odd"),
        ("/chosen", "flag"),
        ("/chosen/inner@1", "reg"),
    ]
    values = {item.name: BLOB[item.start : item.start + item.length] for item in walk(BLOB)}
    assert values["odd"] == b"12345"
    assert values["reg"] == struct.pack(">Q", 5)


@pytest.mark.parametrize("name", ["model", "a", "odd", "flag", "reg"])
def test_dropped_property_is_gone_for_other_readers_too(name: str) -> None:
    data = bytearray(BLOB)
    (item,) = (item for item in walk(BLOB) if item.name == name)
    drop(data, item)
    assert names(data) == [place for place in names(BLOB) if place[1] != name]
    if shutil.which("dtc"):
        command = ["dtc", "-q", "-I", "dtb", "-O", "dts"]
        text = subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode()
        assert len(re.findall(r"\b(model|a|odd|flag|reg)(?= =|;)", text)) == 4
        assert not re.search(rf"\b{name}(?= =|;)", text)


def test_replace_keeps_the_length() -> None:
    data = bytearray(BLOB)
    (item,) = (item for item in walk(BLOB) if item.name == "a")
    replace(data, item, b"\0\0\0\7")
    assert fdt.parse_dtb(bytes(data)).get_property("a", "/chosen").value == 7
    with pytest.raises(ValueError, match="4 bytes"):
        replace(data, item, b"\0")


@pytest.mark.parametrize("kind", ["node", "property"])
def test_names_have_a_longest(kind: str) -> None:
    for length in (MAX_NAME, MAX_NAME + 1):
        tree = DeviceTree()
        name = "n" * length
        (tree.root.child(name) if kind == "node" else tree.root).flag(
            name if kind != "node" else "a"
        )
        if length == MAX_NAME:
            assert len(names(tree.to_bytes())) == 1
        else:
            with pytest.raises(ValueError, match="too long"):
                names(tree.to_bytes())


def test_size_of_no_tree() -> None:
    assert tree_size(BLOB[:8]) == len(BLOB)
    with pytest.raises(ValueError, match="no header"):
        tree_size(bytes(8))


@given(st.data())
def test_damaged_trees_end_in_an_answer_or_a_value_error(data: st.DataObject) -> None:
    damaged = bytearray(BLOB)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(BLOB) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(BLOB)))
    with contextlib.suppress(ValueError):
        for item in walk(damaged[:cut]):
            assert item.start + item.length <= cut
