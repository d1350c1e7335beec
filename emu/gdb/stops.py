"""Stop replies ("Stop Reply Packets" in gdb's manual)."""

from __future__ import annotations

from emu.events import RunState
from emu.gdb.points import REPLY_NAMES
from emu.gdb.target import Stop, StopKind, Target

# gdb's own signal numbers
_SIGINT, _SIGTRAP, _SIGABRT = 2, 5, 6
#: Run states that a client hears of when they follow RUNNING.
STOPPED = (RunState.PAUSED, RunState.DEBUG, RunState.IO_ERROR, RunState.POSTMIGRATE)


def stop_reply(target: Target, stop: Stop, *, reasons: bool) -> bytes:
    """Why the guest stands still; ``reasons``: the client knows ``swbreak`` and ``hwbreak``."""
    text = f"T{_SIGINT if stop.kind is StopKind.PAUSED else _SIGTRAP:02x}thread:{stop.vcpu + 1:x};"
    if stop.hit is not None:
        text += f"{REPLY_NAMES[stop.hit.watchpoint.access]}:{stop.hit.address:x};"
    elif stop.kind is StopKind.BREAKPOINT and reasons:
        hardware = target.points.has_hardware(stop.pc)
        text += "hwbreak:;" if hardware else "swbreak:;"
    return text.encode()


def end_reply(target: Target) -> bytes:
    """The guest has ended: the emulator's exit status, or that it failed."""
    if target.crashed:
        return b"X%02x" % _SIGABRT
    return b"W%02x" % (target.exit_status() & 0xFF)
