"""docs/adding-a-device.md: its code, put where it says, is a device."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from devices.pci.bus import PciBus
from devices.pci.function import PciFunction
from devices.registry import describe_driver, find_driver
from devices.virtio.pci import VirtioPciFunction
from emu.chardev.config import ConfigError
from emu.chardev.factory import open_chardev
from emu.devices_build import build_devices
from emu.options import parse_command_line
from tests.support.documents import DOCS, FillDevice
from tests.support.virtio import KINDS, FakeHost

TEST_FILE = "tests/unit/test_virtio_fill.py"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> FillDevice:
    return FillDevice(monkeypatch)


class Bridge:
    """A host bridge that nothing comes out of."""

    def set_intx(self, devfn: int, pin: int, level: bool) -> None:
        pass

    def send_msi(self, function: PciFunction, address: int, data: int) -> None:
        pass


@pytest.fixture
def host() -> Iterator[FakeHost]:
    host = FakeHost()
    host.loop.start()
    yield host
    host.loop.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_of_the_page_passes(page: FillDevice, kind: tuple[object, int]) -> None:
    tests = page.tests(TEST_FILE)
    tests["test_buffers_are_filled_and_counted"](*kind)


def test_the_other_test_of_the_page_passes(page: FillDevice) -> None:
    tests = page.tests(TEST_FILE)
    assert len(tests) == 2
    tests["test_byte_out_of_range"]()


def test_its_drivers_are_there_with_help(page: FillDevice) -> None:
    for suffix in ("pci", "pci-transitional", "pci-non-transitional", "device"):
        text = describe_driver(find_driver(f"virtio-fill-{suffix}"))
        assert "byte=<uint32>" in text
        assert "what every byte is (default: 0)" in text


def command(page: FillDevice) -> list[str]:
    """The words of the page's command line."""
    text = (DOCS / "adding-a-device.md").read_text()
    start = text.index("```console\n$ ppc64emu") + len("```console\n$ ppc64emu")
    return shlex.split(text[start : text.index("```", start)])


def test_its_command_line_makes_it(page: FillDevice, host: FakeHost) -> None:
    words = command(page)
    device = words[words.index("-device") :]
    config = parse_command_line(["-M", "pseries", "-nographic", *device])
    bus = PciBus(Bridge())
    devices = build_devices(
        config, host.loop, lambda chardev: open_chardev(chardev, host.loop), host, bus
    )
    (made,) = devices.by_name.values()
    assert isinstance(made, page.module.VirtioFill)
    assert made.options.byte == 90
    assert isinstance(made.transport, VirtioPciFunction)
    devices.close()


def test_a_mistake_names_the_option(page: FillDevice, host: FakeHost) -> None:
    config = parse_command_line(["-M", "virtmmio", "-device", "virtio-fill-device,byte=256"])
    with pytest.raises(ConfigError, match=r"^-device virtio-fill-device,byte=256: 'byte' must be"):
        build_devices(config, host.loop, lambda chardev: open_chardev(chardev, host.loop), host)


def test_its_state_travels(page: FillDevice) -> None:
    module = page.module
    source, target = (
        module.VirtioFill(name, FakeHost(), module.FillOptions()) for name in ("a", "b")
    )
    source.given = 1 << 40
    for field in module.VirtioFill.STATE:
        field.set(target, field.get(source))
    assert target.given == 1 << 40
