"""One client's conversation: packets in, replies out.

The names are those of gdb's manual, "Remote Protocol".  A reply to a packet that lets the guest
run comes when it has stopped (all-stop mode): :meth:`Session.state_changed` gives it.  Errors are
``E22`` for what makes no sense, ``E14`` for memory that is not there, else a text (``E.text``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from emu.events import RunState
from emu.gdb import queries
from emu.gdb.packet import MAX_PACKET, unescape
from emu.gdb.parse import ALL_THREADS, ANY_THREAD, number, numbers, thread_id, unhex
from emu.gdb.points import PointKind
from emu.gdb.stops import STOPPED, end_reply, stop_reply
from emu.gdb.target import ENDED, MemoryFaultError, Stop, StopKind, Target, TargetError

_OK = b"OK"
_INVALID = b"E22"
_FAULT = b"E14"
_REVERSE = b"E.reverse execution is not supported"


class _Owed(enum.Enum):
    """Whether the client waits for a stop reply."""

    NOTHING = enum.auto()
    START = enum.auto()  # the guest was told to run, and has not begun
    STOP = enum.auto()


class Session:
    """State of one connection.  ``interrupted`` asks for a later call of :meth:`settled`."""

    def __init__(self, target: Target, interrupted: Callable[[], None]) -> None:
        self.target: Target = target
        self.acknowledges = True
        self.reasons = False  # the client knows swbreak and hwbreak
        self.vcpu: int = 0  # index for registers and memory
        self._resume_thread = ANY_THREAD  # for c and s
        self._interrupted: Callable[[], None] = interrupted
        self._owed = _Owed.NOTHING
        self._state: RunState | None = None

    def handle(self, content: bytes) -> list[bytes]:
        """Replies to a packet."""
        replies = self._stop_first() if self._owed is not _Owed.NOTHING else []
        handler = _HANDLERS.get(content[:1])
        try:
            answer = b"" if handler is None else handler(self, content[1:])
        except MemoryFaultError:
            answer = _FAULT
        except TargetError as error:
            answer = b"E." + str(error).encode()
        except (ValueError, IndexError):
            answer = _INVALID
        if isinstance(answer, bytes):
            answer = [answer]
        return replies + answer

    def _stop_first(self) -> list[bytes]:
        """A packet while the guest runs: stop it, as if the client had interrupted."""
        self.target.stop()
        self._state = None  # the change to the present state is still to be told
        return self._stopped(Stop(StopKind.PAUSED, self.vcpu))

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.target.interrupt(self._interrupted)

    def settled(self) -> list[bytes]:
        """The guest has seen an interrupt: perhaps before it began to run."""
        if self._owed is _Owed.START and not self.target.running:
            return self._stopped(Stop(StopKind.PAUSED, self.vcpu))
        return []

    def state_changed(self, new: RunState) -> list[bytes]:
        """The machine's run state has changed: perhaps that is what the client waits for."""
        self._state = new
        if new is RunState.RUNNING and self._owed is _Owed.START:
            self._owed = _Owed.STOP
        if self._owed is not _Owed.NOTHING and new in ENDED:
            self._owed = _Owed.NOTHING
            return [end_reply(self.target)]
        if self._owed is _Owed.STOP and new in STOPPED:
            last = self.target.last_stop
            return self._stopped(
                last if new is RunState.DEBUG else Stop(StopKind.PAUSED, self.vcpu)
            )
        return []

    def _stopped(self, stop: Stop) -> list[bytes]:
        self._owed = _Owed.NOTHING
        if self.target.ended:
            return [end_reply(self.target)]
        self.target.end_steps()
        self.target.last_stop = stop
        self.vcpu = stop.vcpu
        return [stop_reply(self.target, stop, reasons=self.reasons)]

    def index_of(self, thread: int) -> int:
        """The vCPU of a thread id; ``ValueError`` if there is none."""
        if thread in (ANY_THREAD, ALL_THREADS):
            return self.vcpu
        if not 1 <= thread <= self.target.vcpu_count:
            raise ValueError(f"no thread {thread}")
        return thread - 1

    # Running

    def _resume(self, step: int | None = None) -> list[bytes]:
        if self.target.ended:
            return [end_reply(self.target)]
        try:
            self.target.resume(step)
        except TargetError as error:
            return self._refuse(error)
        self._owed = _Owed.STOP if self._state is RunState.RUNNING else _Owed.START
        return []

    def _refuse(self, error: TargetError) -> list[bytes]:
        """A message and a stop reply: gdb would try again for ever after an error."""
        text = f"ppc64emu: {error}\n".encode().hex().encode()
        return [b"O" + text, *self._stopped(Stop(StopKind.PAUSED, self.vcpu))]

    def _step(self, indexes: list[int]) -> list[bytes]:
        if self.target.ended:
            return [end_reply(self.target)]
        try:
            stop = self.target.step(indexes)
        except TargetError as error:
            return self._refuse(error)
        if self.target.ending:
            self._owed = _Owed.STOP  # for the reply that tells of the end
            return []
        return self._stopped(stop)

    def _go_to(self, address: bytes) -> None:
        if address:
            target = number(address)
            self.target.with_registers(self.vcpu, lambda file: file.set_pc(target))

    def _continue(self, text: bytes) -> list[bytes]:
        self._go_to(text)
        return self._resume()

    def _continue_signal(self, text: bytes) -> list[bytes]:
        return self._continue(_after_signal(text))

    def _single_step(self, text: bytes) -> list[bytes]:
        self._go_to(text)
        return self._step([self.index_of(self._resume_thread)])

    def _step_signal(self, text: bytes) -> list[bytes]:
        return self._single_step(_after_signal(text))

    def _v(self, text: bytes) -> bytes | list[bytes]:
        if text == b"Cont?":
            return b"vCont;c;C;s;S"
        if text.startswith(b"Cont;"):
            return self._v_cont(text.removeprefix(b"Cont;"))
        if text.startswith(b"Kill;"):
            self.target.kill()
            return _OK
        return b""

    def _v_cont(self, text: bytes) -> list[bytes]:
        """Actions for threads; the first that names a vCPU counts for it."""
        actions: dict[int, str] = {}
        everyone = range(self.target.vcpu_count)
        for part in text.split(b";"):
            action, colon, thread = part.partition(b":")
            kind = _action(action)
            named = thread_id(thread) if colon else ALL_THREADS
            for index in everyone if named == ALL_THREADS else (self.index_of(named),):
                actions.setdefault(index, kind)
        steps = [index for index, kind in actions.items() if kind == "s"]
        if not steps and len(actions) < len(everyone):
            return self._refuse(TargetError("either all CPUs run, or one of them steps"))
        if not steps:
            return self._resume()
        if len(steps) == 1 and len(actions) > 1:
            return self._resume(steps[0])
        return self._step(steps)

    def _detach(self, text: bytes) -> bytes:
        self.target.release()
        self.target.go_on()
        return _OK

    def _kill(self, text: bytes) -> list[bytes]:
        self.target.kill()
        return []

    def _reverse(self, text: bytes) -> bytes:
        return _REVERSE if text in (b"c", b"s") else b""

    def _why(self, text: bytes) -> list[bytes]:
        return self._stopped(self.target.last_stop)

    # Threads

    def _select(self, text: bytes) -> bytes:
        thread = thread_id(text[1:])
        if text[:1] == b"g":
            self.vcpu = self.index_of(thread)
        elif text[:1] == b"c":
            self.index_of(thread)
            self._resume_thread = thread
        else:
            raise ValueError("H is for g and c")
        return _OK

    def _alive(self, text: bytes) -> bytes:
        self.index_of(thread_id(text))
        return _OK

    # Registers and memory

    def _read_registers(self, text: bytes) -> bytes:
        data: bytes = self.target.with_registers(self.vcpu, lambda file: file.read_all())
        return data.hex().encode()

    def _write_registers(self, text: bytes) -> bytes:
        data = unhex(text)
        self.target.with_registers(self.vcpu, lambda file: file.write_all(data))
        return _OK

    def _read_register(self, text: bytes) -> bytes:
        which = number(text)
        data: bytes = self.target.with_registers(self.vcpu, lambda file: file.read(which))
        return data.hex().encode()

    def _write_register(self, text: bytes) -> bytes:
        which, _, value = text.partition(b"=")
        index, data = number(which), unhex(value)
        self.target.with_registers(self.vcpu, lambda file: file.write(index, data))
        return _OK

    def _read_memory(self, text: bytes) -> bytes:
        address, size = numbers(text, 2)
        size = min(size, MAX_PACKET // 2)
        return self.target.read_memory(self.vcpu, address, size).hex().encode()

    def _write_memory(self, text: bytes) -> bytes:
        where, _, data = text.partition(b":")
        return self._store(where, unhex(data))

    def _write_binary(self, text: bytes) -> bytes:
        where, _, data = text.partition(b":")
        return self._store(where, unescape(data))

    def _store(self, where: bytes, data: bytes) -> bytes:
        address, size = numbers(where, 2)
        if size != len(data):
            raise ValueError(f"{len(data)} bytes instead of {size}")
        self.target.write_memory(self.vcpu, address, data)
        return _OK

    # Breakpoints

    def _insert(self, text: bytes) -> bytes:
        self.target.points.insert(*_point(text))
        return _OK

    def _remove(self, text: bytes) -> bytes:
        self.target.points.remove(*_point(text))
        return _OK

    def _query(self, text: bytes) -> bytes | list[bytes]:
        return queries.query(self, text)

    def _set(self, text: bytes) -> bytes:
        return queries.change(self, text)


def _after_signal(text: bytes) -> bytes:
    """The address after a signal number; the signal means nothing to a guest."""
    signal, _, address = text.partition(b";")
    number(signal)
    return address


def _action(text: bytes) -> str:
    if text in (b"c", b"s"):
        return text.decode()
    if text[:1] in (b"C", b"S"):
        number(text[1:])
        return text[:1].decode().lower()
    raise ValueError(f"no action {text!r}")


def _point(text: bytes) -> tuple[PointKind, int, int]:
    kind, address, size = numbers(text, 3)
    return PointKind(kind), address, size


_HANDLERS: dict[bytes, Callable[[Session, bytes], bytes | list[bytes]]] = {
    b"?": Session._why,
    b"c": Session._continue,
    b"C": Session._continue_signal,
    b"s": Session._single_step,
    b"S": Session._step_signal,
    b"v": Session._v,
    b"D": Session._detach,
    b"k": Session._kill,
    b"b": Session._reverse,
    b"H": Session._select,
    b"T": Session._alive,
    b"g": Session._read_registers,
    b"G": Session._write_registers,
    b"p": Session._read_register,
    b"P": Session._write_register,
    b"m": Session._read_memory,
    b"M": Session._write_memory,
    b"X": Session._write_binary,
    b"Z": Session._insert,
    b"z": Session._remove,
    b"q": Session._query,
    b"Q": Session._set,
}
