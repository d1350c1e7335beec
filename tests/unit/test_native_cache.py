"""Compiled code is used again exactly as long as nothing that it was made from has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emu import native_cache

TREE = {
    "emu/__init__.py": "",
    "emu/low.py": "X = 1\n",
    "emu/middle.py": "from emu.low import (\n    X,\n)\n",
    "emu/other.py": "import json\n",
    "machines/__init__.py": "",
    "machines/top.py": "from emu import middle\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(native_cache, "_TOP", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    for cached in (native_cache._read, native_cache._module_file, native_cache.native_stamp):
        cached.cache_clear()


def _stamp(path: Path) -> str:
    _forget()
    return native_cache.native_stamp(str(path))


def test_closure_follows_imports_of_every_form(tree: Path) -> None:
    found = native_cache.closure(str(tree / "machines/top.py"))
    names = {str(Path(path).relative_to(tree)) for path in found}
    assert names == {"machines/top.py", "emu/__init__.py", "emu/middle.py", "emu/low.py"}


def test_stamp_changes_with_an_indirect_import(tree: Path) -> None:
    before = _stamp(tree / "machines/top.py")
    (tree / "emu/low.py").write_text("X = 2\n")
    assert _stamp(tree / "machines/top.py") != before


def test_stamp_ignores_files_that_are_not_imported(tree: Path) -> None:
    before = _stamp(tree / "machines/top.py")
    (tree / "emu/other.py").write_text("import csv\n")
    assert _stamp(tree / "machines/top.py") == before


def test_cold_until_marked_warm(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree / "cache"))
    monkeypatch.setattr(native_cache, "_HOTTEST", str(tree / "machines/top.py"))
    (tree / "cache/ppc64emu/native").mkdir(parents=True)
    assert native_cache.is_cold()
    native_cache.mark_warm()
    assert not native_cache.is_cold()
