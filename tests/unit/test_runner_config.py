"""Settings of test images, the tests that files and tables make, and their command lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.options import parse_command_line
from emu.runner.collect import Test, collect
from emu.runner.command import Emulator, emulator_arguments
from emu.runner.config import RunnerError, Settings, load_config

OWN = Emulator()


def elf(machine: int = 21, kind: int = 2, order: str = "big") -> bytes:
    """The start of an ELF file."""
    ident = b"\x7fELF\x02" + (b"\x02" if order == "big" else b"\x01") + bytes(10)
    fields = kind.to_bytes(2, order) + machine.to_bytes(2, order)  # type: ignore[arg-type]
    return (ident + fields).ljust(64, b"\0")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory of two ELF images, a raw one, and what is no image."""
    (tmp_path / "a.elf").write_bytes(elf())
    (tmp_path / "b").write_bytes(elf(order="little"))
    (tmp_path / "c.bin").write_bytes(bytes(0x104))
    (tmp_path / "object.o").write_bytes(elf(kind=1))
    (tmp_path / "host.elf").write_bytes(elf(machine=62, order="little"))
    (tmp_path / "short.elf").write_bytes(b"\x7fELF")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub").mkdir()
    return tmp_path


def configure(directory: Path, text: str) -> None:
    (directory / "tests.toml").write_text(text)


def only(tests: list[Test]) -> Test:
    (test,) = tests
    return test


def test_a_directory_gives_its_images(images: Path) -> None:
    tests = collect([str(images)])
    assert [(test.name, test.elf) for test in tests] == [
        ("a.elf", True),
        ("b", True),
        ("c.bin", False),
    ]
    assert {test.settings for test in tests} == {Settings()}


def test_a_file_that_is_given_is_an_image_whatever_it_is(images: Path) -> None:
    assert only(collect([str(images / "notes.txt")])).elf is False


def test_defaults_and_patterns_are_added_in_order(images: Path) -> None:
    configure(
        images,
        """
        defaults = { timeout = 5, cpu = "power8" }
        tests."*.elf" = { cpu = "power9", smp = 2 }
        tests."a*" = { smp = 4, memory = "1G", devices = ["virtio-rng-pci"] }
        """,
    )
    a, b, _ = (test.settings for test in collect([str(images)]))
    assert a == Settings(
        timeout=5.0, cpu="power9", smp="4", memory="1G", devices=("virtio-rng-pci",)
    )
    assert b == Settings(timeout=5.0, cpu="power8")


def test_overrides_come_between_defaults_and_tables(images: Path) -> None:
    configure(images, 'defaults.cpu = "power8"\ndefaults.smp = 2\ntests."a*".smp = 3')
    a, b, _ = (
        test.settings for test in collect([str(images)], None, {"cpu": "power9", "smp": "9"})
    )
    assert (a.cpu, a.smp) == ("power9", "3")
    assert (b.cpu, b.smp) == ("power9", "9")


def test_one_image_may_be_run_several_times(images: Path) -> None:
    configure(
        images,
        """
        tests."*.elf".cpu = "power9"
        tests.get = { image = "a.elf", append = "get" }
        tests.set = { image = "a.elf", append = "set", skip = true }
        """,
    )
    tests = collect([str(images)])
    assert [test.name for test in tests] == ["get", "set", "b", "c.bin"]
    assert tests[0].settings == Settings(cpu="power9", append="get")
    assert tests[1].settings.skip == "skipped by the configuration"


def test_firmware_is_no_image(images: Path) -> None:
    configure(images, 'defaults.firmware = "c.bin"')
    assert [test.name for test in collect([str(images)])] == ["a.elf", "b"]


def test_another_configuration_may_be_given(images: Path, tmp_path: Path) -> None:
    configure(images, "defaults.timeout = 1")
    other = tmp_path / "sub" / "other.toml"
    other.write_text("defaults.timeout = 2")
    assert {test.settings.timeout for test in collect([str(images)], other)} == {2.0}


