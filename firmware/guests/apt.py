"""Fetches Debian packages through a private apt state; the host's own is never touched."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from firmware.guests import host
from firmware.guests.errors import GuestError
from firmware.guests.sources import private_sources, source_files

# Settings of the host that fetching needs (proxies, retries, TLS). Its hooks, which act on the
# host's own cache, and its extra index kinds are left behind.
_KEPT = re.compile(
    r"Acquire::(?!IndexTargets|Changelogs|Languages|CompressionTypes|cdrom|GzipIndexes)"
)

# The distribution's own packages first, whatever else the host has configured.
_PREFERENCES = "Package: *\nPin: release o=Debian\nPin-Priority: 900\n"


def kept_settings(dump: str) -> str:
    """Pick from `apt-config dump` text the lines a private configuration takes over."""
    return "".join(f"{line}\n" for line in dump.splitlines() if _KEPT.match(line))


def configuration(root: Path, architecture: str, kept: str) -> str:
    """Return a private apt.conf with all state and cache below `root`."""
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "Dir::State": f"{root}/state",
        "Dir::State::status": f"{root}/state/status",
        "Dir::Cache": f"{root}/cache",
        "Dir::Log": f"{root}/log",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": f"{root}/sources.list.d",
        "Dir::Etc::preferences": f"{root}/preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Acquire::Languages": "none",
    }
    return kept + "".join(f'{name} "{value}";\n' for name, value in settings.items())


@dataclass
class Apt:
    """A private apt for one architecture, with its state in `root`."""

    root: Path
    architecture: str
    _updated: bool = False
    _update_error: str = ""

    def _prepare(self) -> None:
        for name in ("state/lists/partial", "cache/archives/partial", "log", "sources.list.d"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        host.write_atomic(self.root / "state/status", b"")
        host.write_atomic(self.root / "preferences", _PREFERENCES.encode())
        where = host.run(
            ["apt-config", "shell", "A", "Dir::Etc::sourcelist/f", "B", "Dir::Etc::sourceparts/d"]
        )
        paths = dict(word.split("=", 1) for word in shlex.split(where))
        files = source_files(Path(paths.get("A", "")), Path(paths.get("B", "")))
        sources = private_sources(files)
        if not sources:
            raise GuestError("apt has no package sources configured; guests come from Debian's")
        kept = kept_settings(host.run(["apt-config", "dump"]))
        text = configuration(self.root, self.architecture, kept)
        # Proxy settings and source addresses may carry passwords.
        host.write_atomic(self.root / "apt.conf", text.encode(), 0o600)
        host.write_atomic(self.root / "sources.list.d/host.sources", sources.encode(), 0o600)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        # Two builds at once share the state; apt itself would fail instead of waiting.
        with host.locked(self.root / "lock"):
            return host.run(command, env={"APT_CONFIG": str(self.root / "apt.conf")}, cwd=cwd)

    def update(self) -> None:
        """Read the indexes, once; a failing source is only an error if a package is missing."""
        if self._updated:
            return
        host.require("apt-get", "apt-cache", "apt-config")
        self._prepare()
        self._updated = True
        try:
            self._run("apt-get", "-qq", "update")
        except GuestError as error:
            self._update_error = str(error)

    def _missing(self, package: str) -> GuestError:
        why = f" ({self._update_error})" if self._update_error else ""
        return GuestError(f"apt's sources offer no {package} for {self.architecture}{why}")

    def resolve(self, package: str, pattern: str) -> str:
        """Return the dependency of a metapackage that fully matches the pattern."""
        self.update()
        try:
            listing = self._run("apt-cache", "depends", "--important", package)
        except GuestError as error:
            raise self._missing(package) from error
        for name in re.findall(r"Depends: (\S+)", listing):
            if re.fullmatch(pattern, name):
                return str(name)
        raise self._missing(package)

    def version(self, package: str) -> str:
        """Return the version of a package that apt would fetch."""
        self.update()
        shown = self._run("apt-cache", "policy", package)
        found = re.search(r"Candidate: (\S+)", shown)
        if not found or found[1] == "(none)":
            raise self._missing(package)
        return found[1]

    def download(self, package: str, directory: Path) -> Path:
        """Fetch a package into a directory, checked against the signed index; return its path."""
        version = self.version(package)
        directory.mkdir(parents=True, exist_ok=True)
        with host.scratch(directory) as temporary:
            self._run("apt-get", "-qq", "download", f"{package}={version}", cwd=temporary)
            fetched = list(temporary.glob("*.deb"))
            if len(fetched) != 1:
                raise GuestError(f"apt-get fetched no file for {package}")
            return fetched[0].replace(directory / fetched[0].name)


def unpack(package: Path, directory: Path) -> None:
    """Unpack a .deb's files into a directory; GuestError if it is damaged."""
    directory.mkdir(parents=True, exist_ok=True)
    host.run(["dpkg-deb", "-x", str(package), str(directory)])
