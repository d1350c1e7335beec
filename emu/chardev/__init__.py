"""Character devices: where a console's bytes go and come from.

`open_chardev(config, loop)` opens the backend that `config` describes. The backends that need
host descriptors are in their own modules and imported when used.
"""

from emu.chardev.base import Chardev, Receiver
from emu.chardev.factory import open_chardev
from emu.chardev.memory import ConsoleClosed, ConsoleError, ConsoleTimeout, MemoryChardev

__all__ = [
    "Chardev",
    "ConsoleClosed",
    "ConsoleError",
    "ConsoleTimeout",
    "MemoryChardev",
    "Receiver",
    "open_chardev",
]
