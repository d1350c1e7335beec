"""The machine's run state, and who is told when it changes."""

from __future__ import annotations

import enum
import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger(__name__)


class RunState(enum.Enum):
    """What the machine is doing; the values are QMP's `RunState` names."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    DEBUG = "debug"
    INMIGRATE = "inmigrate"
    FINISH_MIGRATE = "finish-migrate"
    POSTMIGRATE = "postmigrate"
    SAVE_VM = "save-vm"
    RESTORE_VM = "restore-vm"
    IO_ERROR = "io-error"
    SHUTDOWN = "shutdown"
    GUEST_PANICKED = "guest-panicked"
    INTERNAL_ERROR = "internal-error"


Observer = Callable[[RunState, RunState], object]


class MachineState:
    """The machine's `RunState`, shared by all threads."""

    def __init__(self, state: RunState = RunState.PRELAUNCH) -> None:
        self._state = state
        self._changed = threading.Condition()
        self._observers: list[Observer] = []
        self._pending: deque[tuple[RunState, RunState]] = deque()
        self._notifying = False

    @property
    def state(self) -> RunState:
        """The state now."""
        return self._state

    def set(self, new: RunState, *, only_from: RunState | None = None) -> bool:
        """Change the state and tell the observers; return whether it changed.

        With `only_from`, nothing happens unless that is the state now.
        """
        with self._changed:
            old = self._state
            if old is new or (only_from is not None and old is not only_from):
                return False
            self._state = new
            self._pending.append((old, new))
            self._changed.notify_all()
        self._notify()
        return True

    def wait_for(self, *states: RunState, timeout: float | None = None) -> RunState | None:
        """Wait until the state is one of `states` and return it; None after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._state in states, timeout)
            return self._state if self._state in states else None

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer(old, new)` after each change; the returned function ends that.

        Changes come in order and never two at a time, on a thread that called `set`, without a
        lock held: an observer may call `set` (its change follows after the current one).
        """
        with self._changed:
            self._observers.append(observer)

        def unsubscribe() -> None:
            with self._changed:
                if observer in self._observers:
                    self._observers.remove(observer)

        return unsubscribe

    def _notify(self) -> None:
        while True:
            with self._changed:
                if self._notifying or not self._pending:
                    return
                self._notifying = True
                old, new = self._pending.popleft()
                observers = tuple(self._observers)
            try:
                for observer in observers:
                    _tell(observer, old, new)
            finally:
                with self._changed:
                    self._notifying = False


def _tell(observer: Observer, old: RunState, new: RunState) -> None:
    try:
        observer(old, new)
    except Exception:
        _log.exception("internal error in a run state observer")
