"""The error every loader in this package raises for a bad file or a bad combination of files."""

from __future__ import annotations


class ImageError(Exception):
    """A boot image cannot be used.

    The message is one line, names the file (or the option) and says what is wrong with it, so that
    the command line can print it as it is.
    """
