"""Event loop, timers and the machine's stop/go state; standard library only."""

from emu.events.loop import EventLoop, Timer, Waker
from emu.events.state import MachineState, RunState

__all__ = ["EventLoop", "MachineState", "RunState", "Timer", "Waker"]
