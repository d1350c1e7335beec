"""Reads the host's apt sources and writes private ones for another architecture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

Stanza = dict[str, str]

# These would tie a source to the host's architecture or index selection.
_DROPPED_OPTIONS = {"architectures", "arch", "targets", "pdiffs", "by-hash"}
_OPTION_FIELDS = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "snapshot": "Snapshot",
}


def parse_deb822(text: str) -> list[Stanza]:
    """Split a `.sources` file into stanzas: field names as written, values with their newlines."""
    stanzas: list[Stanza] = []
    current: Stanza = {}
    field = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if current:
                stanzas.append(current)
            current, field = {}, ""
        elif line[0] in " \t":
            if field:
                current[field] += "\n" + line
        else:
            name, colon, value = line.partition(":")
            if colon:
                field = name.strip()
                current[field] = value.strip()
    return stanzas


def parse_one_line(text: str) -> list[Stanza]:
    """Read a `sources.list` file, one source a line, as deb822 stanzas."""
    stanzas = []
    for line in text.splitlines():
        found = re.match(r"\s*(deb|deb-src)\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)([^#]*)", line)
        if not found:
            continue
        kind, options, uri, suite, components = found.groups()
        stanza = {"Types": kind, "URIs": uri, "Suites": suite}
        if components.strip():
            stanza["Components"] = " ".join(components.split())
        for option in (options or "").split():
            name, _, value = option.partition("=")
            field = _OPTION_FIELDS.get(name.lower())
            if field:
                stanza[field] = value.replace(",", " ")
        stanzas.append(stanza)
    return stanzas


def usable(stanza: Stanza) -> bool:
    """Tell whether a stanza is a switched-on binary source that can be fetched."""
    fields = {name.lower(): value for name, value in stanza.items()}
    enabled = fields.get("enabled", "yes").strip().lower() not in {"no", "false", "0", "off"}
    removable = fields.get("uris", "").startswith("cdrom:")
    return enabled and not removable and "deb" in fields.get("types", "").split()


def private_stanza(stanza: Stanza, types: str = "deb") -> str:
    """Return a stanza's text without what ties it to the host's architecture."""
    lines = [f"Types: {types}"]
    for name, value in stanza.items():
        plain = name.lower().removesuffix("-add").removesuffix("-remove")
        if plain not in _DROPPED_OPTIONS | {"types", "enabled"}:
            lines.append(f"{name}: {value}")
    return "\n".join(lines) + "\n"


def source_files(main: Path, parts: Path) -> list[Path]:
    """Return the source files apt reads: the main one and those in the parts directory."""
    files = [main] if main.is_file() else []
    if parts.is_dir():
        found = [p for p in parts.iterdir() if re.fullmatch(r"[\w.-]+\.(list|sources)", p.name)]
        files += sorted(p for p in found if p.is_file())
    return files


def private_sources(files: Iterable[Path], types: str = "deb") -> str:
    """Return one deb822 text with every usable source in the given files; empty if none."""
    out: list[str] = []
    for path in files:
        text = path.read_text(errors="replace")
        parse = parse_deb822 if path.suffix == ".sources" else parse_one_line
        for stanza in filter(usable, parse(text)):
            block = private_stanza(stanza, types)
            if block not in out:
                out.append(block)
    return "\n".join(out)
