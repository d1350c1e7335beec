"""gdb's remote serial protocol: the stub behind ``-gdb`` and ``-s`` (docs/gdb.md)."""
