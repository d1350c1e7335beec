"""Ranges of effective addresses and what they are mapped to, put together and printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

MAX_LINES = 512
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Mapping:
    """``size`` bytes at an effective address are those at a guest real address."""

    effective: int
    real: int
    size: int
    page_shift: int
    rights: str


def merge(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Neighbours of one kind become one; ascending."""
    result: list[Mapping] = []
    for mapping in sorted(mappings, key=lambda mapping: mapping.effective):
        last = result[-1] if result else None
        if (
            last is not None
            and last.effective + last.size == mapping.effective
            and last.real + last.size == mapping.real
            and (last.page_shift, last.rights) == (mapping.page_shift, mapping.rights)
        ):
            result[-1] = replace(last, size=last.size + mapping.size)
        else:
            result.append(mapping)
    return result


def page_size(shift: int) -> str:
    """``64K`` and the like."""
    for limit, unit in ((30, "G"), (20, "M"), (10, "K")):
        if shift >= limit:
            return f"{1 << shift - limit}{unit}"
    return f"{1 << shift}"


def mapping_lines(mappings: Iterable[Mapping]) -> list[str]:
    """One line each, MAX_LINES at most."""
    lines = []
    merged = merge(mappings)
    for mapping in merged[:MAX_LINES]:
        last = mapping.effective + mapping.size - 1 & _MASK
        lines.append(
            f"{mapping.effective:016x}-{last:016x} -> {mapping.real:012x}"
            f" {page_size(mapping.page_shift):>4} {mapping.rights}"
        )
    if len(merged) > MAX_LINES:
        lines.append(f"... {len(merged) - MAX_LINES} more")
    return lines
