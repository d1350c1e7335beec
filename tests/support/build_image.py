"""Builds a flat test image of C and assembly files with the support library of tests/guest.

    python -m tests.support.build_image -o sum.bin sum.c [more.S ...] [NAME=VALUE ...]

The sources take the place of tests/guest/tests: a `TEST` in them is run in each byte order. Words
with "=" are parameters of the image. tests/guest/image.mk calls this from any directory.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.support.guest_images import PARTS, ImageBuildError, Part, flat_image, with_parameters

_LIBRARY = ("lib/*.S", "lib/*.c", "virtio/*.c")
_PARAMETER = re.compile(r"(\w+)=([^ ]*)")
_SUFFIXES = (".c", ".S")


def build_image(output: Path, sources: Sequence[Path], **parameters: str) -> None:
    """Write an image of these files; `ImageBuildError` with the compiler's text if it cannot be."""
    for source in sources:
        if source.suffix not in _SUFFIXES:
            raise ImageBuildError(f"{source}: a source is a .c or .S file")
        if not source.is_file():
            raise ImageBuildError(f"{source}: no such file")
    files = tuple(str(source.resolve()) for source in sources)
    with tempfile.TemporaryDirectory() as work:
        flat = flat_image(tuple(_with_sources(part, files) for part in PARTS), Path(work))
    output.write_bytes(with_parameters(flat, **parameters))


def _with_sources(part: Part, files: tuple[str, ...]) -> Part:
    return part if part.name == "stub" else replace(part, sources=(*_LIBRARY, *files))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 and a message on stderr."""
    parser = argparse.ArgumentParser(prog="build_image", description=__doc__, add_help=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("words", nargs="+", metavar="SOURCE | NAME=VALUE")
    options = parser.parse_args(argv)
    found = [_PARAMETER.fullmatch(word) for word in options.words]
    sources = [
        Path(word) for word, match in zip(options.words, found, strict=True) if match is None
    ]
    try:
        if not sources:
            raise ImageBuildError("no source file")
        build_image(options.output, sources, **{match[1]: match[2] for match in found if match})
    except (ImageBuildError, OSError, UnicodeError) as error:
        print(f"build_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
