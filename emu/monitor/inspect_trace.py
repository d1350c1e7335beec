"""The log and the profile while the guest runs: log, profile, info profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.config_trace import DEFAULT_HZ
from emu.log import DESCRIPTIONS, enabled_items

if TYPE_CHECKING:
    from emu.machine import Machine

_TOP = 20


def log(machine: Machine, words: list[str]) -> str:
    """``log item[,...]``: log exactly these; ``log none``: nothing; ``log`` alone: what is on."""
    if not words:
        return "log: " + (",".join(sorted(enabled_items())) or "none")
    items = [item for word in words for item in word.split(",") if item]
    if items in (["help"], ["?"]):
        lines = (f"{name:14} {what}" for name, what in DESCRIPTIONS.items())
        return "\n".join([*lines, f"{'none':14} nothing"])
    machine.trace.set_items([] if items == ["none"] else items)
    return ""


def profile(machine: Machine, words: list[str]) -> str:
    """``profile start [HZ]``, ``stop``, ``clear`` or ``save FILE``."""
    profiler = machine.trace.profile
    match words:
        case ["start"]:
            profiler.start(DEFAULT_HZ)
        case ["start", rate] if rate.isdigit():
            profiler.start(int(rate))
        case ["stop"]:
            profiler.stop()
        case ["clear"]:
            profiler.clear()
        case ["save", path]:
            profiler.save(path)
        case _:
            raise ValueError("profile: expected start [hz], stop, clear or save file")
    return ""


def info_profile(machine: Machine, words: list[str]) -> str:
    """``info profile [N]``: the functions that were executing most often."""
    if len(words) > 1 or (words and not words[0].isdigit()):
        raise ValueError("info profile: expected at most a number of functions")
    profiler = machine.trace.profile
    samples = profiler.samples
    state = f"running, {profiler.hz} Hz" if profiler.running else "stopped"
    lines = [f"profile: {state}, {samples} samples"]
    if samples:
        lines.append(f"{'self':>8} {'':6} {'total':>8} {'':6} function")
        for entry in profiler.top(int(words[0]) if words else _TOP):
            own, total = entry.self_samples, entry.total_samples
            lines.append(
                f"{own:8} {own / samples:6.1%} {total:8} {total / samples:6.1%} {entry.name}"
            )
    return "\n".join(lines)
