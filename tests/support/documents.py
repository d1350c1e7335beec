"""Code in documents, taken out so that tests can run it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from devices import registry, registry_virtio
from devices.registry_virtio import VirtioType

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LABEL = re.compile(r"# (\S+)(?:, (\w+))?\n")


def blocks(document: str, language: str = "python") -> dict[tuple[str, str], str]:
    """Blocks of code by the file, and the place in it, that their first line names."""
    found = {}
    for kind, code in _BLOCK.findall((DOCS / document).read_text()):
        if kind == language:
            label = _LABEL.match(code)
            assert label is not None, f"{document}: a block without a file's name"
            found[label[1], label[2] or ""] = code
    return found


class FillDevice:
    """The device of docs/adding-a-device.md, as if its code were in the tree."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._code = blocks("adding-a-device.md")
        self._monkeypatch = monkeypatch
        self.module = self.load("devices/virtio/fill.py")
        namespace = dict(vars(registry_virtio))
        exec(self._code["devices/registry_virtio.py", ""], namespace)
        lines = self._code["devices/registry_virtio.py", "VIRTIO_TYPES"]
        (self.entry,) = eval(f"({lines})", namespace)  # the comma makes it a tuple
        assert isinstance(self.entry, VirtioType)
        for driver in registry._virtio_drivers(self.entry):
            monkeypatch.setitem(registry.DRIVERS, driver.name, driver)

    def load(self, path: str) -> ModuleType:
        """Run a file of the page as the module it would be."""
        name = path.removesuffix(".py").replace("/", ".")
        module = ModuleType(name)
        self._monkeypatch.setitem(sys.modules, name, module)
        exec(compile(self._code[path, ""], path, "exec"), vars(module))
        return module

    def tests(self, path: str) -> dict[str, Callable[..., None]]:
        """The test functions of a file of the page."""
        module = self.load(path)
        return {name: item for name, item in vars(module).items() if name.startswith("test_")}
