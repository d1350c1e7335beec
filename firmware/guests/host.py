"""Runs the host's programs and writes files so that none is ever seen half-written."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from firmware.guests.errors import GuestError

# Debian's package for each program a build may call.
DEBIAN_PACKAGE = {
    "apt-config": "apt",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "make": "make",
    "gcc": "gcc",
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "perl": "perl",
    "xz": "xz-utils",
    "tar": "tar",
    "powerpc64-linux-gnu-gcc": "gcc-powerpc64-linux-gnu",
    "powerpc64le-linux-gnu-gcc": "gcc-powerpc64le-linux-gnu",
}


def require(*programs: str) -> None:
    """Raise GuestError naming the Debian package of the first program that is missing."""
    for program in programs:
        if shutil.which(program) is None:
            package = DEBIAN_PACKAGE.get(program, program)
            raise GuestError(f"{program} not found; install it with: apt-get install {package}")


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> str:
    """Run a program and return its standard output.

    `env` adds to the environment; with `log`, output and errors go to that file instead.
    GuestError carries the most telling line of what a failing program said.
    """
    require(str(command[0]))
    full_env = {**os.environ, "LC_ALL": "C", **(env or {})}
    if log is None:
        done = subprocess.run(
            command, env=full_env, cwd=cwd, capture_output=True, text=True, errors="replace"
        )
        output, said = done.stdout, done.stderr or done.stdout
    else:
        with log.open("ab") as sink:
            done = subprocess.run(
                command, env=full_env, cwd=cwd, stdout=sink, stderr=sink, text=True
            )
        output, said = "", f"see {log}"
    if done.returncode != 0:
        name = Path(str(command[0])).name
        raise GuestError(f"{name} failed with status {done.returncode}: {telling_line(said)}")
    return output


def telling_line(said: str) -> str:
    """Pick from a failed program's output the first line with an error, else the last line."""
    lines = said.strip().splitlines() or ["it said nothing"]
    errors = (line for line in lines if "error:" in line or line.startswith("E: "))
    return next(errors, lines[-1]).strip()


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file under a temporary name beside it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """Give a temporary directory, by default below $TMPDIR, removed at the end."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ppc64emu-", dir=parent) as name:
        yield Path(name)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made if need be, against other processes; waits for them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
