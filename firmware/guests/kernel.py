"""The small kernels: prebuilt, from the cache, or cross-built from Debian's linux-source."""

from __future__ import annotations

import lzma
import os
import re
from dataclasses import dataclass
from pathlib import Path

from firmware.guests import cache, host, kconfig
from firmware.guests.apt import Apt, unpack
from firmware.guests.errors import GuestError
from firmware.guests.report import Report

DATA = Path(__file__).parent
PREBUILT_VARIABLE = "GUESTS_PREBUILT"
_BUILD_TOOLS = ("make", "gcc", "bc", "bison", "flex", "xz", "tar")


@dataclass(frozen=True)
class SmallKernel:
    """One byte order's kernel: `kind` is be or le, `cross` the compiler's prefix.

    `libc` is Debian's package with the C library for programs beside that kernel.
    """

    kind: str
    cross: str
    libc: str

    @property
    def fragment(self) -> str:
        """The text of the options set on top of allnoconfig."""
        return (DATA / f"config-{self.kind}").read_text()

    @property
    def config_hash(self) -> str:
        """The part of the cache key that follows from the fragment."""
        return cache.digest([self.cross, self.fragment])


BE = SmallKernel("be", "powerpc64-linux-gnu-", "libc6-dev-ppc64-cross")
LE = SmallKernel("le", "powerpc64le-linux-gnu-", "libc6-dev-ppc64el-cross")


def prebuilt_file(kernel: SmallKernel) -> Path | None:
    """Return the compressed kernel below $GUESTS_PREBUILT; None without the variable.

    GuestError if the variable is set but the file is not there.
    """
    directory = os.environ.get(PREBUILT_VARIABLE, "")
    if not directory:
        return None
    path = Path(directory) / kernel.kind / "vmlinux.xz"
    if not path.is_file():
        raise GuestError(f"{PREBUILT_VARIABLE} is set, but there is no {path}")
    return path


def cached_file(kernel: SmallKernel) -> Path | None:
    """Return the kernel this fragment gave when it was last built here; None if never."""
    kind = f"kernel-{kernel.kind}"
    return cache.newest_entry(cache.cache_root(), kind, kernel.config_hash, "vmlinux")


def obtain(kernel: SmallKernel, apt: Apt, report: Report, from_source: bool) -> bytes:
    """Return the kernel's ELF file; `from_source` builds it whatever is at hand."""
    if not from_source:
        if prebuilt := prebuilt_file(kernel):
            report.step(f"small {kernel.kind} kernel: prebuilt {prebuilt}")
            try:
                return lzma.decompress(prebuilt.read_bytes())
            except lzma.LZMAError as error:
                raise GuestError(f"{prebuilt} is damaged: {error}") from error
        if cached := cached_file(kernel):
            report.step(f"small {kernel.kind} kernel: from the cache, {cached}")
            return cached.read_bytes()
    # Of two runs at once, the second waits and takes what the first built.
    with host.locked(cache.cache_root() / f"kernel-{kernel.kind}.lock"):
        built = None if from_source else cached_file(kernel)
        return (built or build(kernel, apt, report)).read_bytes()


def build(kernel: SmallKernel, apt: Apt, report: Report) -> Path:
    """Cross-build the kernel into the cache and return the file; takes 10 to 20 minutes."""
    host.require(*_BUILD_TOOLS, f"{kernel.cross}gcc")
    package = apt.resolve("linux-source", r"linux-source-[\d.]+")
    version = apt.version(package)
    root = cache.cache_root()
    name = cache.entry_name(f"kernel-{kernel.kind}", version, kernel.config_hash)
    with host.scratch(root) as work:
        report.step(f"small {kernel.kind} kernel: fetching {package} {version}")
        tree = _source_tree(apt, package, root / "debs", work, report)
        config = _configure(kernel, tree, work)
        report.step(f"small {kernel.kind} kernel: compiling (10 to 20 minutes)")
        elf = _compile(kernel, tree, work, root / f"{name}.log")
        entry = root / name
        host.write_atomic(entry / "config", config.encode())
        host.write_atomic(entry / "vmlinux", elf.read_bytes())
        return entry / "vmlinux"


def _source_tree(apt: Apt, package: str, debs: Path, work: Path, report: Report) -> Path:
    """Fetch and unpack the kernel's source; return its top directory."""
    archive = apt.download(package, debs)
    report.step(f"unpacking {package}")
    unpack(archive, work / "deb")
    tarballs = list((work / "deb/usr/src").glob("linux-source-*.tar.xz"))
    if len(tarballs) != 1:
        raise GuestError(f"{package} holds no linux-source tar file")
    host.run(["tar", "-xJf", tarballs[0], "-C", work])
    tarballs[0].unlink()
    return work / tarballs[0].name.removesuffix(".tar.xz")


def _make(kernel: SmallKernel, tree: Path, work: Path, *arguments: str) -> list[str]:
    out = work / "out"
    out.mkdir(exist_ok=True)
    return [
        "make", "-s", "-C", str(tree), f"O={out}", "ARCH=powerpc",
        f"CROSS_COMPILE={kernel.cross}", *arguments,
    ]  # fmt: skip


def _configure(kernel: SmallKernel, tree: Path, work: Path) -> str:
    """Make the configuration and return its text, checked against the fragment."""
    fragment = work / "fragment"
    fragment.write_text(kernel.fragment)
    host.run(_make(kernel, tree, work, "allnoconfig", f"KCONFIG_ALLCONFIG={fragment}"))
    config = (work / "out/.config").read_text()
    kconfig.check(kernel.fragment, config)
    return config


def _compile(kernel: SmallKernel, tree: Path, work: Path, log: Path) -> Path:
    """Build vmlinux, its output going to `log`; return the stripped file."""
    stable = {
        "KBUILD_BUILD_USER": "guests",
        "KBUILD_BUILD_HOST": "ppc64emu",
        "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
        "KBUILD_BUILD_VERSION": "1",
    }
    log.unlink(missing_ok=True)
    jobs = f"-j{os.cpu_count() or 1}"
    host.run(_make(kernel, tree, work, jobs, "vmlinux"), env=stable, log=log)
    stripped = work / "vmlinux"
    host.run([f"{kernel.cross}strip", "-s", "-o", stripped, work / "out/vmlinux"])
    if not re.match(rb"\x7fELF\x02", stripped.read_bytes()[:5]):
        raise GuestError("the built kernel is not a 64-bit ELF file")
    return stripped
