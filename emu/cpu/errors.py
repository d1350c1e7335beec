"""Errors of the CPU room."""

from __future__ import annotations


class UnicornError(RuntimeError):
    """The Unicorn library is not the build this emulator knows, or refused a call."""
