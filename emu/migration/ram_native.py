"""Pages of guest RAM in compiled code, without the GIL: which are empty, copies, checksums.

RAM is an array of 32-bit words in the host's (little-endian) order, so that the loops become
vector code.  The checksum of a sequence of pages folds two sums of each page, plain and weighted
by position, into 64 bits: it notices changed, moved and exchanged words and pages.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from emu.memory.ram import PAGE_SIZE

_WORDS = PAGE_SIZE // 4
_GROUP = 64
_FOLD = np.uint64(0x9E3779B97F4A7C15)
_words, _pages = types.uint32[::1], types.int64[::1]


@njit(types.void(_words, _pages, types.boolean[::1]), cache=True, nogil=True)
def find_full(ram, pages, full):  # type: ignore[no-untyped-def]
    """Set ``full`` for each page that is not all zeros; pages already set are not looked at."""
    for index in range(len(pages)):
        if full[index]:
            continue
        page = ram[pages[index] * _WORDS : (pages[index] + 1) * _WORDS]
        for start in range(0, _WORDS, _GROUP):
            found = np.uint32(0)
            for word in page[start : start + _GROUP]:
                found |= word
            if found != 0:
                full[index] = True
                break


@njit(types.uint64(_words, types.uint64), cache=True, nogil=True)
def _fold(page, checksum):  # type: ignore[no-untyped-def]
    plain = np.uint64(0)
    weighted = np.uint64(0)
    for index in range(_WORDS):
        word = np.uint64(page[index])
        plain += word
        weighted += word * np.uint64(np.uint32(index + 1))
    return (checksum ^ plain) * _FOLD + weighted


@njit(types.uint64(_words, _pages, _words, types.uint64), cache=True, nogil=True)
def gather(ram, pages, out, checksum):  # type: ignore[no-untyped-def]
    """Copy pages to ``out`` and go on with the checksum over what was copied."""
    for index in range(len(pages)):
        page = ram[pages[index] * _WORDS : (pages[index] + 1) * _WORDS]
        copy = out[index * _WORDS : (index + 1) * _WORDS]
        for word in range(_WORDS):
            copy[word] = page[word]
        checksum = _fold(copy, checksum)
    return checksum


@njit(types.uint64(_words, _pages, types.uint64), cache=True, nogil=True)
def check(ram, pages, checksum):  # type: ignore[no-untyped-def]
    """Go on with the checksum over pages in RAM."""
    for page in pages:
        checksum = _fold(ram[page * _WORDS : (page + 1) * _WORDS], checksum)
    return checksum
