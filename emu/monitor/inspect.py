"""The monitor commands that look into a guest; importing this declares them for QMP, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.monitor import inspect_cpu as cpu
from emu.monitor import inspect_memory as memory
from emu.monitor import inspect_mmu as mmu
from emu.monitor import inspect_pic as pic
from emu.monitor import inspect_trace as trace
from emu.monitor import inspect_virtio as virtio

if TYPE_CHECKING:
    from emu.machine import Machine

Handler = Callable[["Machine", list[str]], str]

#: ``info NAME``
TOPICS: dict[str, tuple[Handler, str]] = {
    "cpus": (cpu.info_cpus, "the CPUs"),
    "tlb": (mmu.info_tlb, "[address]: how effective addresses are translated"),
    "pic": (pic.info_pic, "the interrupt controller"),
    "symbol": (memory.info_symbol, "address: the symbol there"),
    "profile": (trace.info_profile, "[n]: the functions that take the time"),
    "virtio": (virtio.info_virtio, "virtio devices and their paths"),
    "virtio-status": (virtio.info_status, "path: state and features of a virtio device"),
    "virtio-queue-status": (virtio.info_queue_status, "path queue: a virtqueue"),
    "virtio-queue-element": (
        virtio.info_queue_element,
        "path queue [index]: an element of a virtqueue",
    ),
}

HANDLERS: dict[str, tuple[Handler, str]] = {
    "cpu": (cpu.cpu, "index: look at this CPU"),
    "x": (memory.x, "/fmt addr: memory at an effective address"),
    "xp": (memory.xp, "/fmt addr: memory at a guest real address"),
    "gva2gpa": (memory.gva2gpa, "addr: guest real address of an effective one"),
    "memsave": (memory.memsave, "addr size file: save effective memory"),
    "pmemsave": (memory.pmemsave, "addr size file: save guest real memory"),
    "log": (trace.log, "item[,...]|none: choose what is logged"),
    "profile": (trace.profile, "start [hz]|stop|clear|save file: sample what the guest executes"),
}


def split_format(words: list[str]) -> list[str]:
    """``x/4i 0`` as ``x /4i 0``."""
    name, slash, form = words[0].partition("/")
    return [name, slash + form, *words[1:]] if slash and name in ("x", "xp") else words
