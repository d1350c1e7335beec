"""The guest image builder, without network, compilers or packages."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
from pathlib import Path

import pytest

from firmware.guests import (
    __main__,
    apt,
    busybox_guest,
    cache,
    host,
    kconfig,
    kernel,
    modules,
    small_guest,
    sources,
)
from firmware.guests.cpio import Archive
from firmware.guests.errors import GuestError


def read_newc(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Decode an archive into name: mode, contents, device numbers; checks the padding."""
    members: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        start = at + 110 + fields[11]
        start += -start % 4
        if name == "TRAILER!!!":
            return members
        assert fields[5] == 0, "time stamps must not depend on the build"
        members[name] = (fields[1], data[start : start + fields[6]], (fields[9], fields[10]))
        at = start + fields[6]
        at += -at % 4


def sample_archive() -> Archive:
    archive = Archive()
    archive.char_device("dev/console", 5, 1)
    archive.file("init", b"#!/bin/sh\n", 0o755)
    archive.file("/lib/a/b", b"12345")
    archive.symlink("bin/sh", "busybox")
    return archive


class TestCpio:
    def test_members_come_back(self) -> None:
        members = read_newc(sample_archive().to_bytes())
        assert members["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
        assert members["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
        assert members["lib/a/b"][1] == b"12345"
        assert members["bin/sh"] == (stat.S_IFLNK | 0o777, b"busybox", (0, 0))

    def test_parents_come_before_their_files(self) -> None:
        names = list(read_newc(sample_archive().to_bytes()))
        assert names.index("lib") < names.index("lib/a") < names.index("lib/a/b")

    def test_same_members_give_same_bytes(self) -> None:
        first, second = sample_archive().to_gzip(), sample_archive().to_gzip()
        assert first == second
        assert gzip.decompress(first) == sample_archive().to_bytes()

    def test_whole_blocks(self) -> None:
        assert len(sample_archive().to_bytes()) % 512 == 0

    def test_a_name_is_taken_once(self) -> None:
        archive = sample_archive()
        archive.directory("lib/a")
        with pytest.raises(ValueError, match="already"):
            archive.file("init", b"")


DEPENDS = {
    "virtio": [],
    "virtio_ring": ["virtio"],
    "virtio_pci": ["virtio_ring", "virtio"],
    "net": ["fail-over", "virtio_ring"],
    "fail_over": [],
    "loop_a": ["loop_b"],
    "loop_b": ["loop_a"],
}


class TestModules:
    def test_needs_come_first(self) -> None:
        order = modules.load_order(["net", "virtio_pci"], DEPENDS)
        assert order == ["fail_over", "virtio", "virtio_ring", "net", "virtio_pci"]

    @pytest.mark.parametrize(("name", "why"), [("loop_a", "itself"), ("absent", "not in")])
    def test_bad_module(self, name: str, why: str) -> None:
        with pytest.raises(GuestError, match=why):
            modules.load_order([name], DEPENDS)

    def test_modinfo_and_needs(self) -> None:
        section = b"depends=jbd2,mb-cache\0softdep=pre: crc32c absent post: late\0alias=ext3\0"
        info = modules.parse_modinfo(section)
        assert info["alias"] == ["ext3"]
        needs = modules.needs_of(info, ["jbd2", "mb_cache", "crc32c", "late"])
        assert needs == ("jbd2", "mb_cache", "crc32c")

    def test_dependency_index_lists_nearest_need_first(self) -> None:
        made = [
            modules.Module("virtio", "k/virtio.ko", b"", ()),
            modules.Module("virtio_ring", "k/virtio_ring.ko", b"", ("virtio",)),
            modules.Module("virtio_blk", "k/virtio_blk.ko", b"", ("virtio", "virtio_ring")),
        ]
        last = modules.dependency_index(made).splitlines()[-1]
        assert last == "k/virtio_blk.ko: k/virtio_ring.ko k/virtio.ko"

    def test_alias_index(self) -> None:
        module = modules.Module("crc32c_generic", "c.ko", b"", (), ("crypto-crc32c",))
        assert modules.alias_index([module]) == "alias crypto-crc32c crc32c_generic\n"

    @pytest.mark.parametrize("path", ["kernel/a/virtio-rng.ko", "virtio-rng.ko.xz"])
    def test_module_name(self, path: str) -> None:
        assert modules.module_name(path) == "virtio_rng"

    def test_builtin_modules_are_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "modules.builtin").write_text("kernel/fs/ext4.ko\n")
        assert modules.collect(tmp_path, ["ext4"]) == []


DEB822 = """\
# the main archive
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: stable stable-updates
Components: main
Architectures: amd64
Signed-By:
 -----BEGIN KEY-----
 .
 abc
 -----END KEY-----

Enabled: no
Types: deb
URIs: http://off.test/x
Suites: ./
"""


class TestSources:
    def test_deb822(self) -> None:
        first, second = sources.parse_deb822(DEB822)
        assert first["Suites"] == "stable stable-updates"
        assert first["Signed-By"].endswith(" abc\n -----END KEY-----")
        assert sources.usable(first)
        assert not sources.usable(second)

    def test_private_stanza_drops_the_architecture_and_keeps_the_key(self) -> None:
        text = sources.private_stanza(sources.parse_deb822(DEB822)[0])
        assert text.startswith("Types: deb\n")
        assert "amd64" not in text
        assert sources.parse_deb822(text)[0]["Signed-By"].count("KEY") == 2

    def test_one_line(self) -> None:
        text = (
            "# deb http://off.test a b\n"
            "deb [arch=amd64 signed-by=/k.gpg] http://m.test/debian stable main contrib # x\n"
            "deb-src http://m.test/debian stable main\n"
            "deb cdrom:[disk]/ stable main\n"
        )
        usable = [s for s in sources.parse_one_line(text) if sources.usable(s)]
        assert usable == [
            {
                "Types": "deb",
                "URIs": "http://m.test/debian",
                "Suites": "stable",
                "Components": "main contrib",
                "Signed-By": "/k.gpg",
            }
        ]

    def test_files_of_both_kinds_without_doubles(self, tmp_path: Path) -> None:
        parts = tmp_path / "parts"
        parts.mkdir()
        main = tmp_path / "sources.list"
        main.write_text("deb http://m.test/debian stable main\n")
        (parts / "again.list").write_text("deb [arch=amd64] http://m.test/debian stable main\n")
        (parts / "b.sources").write_text(DEB822)
        (parts / "c.sources.disabled").write_text("Types: deb\nURIs: http://off.test\n")
        text = sources.private_sources(sources.source_files(main, parts))
        assert text.count("URIs:") == 2
        assert "off.test" not in text

    def test_no_sources(self, tmp_path: Path) -> None:
        assert sources.private_sources(sources.source_files(tmp_path / "x", tmp_path / "y")) == ""


class TestAptConfiguration:
    def test_host_hooks_and_index_kinds_stay_behind(self) -> None:
        dump = (
            'Acquire::http::Proxy "http://proxy.test:1";\n'
            'Acquire::IndexTargets::deb::X "y";\n'
            'APT::Update::Post-Invoke:: "rm -f /x";\n'
        )
        assert apt.kept_settings(dump) == 'Acquire::http::Proxy "http://proxy.test:1";\n'

    def test_nothing_points_at_the_host_state(self) -> None:
        text = apt.configuration(Path("/p"), "ppc64el", "")
        assert 'APT::Architecture "ppc64el";' in text
        assert "/var/" not in text
        for name in ("Dir::State", "Dir::Cache", "Dir::Etc::sourceparts"):
            assert f'{name} "/p/' in text

    def test_signatures_are_not_switched_off(self) -> None:
        text = apt.configuration(Path("/p"), "ppc64el", "").lower()
        assert not any(word in text for word in ("insecure", "unauth", "trusted"))


class TestKconfig:
    def test_parse(self) -> None:
        text = '# a comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\n'
        assert kconfig.parse(text) == {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": '"x y"'}

    def test_parse_names_a_bad_line(self) -> None:
        with pytest.raises(GuestError, match="line 2"):
            kconfig.parse("CONFIG_A=y\nnonsense\n")

    def test_check(self) -> None:
        kconfig.check("CONFIG_A=y\n# CONFIG_B is not set\n", "CONFIG_A=y\nCONFIG_Z=m\n")
        with pytest.raises(GuestError, match="CONFIG_A=y"):
            kconfig.check("CONFIG_A=y\n", "# CONFIG_A is not set\n")
        with pytest.raises(GuestError, match="CONFIG_B=n"):
            kconfig.check("# CONFIG_B is not set\n", "CONFIG_B=y\n")

    def test_the_two_fragments_differ_in_byte_order_only(self) -> None:
        big = kconfig.parse(kernel.BE.fragment)
        little = kconfig.parse(kernel.LE.fragment)
        assert set(little.items()) - set(big.items()) == {("CONFIG_CPU_LITTLE_ENDIAN", "y")}
        assert not set(big) - set(little)
        for name in ("PPC_PSERIES", "HVC_CONSOLE", "VIRTIO_PCI", "VIRTIO_MMIO", "EXT4_FS"):
            assert big[f"CONFIG_{name}"] == "y"


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(kernel.PREBUILT_VARIABLE, raising=False)
    return cache.cache_root()


class TestCache:
    def test_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/c")
        assert cache.cache_root() == Path("/c/ppc64emu/guests")
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert cache.cache_root() == Path.home() / ".cache/ppc64emu/guests"

    def test_digest_keeps_parts_apart(self) -> None:
        assert cache.digest(["ab", "c"]) != cache.digest(["a", "bc"])
        assert cache.digest([b"ab"]) == cache.digest(["ab"])

    def test_entry_name_is_one_path_component(self) -> None:
        assert cache.entry_name("kernel-be", "1:6.1/2~x", "ff") == "kernel-be-1_6.1_2_x-ff"

    def test_the_two_kernels_have_different_keys(self) -> None:
        assert kernel.BE.config_hash != kernel.LE.config_hash

    def test_only_an_entry_with_the_same_hash_counts(self, private_cache: Path) -> None:
        assert kernel.cached_file(kernel.BE) is None
        other = private_cache / cache.entry_name("kernel-be", "6.1", "0" * 16) / "vmlinux"
        host.write_atomic(other, b"old")
        assert kernel.cached_file(kernel.BE) is None
        name = cache.entry_name("kernel-be", "6.1.9-1", kernel.BE.config_hash)
        host.write_atomic(private_cache / name / "vmlinux", b"new")
        assert kernel.cached_file(kernel.BE) == private_cache / name / "vmlinux"
        assert kernel.cached_file(kernel.LE) is None

    def test_stamp(self, tmp_path: Path) -> None:
        stamp = cache.Stamp(tmp_path, "inputs", ["a"])
        assert not stamp.is_current()
        (tmp_path / "a").write_bytes(b"1")
        stamp.write()
        assert stamp.is_current()
        assert not cache.Stamp(tmp_path, "others", ["a"]).is_current()
        (tmp_path / "a").write_bytes(b"22")
        assert not stamp.is_current()


class TestHost:
    def test_missing_program_names_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(GuestError, match=r"apt-get install gcc-powerpc64-linux-gnu$"):
            host.require("powerpc64-linux-gnu-gcc")

    def test_failure_is_one_line_with_the_last_words(self) -> None:
        with pytest.raises(GuestError, match="sh failed with status 3: two") as failure:
            host.run(["sh", "-c", "echo one >&2; echo two >&2; exit 3"])
        assert "\n" not in str(failure.value)

    def test_the_error_is_picked_from_a_compiler_output(self) -> None:
        said = "a.c:1:10: fatal error: x.h: No such file\ncompilation terminated.\n"
        assert host.telling_line(said) == "a.c:1:10: fatal error: x.h: No such file"
        assert host.telling_line("") == "it said nothing"

    def test_missing_cross_libc_names_its_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiler = tmp_path / "powerpc64-linux-gnu-gcc"
        compiler.write_text("#!/bin/sh\necho libc.a\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        with pytest.raises(GuestError, match=r"apt-get install libc6-dev-ppc64-cross$"):
            small_guest.require_compiler(kernel.BE)

    def test_failed_write_leaves_the_old_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "file"
        host.write_atomic(target, b"old", 0o600)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600

        def refuse(*_: object) -> None:
            raise OSError("no")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="no"):
            host.write_atomic(target, b"new")
        assert target.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


class TestGuests:
    def test_stress_data_is_fixed_and_compresses_in_part(self) -> None:
        data = busybox_guest.stress_data()
        assert len(data) == 256 << 10
        assert hashlib.sha256(data).digest() == hashlib.sha256(busybox_guest.stress_data()).digest()
        assert 0.5 < len(gzip.compress(data)) / len(data) < 0.9

    def test_busybox_initramfs(self) -> None:
        chosen = [modules.Module("virtio", "kernel/virtio.ko", b"elf", ())]
        archive = busybox_guest.initramfs("6.1-x", b"busybox", chosen)
        members = read_newc(archive.to_bytes())
        assert members["init"][0] == stat.S_IFREG | 0o755
        assert b"GUEST-READY uptime=" in members["init"][1]
        assert members["lib/modules/6.1-x/kernel/virtio.ko"][1] == b"elf"
        assert members["lib/modules/6.1-x/modules.dep"][1] == b"kernel/virtio.ko:\n"
        assert stat.S_ISCHR(members["dev/console"][0])

    def test_small_initramfs(self) -> None:
        members = read_newc(small_guest.initramfs(b"elf").to_bytes())
        assert members["init"] == (stat.S_IFREG | 0o755, b"elf", (0, 0))

    def test_prebuilt_directory_without_kernel(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv(kernel.PREBUILT_VARIABLE, str(tmp_path))
        out = tmp_path / "out"
        assert __main__.main(["--only", "be", "--out", str(out)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"guests: {kernel.PREBUILT_VARIABLE} is set")
        assert said.count("\n") == 1
        assert not out.exists()

    def test_made_once(self, tmp_path: Path) -> None:
        calls: list[Path] = []

        def make(directory: Path) -> None:
            calls.append(directory)
            host.write_atomic(directory / "vmlinux", b"x")

        wanted = __main__.Guest("le", ["vmlinux"], lambda: "h", make)
        assert __main__.bring_up_to_date(wanted, tmp_path, again=False)
        assert not __main__.bring_up_to_date(wanted, tmp_path, again=False)
        assert __main__.bring_up_to_date(wanted, tmp_path, again=True)
        assert calls == [tmp_path / "le"] * 2

    def test_no_registry_host_is_named(self) -> None:
        for path in Path(busybox_guest.__file__).parent.iterdir():
            if path.is_file():
                assert "://" not in path.read_text(), path
