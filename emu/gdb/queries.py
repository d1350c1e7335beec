"""The ``q`` and ``Q`` packets ("General Query Packets" in gdb's manual, and QEMU's own)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.gdb.packet import MAX_PACKET, escape
from emu.gdb.parse import number, numbers, thread_id, unhex
from emu.gdb.registers import target_description

if TYPE_CHECKING:
    from emu.gdb.session import Session

_OK = b"OK"
# QEMU's flags of a step
_SSTEP_ENABLE, _SSTEP_NOIRQ, _SSTEP_NOTIMER = 1, 2, 4
_OUTPUT = (MAX_PACKET - 1) // 2

Query = Callable[["Session", bytes], "bytes | list[bytes]"]


def query(session: Session, text: bytes) -> bytes | list[bytes]:
    """The reply to a ``q`` packet, empty for an unknown one."""
    for prefix, handler in _QUERIES.items():
        if text.startswith(prefix) and _ends(prefix, text):
            return handler(session, text[len(prefix) :])
    return b""


def change(session: Session, text: bytes) -> bytes:
    """The reply to a ``Q`` packet, empty for an unknown one."""
    if text == b"StartNoAckMode":
        session.acknowledges = False
        return _OK
    if text.startswith((b"qemu.PhyMemMode:", b"qemu.PhyMemMode=")):
        session.target.physical = number(text[len(b"qemu.PhyMemMode:") :]) != 0
        return _OK
    if text.startswith((b"qemu.sstep=", b"qemu.sstep:")):
        return _set_sstep(session, text[len(b"qemu.sstep=") :])
    return b""


def _ends(prefix: bytes, text: bytes) -> bool:
    """Whether the name ends with the prefix: ``qC`` is not the beginning of ``qCRC``."""
    return prefix[-1:] in b":,=" or len(text) == len(prefix) or text[len(prefix)] in b":,"


def _supported(session: Session, text: bytes) -> bytes:
    wanted = text.removeprefix(b":").split(b";")
    session.reasons = b"swbreak+" in wanted and b"hwbreak+" in wanted
    return (
        b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+"
        % MAX_PACKET
    )


@functools.cache
def _description() -> bytes:
    return target_description()


def _features(session: Session, text: bytes) -> bytes:
    annex, _, where = text.partition(b":")
    if annex != b"target.xml":
        return b"E00"
    offset, length = numbers(where, 2)
    document = _description()
    # An escaped byte takes two; half of a packet always fits.
    part = document[offset : offset + min(length, MAX_PACKET // 2)]
    return (b"l" if offset + len(part) >= len(document) else b"m") + escape(part)


def _threads(session: Session, text: bytes) -> bytes:
    ids = ",".join(f"{index + 1:x}" for index in range(session.target.vcpu_count))
    return b"m" + ids.encode()


def _extra_info(session: Session, text: bytes) -> bytes:
    return session.target.describe(session.index_of(thread_id(text))).encode().hex().encode()


def _monitor(session: Session, text: bytes) -> list[bytes]:
    """``monitor``: the reply's lines, then OK."""
    output = session.target.monitor(unhex(text).decode("utf-8", "replace"))
    if output and not output.endswith("\n"):
        output += "\n"
    data = output.encode()
    pieces = [data[start : start + _OUTPUT] for start in range(0, len(data), _OUTPUT)]
    return [*(b"O" + piece.hex().encode() for piece in pieces), _OK]


def _set_sstep(session: Session, text: bytes) -> bytes:
    flags = number(text.removeprefix(b"0x"))
    if not flags & _SSTEP_ENABLE or flags & ~(_SSTEP_ENABLE | _SSTEP_NOIRQ | _SSTEP_NOTIMER):
        raise ValueError(f"no flags of a step: {flags:#x}")
    session.target.step_interrupts = not flags & _SSTEP_NOIRQ
    return _OK


def _sstep(session: Session, text: bytes) -> bytes:
    irq = 0 if session.target.step_interrupts else _SSTEP_NOIRQ
    return b"0x%x" % (_SSTEP_ENABLE | _SSTEP_NOTIMER | irq)


_QUERIES: dict[bytes, Query] = {
    b"Supported": _supported,
    b"Xfer:features:read:": _features,
    b"C": lambda session, text: b"QC%x" % (session.vcpu + 1),
    b"fThreadInfo": _threads,
    b"sThreadInfo": lambda session, text: b"l",
    b"ThreadExtraInfo,": _extra_info,
    b"Attached": lambda session, text: b"1",
    b"Rcmd,": _monitor,
    b"qemu.sstepbits": lambda session, text: b"ENABLE=1,NOIRQ=2,NOTIMER=4",
    b"qemu.sstep=": _set_sstep,
    b"qemu.sstep": _sstep,
    b"qemu.PhyMemMode": lambda session, text: b"%d" % session.target.physical,
}
