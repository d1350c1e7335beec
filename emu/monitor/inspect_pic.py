"""``info pic``: the interrupt controller, whichever the board has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.machine import Machine
    from machines.pseries.xics import Xics

_LSI = 1


def info_pic(machine: Machine, _words: list[str]) -> str:
    """Interrupt presentation of each CPU, then the sources."""
    return str(machine.on_vcpu(lambda: _info_pic(machine)))


def _info_pic(machine: Machine) -> str:
    board: Any = machine.board
    if hasattr(board, "xics"):
        return _xics(board.xics)
    if hasattr(board, "intc"):
        controller = board.intc
        return (
            f"INTC pending {controller.pending:#018x} enabled {controller.enabled:#018x}"
            f" output {int(controller.pending & controller.enabled != 0)}"
        )
    raise ValueError("this machine has no interrupt controller")


def _xics(xics: Xics) -> str:
    """In the manner of QEMU: XIRR has CPPR in its first byte; status bits as in ``Xics``."""
    state = xics.save_state()
    lines = [
        f"CPU {server} XIRR={xirr:08x} PP={pending:02x} MFRR={mfrr:02x}"
        for server, (xirr, pending, mfrr) in enumerate(state["servers"])
    ]
    sources = state["sources"]
    if sources:
        lines.append(f"ICS {min(sources):4x}..{max(sources):4x}")
    for irq, (server, priority, saved, status, flags) in sources.items():
        kind = "LSI" if flags & _LSI else "MSI"
        lines.append(
            f"  {irq:4x} {kind} server {server} priority {priority:02x} (saved {saved:02x})"
            f" status {status:02x}  {xics.names[irq]}"
        )
    return "\n".join(lines)
