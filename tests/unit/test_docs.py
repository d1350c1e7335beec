"""The documents tell of what there is: drivers, properties, rooms; and their code runs."""

from __future__ import annotations

import re
from pathlib import Path

from devices.registry import ALIASES, DRIVERS
from emu.options.backends import BACKENDS
from emu.options.netdevs import NETDEVS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def words(document: str) -> set[str]:
    """What stands in backquotes, in a document's text."""
    return set(re.findall(r"`([^`\n]+)`", (DOCS / document).read_text()))


def test_every_driver_and_property_is_in_the_document() -> None:
    told = words("devices.md")
    variants = ("-transitional", "-non-transitional")
    drivers = {name for name in DRIVERS if not name.endswith(variants)}
    assert drivers <= told
    missing = {
        f"{driver.name}.{name}"
        for driver in DRIVERS.values()
        for name in driver.properties
        if name not in told and f"{name}=0" not in told
    }
    assert missing == set()


def test_every_host_side_is_in_the_document() -> None:
    assert set(NETDEVS) | set(BACKENDS) <= words("devices.md")


def test_no_driver_in_the_document_is_missing() -> None:
    told = {word for word in words("devices.md") if re.fullmatch(r"(virtio|spapr)-[a-z-]+", word)}
    assert told <= {*DRIVERS, *ALIASES}


def packages(top: str) -> set[str]:
    """Directories of Python files, to the second level."""
    found = {path.parent.relative_to(ROOT) for path in (ROOT / top).glob("*/*.py")}
    return {f"{path}/" for path in found}


def test_every_room_is_in_the_architecture() -> None:
    assert packages("emu") | packages("devices") | packages("machines") <= words("architecture.md")


def test_files_in_the_architecture_exist() -> None:
    for word in words("architecture.md"):
        if re.fullmatch(r"[\w/*]+\.py", word):
            folder = ROOT if "/" in word else ROOT / "machines/pseries"
            assert list(folder.glob(word)), word


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (DOCS / target).exists(), f"{document.name}: {target}"