def test_names_are_made_unique(images: Path) -> None:
    other = images / "sub"
    (other / "a.elf").write_bytes(elf())
    names = [test.name for test in collect([str(images / "a.elf"), str(other), str(other)])]
    assert names == [f"{images.name}/a.elf", "sub/a.elf#1", "sub/a.elf#2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x =", "tests.toml: "),
        ("[nonsense]", "unknown table 'nonsense' (known: defaults, tests)"),
        ("defaults.speed = 1", "defaults: unknown key 'speed'"),
        ("tests.a.speed = 1", "tests.a: unknown key 'speed'"),
        ("tests = 1", "tests: tables [tests.NAME] are needed"),
        ("tests.a = 1", "tests.a: a table is needed"),
        ("defaults.timeout = 0", "defaults: timeout: a number of seconds above 0 is needed"),
        ("defaults.timeout = nan", "timeout: a number of seconds"),
        ("defaults.timeout = true", "timeout: a number of seconds"),
        ("defaults.smp = 1.5", "smp: a string is needed"),
        ("defaults.devices = 'x'", "devices: a list of strings is needed"),
        ("defaults.devices = [1]", "devices: a string is needed"),
        ("defaults.expect = 'ok'", "expect: one of pass, fail, timeout, panic or an exit status"),
        ("defaults.expect = 256", "expect: one of pass"),
        ("defaults.boot = 'disk'", "boot: one of auto, kernel, bios is needed"),
        ('defaults.append = "a\\u0000b"', "append: a string is needed"),
        ('tests."a\\nb".smp = 1', "control characters"),
        ("tests.a.image = 3", "tests.a: image: a string is needed"),
    ],
)
def test_mistakes_in_a_configuration(images: Path, text: str, message: str) -> None:
    configure(images, text)
    with pytest.raises(RunnerError) as caught:
        load_config(images / "tests.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "tests.toml" in str(caught.value)


def test_binary_is_no_configuration(images: Path) -> None:
    (images / "tests.toml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(RunnerError):
        load_config(images / "tests.toml")


def test_a_table_needs_its_image(images: Path) -> None:
    configure(images, 'tests.x.image = "gone.elf"')
    with pytest.raises(RunnerError, match=r"tests\.x: there is no image 'gone\.elf'"):
        collect([str(images)])


@pytest.mark.parametrize("path", ["gone", "sub"])
def test_nothing_to_run_is_an_error(images: Path, path: str) -> None:
    with pytest.raises(RunnerError, match=r"No such file|no test images found"):
        collect([str(images / path)])


def arguments(images: Path, name: str, text: str, emulator: Emulator = OWN) -> str:
    """The command line of one image with these defaults, without what all have."""
    configure(images, text)
    words = emulator_arguments(only(collect([str(images / name)])), emulator)
    assert words[:5] == ["-nodefaults", "-display", "none", "-serial", "stdio"]
    return " ".join(words[5:]).replace(f"{images}/", "")


def test_command_lines(images: Path) -> None:
    exits = "-M pseries,x-test-exit=on"
    assert arguments(images, "a.elf", "") == f"{exits} -kernel a.elf"
    assert arguments(images, "c.bin", "") == f"{exits} -bios c.bin"
    assert arguments(images, "a.elf", 'defaults.boot = "bios"') == f"{exits} -bios a.elf"
    with_rom = 'defaults.firmware = "c.bin"'
    assert arguments(images, "a.elf", with_rom) == f"{exits} -kernel a.elf -bios c.bin"
    assert arguments(images, "c.bin", 'defaults.machine = "virtmmio"') == "-M virtmmio -bios c.bin"
    off = 'defaults.machine = "pseries,x-test-exit=off"'
    assert arguments(images, "c.bin", off) == "-M pseries,x-test-exit=off -bios c.bin"


def test_every_setting_reaches_the_command_line(images: Path) -> None:
    text = """
        [defaults]
        cpu = "power9"
        memory = 1024
        smp = 2
        initrd = "b"
        append = "x=y z"
        devices = ["virtio-rng-pci", "virtio-balloon-pci"]
        arguments = ["-d", "guest_errors"]
    """
    assert arguments(images, "a.elf", text) == (
        "-M pseries,x-test-exit=on -cpu power9 -m 1024 -smp 2 -kernel a.elf -initrd b -append "
        "x=y z -device virtio-rng-pci -device virtio-balloon-pci -d guest_errors"
    )


def test_other_emulators_have_no_test_exit(images: Path) -> None:
    qemu = Emulator(("qemu-system-ppc64",))
    assert arguments(images, "a.elf", "", qemu) == "-kernel a.elf"
    assert arguments(images, "a.elf", 'defaults.machine = "pseries"', qemu).startswith(
        "-M pseries "
    )


def test_our_emulator_takes_the_command_line(images: Path) -> None:
    configure(images, 'defaults.devices = ["virtio-rng-pci"]\ndefaults.cpu = "power9"')
    test = only(collect([str(images / "a.elf")]))
    config = parse_command_line(emulator_arguments(test, OWN))
    assert config.test_exit
    assert (config.cpu, config.kernel) == ("power9", str(images / "a.elf"))


@pytest.mark.parametrize(("option", "on"), [("", False), (",x-test-exit=off", False)])
def test_the_test_exit_is_off_unless_asked_for(images: Path, option: str, on: bool) -> None:
    options = ["-M", f"pseries{option}", "-kernel", str(images / "a.elf")]
    assert parse_command_line(options).test_exit is on
